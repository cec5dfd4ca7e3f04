"""One flipped bit anywhere in the checkpoint of a real engine is found before anything is mapped."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from vernal_contract import names
from vernal_contract.identity import digest
from vernal_contract.reasons import Reason
from vernal_worker.store import manifest
from vernal_worker.store.artifact import Artifact, load
from vernal_worker.store.errors import StoreError
from vernal_worker.store.manifest import FileEntry
from vernal_worker.supervisor.identity import _key_id
from worker_pod import Pod

StartPod = Callable[..., Pod]


def positions(size: int) -> list[int]:
    return sorted({0, size // 2, size - 1})


def flip(fd: int, position: int) -> None:
    (byte,) = os.pread(fd, 1, position)
    os.pwrite(fd, bytes([byte ^ 1]), position)


def only(artifact: Artifact, entry: FileEntry, place: Path) -> Artifact:
    """The artifact as if `entry` were its only file, in a copy: so that a flip costs the reading of one file."""
    copy = place / entry.path
    copy.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(artifact.path / entry.path, copy)
    return Artifact(place, msgspec.structs.replace(artifact.manifest, files=(entry,)))


def test_a_flipped_bit_at_start_middle_and_end_of_every_file(
    creator: Pod, store: Path, tmp_path: Path, say: Callable[[str], None]
) -> None:
    (current,) = store.glob("artifacts/*/*/current")
    artifact = load(current.resolve())
    flips = 0
    for number, entry in enumerate(artifact.manifest.files):
        if entry.size == 0:
            continue
        single = only(artifact, entry, tmp_path / str(number))
        single.verify()
        fd = os.open(single.path / entry.path, os.O_RDWR)
        for position in positions(entry.size):
            flip(fd, position)
            with pytest.raises(StoreError) as error:
                single.verify()
            assert error.value.reason is Reason.DIGEST_MISMATCH and entry.path in error.value.message
            flip(fd, position)
            flips += 1
        single.verify()  # the flips were what was found, and nothing else is wrong
        os.close(fd)
        shutil.rmtree(single.path)
    manifest = artifact.path / "manifest.json"
    copy = tmp_path / artifact.generation
    copy.mkdir()
    for position in positions(manifest.stat().st_size):
        data = bytearray(manifest.read_bytes())
        data[position] ^= 1
        (copy / "manifest.json").write_bytes(data)
        with pytest.raises(StoreError) as error:
            load(copy)
        assert error.value.reason is Reason.MANIFEST_INVALID
        flips += 1
    say(f"{flips} flipped bits in {len(artifact.manifest.files) + 1} files, all found")
    assert flips > 2 * len(artifact.manifest.files)


@pytest.mark.parametrize("verify", ["Full", "Sizes"])
def test_the_description_of_the_processes_is_verified_before_it_is_acted_upon(
    creator: Pod, store: Path, start_pod: StartPod, tmp_path: Path, verify: str
) -> None:
    """A worker clears /dev/shm of files that it names."""
    copy = tmp_path / "store"
    shutil.copytree(store, copy, symlinks=True, copy_function=os.link)
    (file,) = copy.glob("artifacts/*/*/current/process/process.json")
    data = file.read_bytes()
    names = [entry["path"] for entry in msgspec.json.decode(data)["files"] if entry["path"].startswith("/dev/shm/")]
    name = max(names, key=len)
    other = f"/dev/shm/{'x' * (len(name) - len('/dev/shm/'))}"
    file.unlink()
    file.write_bytes(data.replace(name.encode(), other.encode()))
    pod = start_pod(copy, setup=f"touch {other}", checkpoint={"verify": verify})
    pod.wait_log("event=engine_start")
    (failure,) = pod.state().restore_failures
    assert (failure.stage, failure.reason) == ("verify", Reason.DIGEST_MISMATCH)
    assert "process.json" in failure.message
    assert Path(other).name in pod.files("/dev/shm")


KEY = b"sesame"
NOTED = r"""
cat > /run/criu <<END
#!/bin/sh
case " \$* " in *" restore "*) ;; *) exec $VERNAL_CRIU "\$@" ;; esac
echo begun >> /run/restored
$VERNAL_CRIU "\$@"
code=\$?
echo "exit code \$code" >> /run/restored
exit \$code
END
chmod 755 /run/criu
export VERNAL_CRIU=/run/criu
"""
"""A setup that notes in a file whether CRIU began to restore and how it ended: with 0 once the processes run."""


NAME, OTHER_NAME = b"VLLM::EngineCor", b"vllm::EngineCor"
"""Of a process, which is kept beside its registers (`comm` in images/core.proto)."""


def signed(store: Path) -> None:
    """The artifact as if its creator had had the key."""
    (current,) = store.glob("artifacts/*/*/current")
    artifact = current.resolve()
    found = load(artifact).manifest
    inputs = msgspec.structs.replace(found.identity_inputs, signing_key=_key_id(KEY))
    other = msgspec.structs.replace(found, identity=digest(inputs), identity_inputs=inputs)
    (artifact / "manifest.json").unlink()
    (artifact / "manifest.json").write_bytes(manifest.encode(other, KEY))
    place = artifact.parents[1]
    place.rename(place.with_name(other.identity[: len(place.name)]))


@pytest.mark.parametrize("key", [None, KEY], ids=["without a key", "with a key"])
def test_an_engine_whose_registers_were_altered_never_runs(
    creator: Pod, store: Path, start_pod: StartPod, tmp_path: Path, key: bytes | None
) -> None:
    """Registers and credentials are in an image that CRIU takes as it is. With a key it does not even see it."""
    copy = tmp_path / "store"
    shutil.copytree(store, copy, symlinks=True, copy_function=os.link)
    if key is not None:
        signed(copy)
    images = copy.glob("artifacts/*/*/current/process/criu/core-*.img")
    file, data = next((file, data) for file in images if (NAME in (data := file.read_bytes())))
    file.unlink()
    file.write_bytes(data.replace(NAME, OTHER_NAME))  # which CRIU takes as gladly
    pod = start_pod(copy, setup=NOTED, environment={names.ENV_SIGNING_KEY: key.decode()} if key is not None else {})
    pod.wait_log("event=engine_start")
    (failure,) = pod.state().restore_failures
    assert (failure.stage, failure.reason) == ("verify", Reason.DIGEST_MISMATCH)
    assert file.name in failure.message
    noted = Path(f"/proc/{pod.init}/root/run/restored")
    text = noted.read_text() if noted.exists() else ""
    assert "exit code 0" not in text
    assert key is None or not text
