"""Doing something while CRIU waits."""

import os
from pathlib import Path

GO, STOP = b"go\n", b"stop\n"


class Hook:
    """CRIU's action script: at one stage of a dump or restore, with the tree standing still, it asks us through one
    FIFO and waits for the answer on another. Stages: https://criu.org/Action_scripts."""

    def __init__(self, work_dir: Path, stage: str) -> None:
        self.script = work_dir / f"{stage}.sh"
        self._stage = stage
        self._ask, self._answer = work_dir / "ask.fifo", work_dir / "answer.fifo"

    def __enter__(self) -> "Hook":
        self._remove()
        for fifo in (self._ask, self._answer):
            os.mkfifo(fifo, 0o600)
        # Read and write, so that neither side waits for the other to open it.
        self.asked = os.open(self._ask, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._answering = os.open(self._answer, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self.script.write_text(
            "#!/bin/sh\n"
            f'[ "$CRTOOLS_SCRIPT_ACTION" = {self._stage} ] || exit 0\n'
            'cd "${0%/*}" && echo here > ask.fifo && read answer < answer.fifo && [ "$answer" = go ]\n'
        )
        self.script.chmod(0o700)
        return self

    def is_asked(self) -> bool:
        try:
            return bool(os.read(self.asked, 64))
        except BlockingIOError:
            return False

    def answer(self, line: bytes) -> None:
        """`GO`, or `STOP`: then a dump is undone, and a restore is for the caller to end."""
        os.write(self._answering, line)

    def __exit__(self, *_: object) -> None:
        os.close(self.asked)
        os.close(self._answering)
        self._remove()

    def _remove(self) -> None:
        for path in (self.script, self._ask, self._answer):
            path.unlink(missing_ok=True)
