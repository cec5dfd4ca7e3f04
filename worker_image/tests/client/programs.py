"""Programs that use the library, and what they leave behind."""

import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

THROUGHPUT = Path(__file__).parent / "throughput.py"
README = Path(__file__).parents[2] / "vernal_worker/client/README.md"
ENGINE_ARGS = {
    "dtype": "float32",
    "max_model_len": 1024,
    "num_gpu_blocks_override": 64,
    "kv_cache_memory_bytes": 256 << 20,
    "enforce_eager": True,
    "scheduler_cls": "vernal_worker.engine.holding.HoldingScheduler",  # requests can be held in flight
}


def small() -> dict[str, str]:
    """Variables of the environment: a tiny model needs few cores, and what shapes the engine must be the same in all
    programs that use one checkpoint."""
    from images.criu import criu_path

    return {"VERNAL_CRIU": str(criu_path()), "OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}


@dataclass(frozen=True)
class Frozen:
    """A checkpoint in `directory`, and what the engine answered before it was frozen."""

    place: Path
    answer: str

    @property
    def directory(self) -> Path:
        return self.place / "checkpoints"

    @property
    def model(self) -> Path:
        return self.place / "model"

    @property
    def program(self) -> Path:
        return self.place / "program.py"


def freeze_with_readme(place: Path, engine_args: Mapping[str, Any] = ENGINE_ARGS) -> Frozen:
    """Run the README's program in `place`, on the model that is there."""
    (text,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    (place / "program.py").write_text(text)
    frozen = Frozen(place, "")
    arguments = ("freeze", str(frozen.directory), str(frozen.model), json.dumps(engine_args))
    return Frozen(place, run(frozen.program, *arguments))


def run(program: Path, *arguments: str) -> str:
    """What the program printed."""
    done = subprocess.run(
        [sys.executable, str(program), *arguments], capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def report(output: str) -> str:
    """The lines of `THROUGHPUT`'s output that say something; vLLM's log is among them."""
    lines = [line for line in output.splitlines() if line.startswith(("turn ", "first token", "ratio "))]
    assert lines[-1].startswith("ratio "), output
    return "\n".join(lines)


def keeper_of(program: int) -> int:
    """The PID, on this machine, of process 1 of the engine that `program` has."""
    for child in children(program):
        if b"vernal_worker.client.keeper" in _cmdline(child):  # unshare's, which waits for the keeper
            (keeper,) = children(child)
            return keeper
    raise LookupError(f"{program} has no engine")


def children(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):  # a thread that has ended since
            found += map(int, (task / "children").read_text().split())
    return found


class Namespace:
    """A process's PID namespace, held open: otherwise its number may soon be another's."""

    def __init__(self, pid: int) -> None:
        self._descriptor = os.open(f"/proc/{pid}/ns/pid", os.O_RDONLY)
        self._name = str(Path(f"/proc/{pid}/ns/pid").readlink())

    def processes(self) -> dict[int, str]:
        """Those inside, and their command lines; none that has ended, and that its parent has yet to look at."""
        found: dict[int, str] = {}
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and str((entry / "ns/pid").readlink()) == self._name and not _ended(entry):
                    found[int(entry.name)] = _cmdline(int(entry.name)).decode(errors="replace")
        return found

    def close(self) -> None:
        os.close(self._descriptor)


def _ended(process: Path) -> bool:
    return (process / "stat").read_text().rpartition(")")[2].split()[0] in "ZX"


def _cmdline(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
    except OSError:
        return b""
