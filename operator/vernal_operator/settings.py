"""What can be set on the command line, and nothing else."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of one operator process.

    Attributes:
        namespace: the only namespace to watch; None for all.
        threads: reconciles at once.
        admin_port: of workers, where `GET /state` is.
        waker: namespace and name of the waker's Service; None without a waker.
    """

    namespace: str | None = None
    threads: int = 4
    admin_port: int = 9100
    waker: tuple[str, str] | None = None
