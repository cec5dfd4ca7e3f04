"""What fails, fails with a reason and leaves nothing: a source that runs on, or a pod in which a cold start works."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from patience import GUARD_SECONDS

pytestmark = pytest.mark.integration


def assert_unharmed(pod: Any, before: dict[str, Any]) -> None:
    after = pod.ask("state")
    assert {**before, "count": 0} == {**after, "count": 0}
    assert not [name for name in pod.ls("/dev/shm") if name.startswith("link_remap")]
    assert not [p for p in pod.processes() if p[0] in "TtZ" or "criu" in p or "post-dump" in p]


def test_tree_that_cannot_be_dumped(pods: Any, pod_error: Any) -> None:
    source = pods()
    source.launch()
    source.listen("/run/outside.sock")
    source.ask("connect", "/run/outside.sock")
    source.accept()
    before = source.ask("state")
    with pytest.raises(pod_error, match=r"(?s)exit code 1:.*Error .*unix.*") as e:
        source.freeze("image")
    assert (e.value.reason, e.value.stage, e.value.tree_intact) == ("CriuDumpFailed", "criu", True)
    assert_unharmed(source, before)
    source.ask("disconnect")
    source.freeze("again")
    assert_unharmed(source, before)


@pytest.mark.parametrize("how", ["cancel", "timeout"])
def test_dump_given_up_at_any_moment(pods: Any, pod_error: Any, how: str) -> None:
    """Signals would do harm: SIGKILL to CRIU in the middle of a dump breaks the tree more often than not."""
    source = pods()
    source.launch(ballast_mib=100)
    before = source.ask("state")
    expected = {"cancel": "FreezeGivenUp", "timeout": "FreezeTimeout"}[how]
    given_up, whole = 0, source.freeze("whole")["timings"]["total"]
    for i in range(8):
        after = whole * i / 8
        try:
            source.freeze(f"image{i}", **({"cancel_after": after} if how == "cancel" else {"timeout": after}))
        except pod_error as e:
            given_up += 1
            assert (e.reason, e.tree_intact) == (expected, True), str(e)
        assert_unharmed(source, before)
    print(f"{given_up} of 8 dumps given up")
    assert given_up >= 1, "the one that had no time at all"
    source.freeze("image")


def test_no_room_for_the_image(pods: Any, pod_error: Any) -> None:
    source = pods()
    source.launch(ballast_mib=20)
    before = source.ask("state")
    source.sh("mkdir /run/shared/full; mount -t tmpfs -o size=4m tmpfs /run/shared/full")
    with pytest.raises(pod_error, match="No space left on device") as e:
        source.freeze("full/image")
    assert (e.value.reason, e.value.tree_intact) == ("StoreFull", True)
    assert_unharmed(source, before)


def test_process_that_left_the_tree(pods: Any, pod_error: Any) -> None:
    source = pods()
    source.launch()
    before = source.ask("state")
    stray = source.ask("fork", "stray")
    with pytest.raises(pod_error, match=rf"whose parent has died.*: {stray} \(") as e:
        source.freeze("image")
    assert (e.value.reason, e.value.tree_intact) == ("CriuDumpFailed", True)
    assert_unharmed(source, before)


def test_no_criu(pods: Any, pod_error: Any, tmp_path: Path) -> None:
    pod = pods()
    pod.launch()
    pod.freeze("image")
    for call, name in ((pod.freeze, "other"), (pod.thaw, "image")):
        with pytest.raises(pod_error, match="no program '/no/criu'") as e:
            call(name, criu="/no/criu")
        assert e.value.reason == "CriuMissing"


def test_message_never_comes_from_an_old_log(pods: Any, pod_error: Any) -> None:
    pod = pods()
    pod.launch()
    pod.sh("mkdir -p /run/vernal-test; echo 'Error: old' | tee /run/vernal-test/dump.log > /run/vernal-test/dump.out")
    with pytest.raises(pod_error, match=r"exit code 1:\n.*dump.log is empty"):
        pod.freeze("image", criu="/bin/false")


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(path: Path) -> None:
    with path.open("r+b") as f:
        f.truncate(path.stat().st_size // 2)


@pytest.mark.parametrize(
    ("name", "damage", "reason"),
    [
        ("process.json", truncate, "ManifestInvalid"),
        ("files.bin", Path.unlink, "FileMissing"),
        ("files.bin", truncate, "FileSizeMismatch"),
        ("criu/pstree.img", flip, "CriuRestoreFailed"),
        ("criu/inventory.img", truncate, "CriuRestoreFailed"),
        ("criu/pages-1.img", truncate, "ThawTimeout"),  # CRIU waits for ever: the store finds it before
        ("criu/core-10000.img", Path.unlink, "CriuRestoreFailed"),
        ("criu/mm-10001.img", truncate, "CriuRestoreFailed"),
        ("criu/files.img", truncate, "CriuRestoreFailed"),
    ],
)
def test_damaged_image(
    pods: Any, pod_error: Any, image: Path, tmp_path: Path, name: str, damage: Callable[[Path], None], reason: str
) -> None:
    shutil.copytree(image, tmp_path / "image")
    damage(tmp_path / "image" / name)
    for timeout in (3, 30, 300) if reason == "ThawTimeout" else (GUARD_SECONDS,):
        pod = pods()
        with pytest.raises(pod_error) as e:
            pod.thaw("image", timeout=timeout)
        if e.value.reason != "StoreSlow":  # on a slow machine, time may be up before CRIU is there
            break
    assert e.value.reason == reason, str(e.value)
    assert_cold_start_works(pod)


@pytest.mark.parametrize("memory", [True, False], ids=["memory to fill", "all in CRIU's images"])
def test_nothing_runs_before_it_is_verified(
    pods: Any, pod_error: Any, image: Path, tmp_path: Path, memory: bool
) -> None:
    shutil.copytree(image, tmp_path / "image")
    pod = pods()
    with pytest.raises(pod_error, match=r"core-1\.img has other bytes") as e:
        pod.thaw("image", problem="core-1.img has other bytes", memory=memory)
    assert (e.value.reason, e.value.stage) == ("DigestMismatch", "verify")
    states = pod.states_when_verified()
    assert len(states) > 3 and set(states) == {"t"}, "CRIU holds each thread"
    assert_cold_start_works(pod)


def test_what_is_verified_runs(pods: Any, image: Path, tmp_path: Path) -> None:
    shutil.copytree(image, tmp_path / "image")
    pod = pods()
    timings = pod.thaw("image")
    assert 0 <= timings["verify_wait"] < timings["criu"]
    assert pod.ask("state")


def assert_cold_start_works(pod: Any) -> None:
    assert pod.ls("/dev/shm") == []
    assert pod.processes() == []
    pod.sh("rm -f /run/tree/*")  # the engine removes a socket that is in its way
    pod.launch()
    assert pod.ask("state")["count"] == 1


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory, module_pods: Any) -> Path:
    """An image to damage copies of."""
    directory = tmp_path_factory.mktemp("image")
    source = module_pods(directory)
    source.launch()
    source.freeze("image")
    source.end()
    return directory / "image"


def test_pid_taken(pods: Any, pod_error: Any, image: Path, tmp_path: Path) -> None:
    shutil.copytree(image, tmp_path / "image")
    pod = pods()
    pod.take_pid(10_001)
    with pytest.raises(pod_error, match=r"in use here: 10001 \(sleep") as e:
        pod.thaw("image")
    assert (e.value.reason, e.value.stage) == ("CriuRestoreFailed", "pids")
    assert [p.split()[1] for p in pod.processes()] == ["sleep"], "what was there is left alone"


def test_shared_memory_in_the_way_or_too_small(pods: Any, pod_error: Any, image: Path, tmp_path: Path) -> None:
    shutil.copytree(image, tmp_path / "image")
    pod = pods()
    pod.sh("echo mine > /dev/shm/psm_subject")
    with pytest.raises(pod_error, match="/dev/shm/psm_subject: File exists") as e:
        pod.thaw("image")
    assert (e.value.reason, e.value.stage) == ("ShmFailed", "files")
    assert pod.sh("cd /dev/shm; ls; cat psm_subject") == "psm_subject\nmine\n"
    pod.sh("rm /dev/shm/*; mount -o remount,size=8k /dev/shm")
    with pytest.raises(pod_error, match=r"64 MiB needed.*0 MiB free") as e:
        pod.thaw("image")
    assert e.value.reason == "ShmFailed"
    pod.sh("mount -o remount,size=1g /dev/shm")
    assert_cold_start_works(pod)


@pytest.mark.parametrize("how", ["cancel", "timeout"])
def test_thaw_given_up_at_any_moment(pods: Any, pod_error: Any, image: Path, tmp_path: Path, how: str) -> None:
    shutil.copytree(image, tmp_path / "image")
    pod = pods()
    expected = {"cancel": ["ThawGivenUp"], "timeout": ["ThawTimeout", "StoreSlow"]}[how]  # that while it reads
    given_up, whole = 0, pod.thaw("image")["total"]
    pod.kill()
    pod.sh("rm -f /dev/shm/* /run/tree/*")
    for i in range(8):
        after = whole * i / 8
        try:
            pod.thaw("image", **({"cancel_after": after} if how == "cancel" else {"timeout": after}))
        except pod_error as e:
            given_up += 1
            assert e.reason in expected, str(e)
        else:
            pod.kill()
            pod.sh("rm -f /dev/shm/*")
        pod.sh("rm -f /run/tree/*")
        assert pod.ls("/dev/shm") == []
        assert pod.processes() == []
    print(f"{given_up} of 8 thaws given up")
    assert given_up >= 1, "the one that had no time at all"
    assert_cold_start_works(pod)
