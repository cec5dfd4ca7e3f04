"""What CRIU finds out about the kernel is there for the next CRIU, wherever `/run` is."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from patience import until
from vernal_worker.checkpoint import probing

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


def test_what_another_kernel_left_goes(criu: Path, tmp_path: Path) -> None:
    (tmp_path / "criu.kdat").write_bytes(b"of another kernel")
    script = SCRIPT.format(cover=COVER["disk"])
    command = [*IN_ITS_OWN_MOUNTS, script, "sh", str(tmp_path), sys.executable, PROBE, str(criu)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "Loaded kdat cache from /run/criu.kdat" in run.stdout + run.stderr
    assert (tmp_path / "criu.kdat").read_bytes() != b"of another kernel"
    run = subprocess.run([*command[:-1], str(tmp_path / "absent")], capture_output=True, text=True, check=True)
    assert list(tmp_path.iterdir()) == [], "rather nothing than what is old"


def test_one_that_hangs_is_ended_with_all_that_it_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "_SECONDS", 0.1)
    criu, begun = tmp_path / "criu", tmp_path / "begun"
    os.mkfifo(begun)
    criu.write_text(f"#!/bin/sh\nexec 3<>{begun}\necho $$ > {begun}.pid\nread never <&3\n")
    criu.chmod(0o755)
    pid = probing.begin(str(criu))
    until("CRIU to hang", lambda: Path(f"{begun}.pid").exists() and Path(f"{begun}.pid").read_text().endswith("\n"))
    probing.wait(pid)
    hung = int(Path(f"{begun}.pid").read_text())
    until("it to be gone", lambda: not Path(f"/proc/{hung}/exe").exists())
    with pytest.raises(ChildProcessError):
        os.waitpid(pid, 0)
    probing.wait(pid)  # and nobody minds


def test_without_criu_nothing_is_left(tmp_path: Path) -> None:
    script = SCRIPT.format(cover=COVER["disk"]).replace('"$4" check', "true")
    command = [*IN_ITS_OWN_MOUNTS, script, "sh", str(tmp_path), sys.executable, PROBE, str(tmp_path / "absent")]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert run.stdout == ""
    assert list(tmp_path.iterdir()) == []
