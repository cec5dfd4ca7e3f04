"""What can be set on the command line, and nothing else."""

from dataclasses import dataclass

from vernal_operator.build.pod import NodeCache

WATCH_SILENCE_SECONDS = 150.0
"""Bookmarks come about once a minute."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of one operator process.

    Attributes:
        namespace: the only namespace to watch; None for all.
        threads: reconciles at once.
        admin_port: of workers, where `GET /state` is.
        waker: namespace and name of the waker's Service; None without a waker.
        node_cache: of each node; None without one.
        watch_silence: seconds without a word after which a watch counts as broken.
    """

    namespace: str | None = None
    threads: int = 4
    admin_port: int = 9100
    waker: tuple[str, str] | None = None
    node_cache: NodeCache | None = None
    watch_silence: float = WATCH_SILENCE_SECONDS
