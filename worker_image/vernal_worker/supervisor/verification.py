"""Looking at every byte of an artifact while CRIU already restores from it, and before any of it runs."""

import threading
import time
from collections.abc import Collection

from vernal_contract.config import Verify
from vernal_contract.reasons import Reason

from vernal_worker.store.artifact import Artifact
from vernal_worker.store.errors import StoreError
from vernal_worker.supervisor import pace
from vernal_worker.supervisor.board import Board

_LATE_SECONDS = 2.0


class Verification:
    """Runs on a thread of its own: from the constructor on if there are files that come first, else from `start` on. A
    thread that digests takes the interpreter from the others, and there is time while CRIU works. No process of the
    artifact may run before `finish` returns."""

    def __init__(
        self,
        artifact: Artifact,
        level: Verify,
        board: Board,
        *,
        except_content: Collection[str],
        first: Collection[str] = (),
        timeout: float,
        cancel: threading.Event,
    ) -> None:
        """The arguments are those of `Artifact.verify`; how long it took becomes timing `verify`. `first`: files whose
        bytes are looked at before those of all others, for `wait_first`."""
        self._deadline = time.monotonic() + timeout
        self._timeout = timeout
        self.give_up = _Either(cancel)
        """Set when `cancel` is, or when something is wrong: then there is no use in going on with the thaw."""
        self._error: BaseException | None = None
        self._first = threading.Event()

        def run() -> None:
            began = time.monotonic()

            def progress(done: int, size: int) -> None:
                now = time.monotonic()
                if (problem := pace.hopeless(done, size, now - began, self._deadline - now)) is not None:
                    raise StoreError(Reason.STORE_SLOW, "verify", problem)

            try:
                with board.timed("verify"):
                    if first:
                        artifact.verify_files(first, timeout=timeout, cancel=cancel)
                    self._first.set()
                    artifact.verify(
                        level,
                        except_content={*except_content, *first},
                        timeout=timeout,
                        cancel=cancel,
                        on_progress=progress,
                    )
            except BaseException as error:
                self._error = error
                self.give_up.set()
                self._first.set()

        self._thread = threading.Thread(target=run, name="verify", daemon=True)
        if first:
            self.start()

    def start(self) -> None:
        """Begin, if that was not done yet."""
        if self._thread.ident is None:
            self._thread.start()

    def wait_first(self) -> None:
        """Wait until the files that come first were looked at.

        Raises:
            StoreError: see `Artifact.verify_files`.
        """
        self.start()
        if not self._first.wait(self._left):
            raise self._slow()
        if self._error is not None:
            raise self._error

    def finish(self) -> None:
        """Wait until everything was looked at.

        Raises:
            StoreError: see `Artifact.verify`.
        """
        if (error := self._wait()) is not None:
            raise error

    def problem(self) -> StoreError | None:
        """What `finish` would raise about the artifact: the reason behind whatever else went wrong."""
        error = self._wait()
        return error if isinstance(error, StoreError) else None

    def _wait(self) -> BaseException | None:
        """It minds its time-out itself, unless the storage does not let it."""
        self.start()
        self._thread.join(self._left)
        return self._slow() if self._thread.is_alive() else self._error

    @property
    def _left(self) -> float:
        return max(0.0, self._deadline - time.monotonic()) + _LATE_SECONDS

    def _slow(self) -> StoreError:
        return StoreError(Reason.STORE_SLOW, "verify", f"the storage has not answered for {self._timeout:g} s")


class _Either(threading.Event):
    """Is set when it or another event is."""

    def __init__(self, other: threading.Event) -> None:
        super().__init__()
        self._other = other

    def is_set(self) -> bool:
        return super().is_set() or self._other.is_set()
