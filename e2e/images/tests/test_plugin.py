"""The kubectl plugin as one file: built, and run from a folder that has nothing else."""

import os
import subprocess
import sys
from pathlib import Path

from images.tools import ROOT


def test_the_file_runs_by_itself(tmp_path: Path) -> None:
    file = tmp_path / "bin" / "kubectl-vernal"
    build: list[str | Path] = [sys.executable, ROOT / "e2e" / "images" / "plugin.py", file]
    subprocess.run(build, check=True, capture_output=True)
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "SHIV_ROOT": str(tmp_path / "unpacked")}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [file, *words], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
        )

    assert "explain" in run("--help").stdout
    assert run("__complete", "sta").stdout.startswith("status\t")
    without = run("status")
    assert (without.returncode, without.stdout) == (3, "") and "KUBECONFIG" in without.stderr
