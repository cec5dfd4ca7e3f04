"""Whole programs: the README's, one that is killed, and how fast the library is."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
from patience import until
from programs import THROUGHPUT, Frozen, Namespace, keeper_of, report, run


def test_the_program_in_the_readme(frozen: Frozen) -> None:
    source = frozen.program.read_text()
    ast.parse(source)
    assert len([line for line in source.splitlines() if line.strip()]) <= 20
    assert len(frozen.answer) > 10
    assert run(frozen.program, "thaw", str(frozen.directory)) == frozen.answer


KILLED = """
import asyncio, signal, sys
from vernal_worker.client import CheckpointableAsyncLLM
async def main():
    llm = await CheckpointableAsyncLLM.thaw(sys.argv[1])
    print("up", flush=True)
    signal.pause()
asyncio.run(main())
"""


def test_a_killed_program_leaves_no_orphan(frozen: Frozen, tmp_path: Path) -> None:
    def left() -> list[Path]:
        return list(tmp_path.glob("vernal-*"))

    program = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(frozen.directory)],
        stdout=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert program.stdout is not None and program.stdout.readline() == b"up\n"
    namespace = Namespace(keeper_of(program.pid))
    assert len(namespace.processes()) > 3 and left()
    program.kill()
    program.wait()
    until("nothing to be left", lambda: not namespace.processes() and not left())
    namespace.close()


@pytest.mark.alone
def test_throughput_beside_async_llm(frozen: Frozen) -> None:
    """In turns with an AsyncLLM of the same program: every token came, and what both took is shown."""
    print(report(run(THROUGHPUT, str(frozen.directory), str(frozen.model))))
