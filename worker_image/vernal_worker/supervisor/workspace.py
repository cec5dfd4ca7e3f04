"""What an engine of this worker uses and leaves behind: directories, files, processes."""

from contextlib import suppress
from pathlib import Path

from vernal_worker.checkpoint.tree import ProcessTree
from vernal_worker.supervisor import leftovers
from vernal_worker.supervisor.context import Context
from vernal_worker.supervisor.engine import Engine


class Workspace:
    """One engine at a time."""

    def __init__(self, context: Context) -> None:
        self._paths, self._stop, self._reaper = context.settings.paths, context.stop, context.reaper
        self._shm_before: frozenset[str] | None = None

    def prepare(self) -> None:
        """Make the directories, empty."""
        paths = self._paths
        for directory in (paths.root, paths.tmp, paths.cache, paths.criu):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        paths.root.chmod(0o700)
        self._shm_before = leftovers.first_seen(paths.root)
        self.clean()

    def engine(self, tree: ProcessTree) -> Engine:
        """Take a tree over."""
        self._reaper.leave_alone(tree.pid)
        return Engine(tree, str(self._paths.socket), self._stop.signalled, self._stop.at_once)

    def discard(self, engine: Engine | None) -> None:
        """End an engine, and remove its files."""
        if engine is not None:
            engine.destroy()
        self.clean()

    def clean(self) -> None:
        """Remove the files of an engine that is gone, so that another one can start or be thawed here."""
        self._paths.socket.unlink(missing_ok=True)
        for directory in self._paths.carried:
            empty(directory)
        if self._shm_before is not None:
            leftovers.sweep(self._shm_before)


def empty(directory: Path) -> None:
    """Remove what is in a directory."""
    with suppress(FileNotFoundError):
        for entry in directory.iterdir():
            if not entry.is_dir() or entry.is_symlink():
                entry.unlink()
                continue
            import shutil  # here: a worker that starts finds no directory, and need not wait for this

            shutil.rmtree(entry)
