"""What CRIU finds out about the kernel is there for the next CRIU, wherever `/run` is."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: CRIU")

IN_ITS_OWN_MOUNTS = ["unshare", "--mount", "sh", "-ec"]
COVER = {"tmpfs": "mount -n -t tmpfs vernal-test /run", "disk": 'mount -n --bind "$1" /run'}
PROBE = """
import os, sys
from vernal_worker.checkpoint import probing
os.waitpid(probing.begin(sys.argv[1]), 0)
"""
SCRIPT = """
{cover}
"$2" -c "$3" "$4"
ls -A /run
"$4" check --feature mem_dirty_track -v4 || true
"""


@pytest.mark.parametrize("kind", COVER)
def test_the_next_criu_does_not_look_again(kind: str, criu: Path, tmp_path: Path) -> None:
    script = SCRIPT.format(cover=COVER[kind])
    command = [*IN_ITS_OWN_MOUNTS, script, "sh", str(tmp_path), sys.executable, PROBE, str(criu)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert run.stdout.split()[:1] == ["criu.kdat"], run.stdout + run.stderr
    assert "Loaded kdat cache from /run/criu.kdat" in run.stdout + run.stderr
    assert [path.name for path in tmp_path.iterdir()] == (["criu.kdat"] if kind == "disk" else [])


def test_without_criu_nothing_is_left(tmp_path: Path) -> None:
    script = SCRIPT.format(cover=COVER["disk"]).replace('"$4" check', "true")
    command = [*IN_ITS_OWN_MOUNTS, script, "sh", str(tmp_path), sys.executable, PROBE, str(tmp_path / "absent")]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert run.stdout == ""
    assert list(tmp_path.iterdir()) == []
