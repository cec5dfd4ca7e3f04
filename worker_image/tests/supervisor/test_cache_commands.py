"""`vernal-worker cache fill` as the operator's Jobs run it."""

import fcntl
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from patience import GUARD_SECONDS, until
from vernal_contract import state
from vernal_contract.identity import HostTuple, IdentityInputs, digest
from vernal_contract.state import CacheFill, CacheLookup, NodeCacheReport
from vernal_worker import cache_commands, cli
from vernal_worker.store.artifact import Artifact
from vernal_worker.store.node_cache import FILLING, FORMAT, NodeCache
from vernal_worker.store.store import Store
from vernal_worker.supervisor.exits import ExitCode

INPUTS = IdentityInputs(image_id="i", engine_args={}, engine_env={}, model="m", weights="InImage", versions={})
HOST = HostTuple(architecture="x86_64", cpu_features=(), kernel="6.18")
WHICH = ("--identity", digest(INPUTS), "--host", digest(HOST))
LARGE = 1 << 40

Run = Callable[..., tuple[int, str, str, NodeCacheReport | None]]


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    root = tmp_path / "store"
    root.mkdir()
    staging = Store(root).stage(INPUTS, HOST)
    (staging.dir / "memory.img").write_bytes(b"x" * 3_000_000)
    return staging.publish(created_by="a").artifact


@pytest.fixture
def run(
    tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Run]:
    log, before = tmp_path / "termination-log", signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(cache_commands, "TERMINATION_LOG", log)

    def run(*arguments: object, **options: object) -> tuple[int, str, str, NodeCacheReport | None]:
        """Exit code, what it printed, and its last words."""
        log.write_text("")
        given = {"store": tmp_path / "store", "cache": place, "size": LARGE} | options
        told = [f"--{name}={value}" for name, value in given.items() if value is not None]
        with pytest.raises(SystemExit) as end:
            cli.main(["cache", "fill", *map(str, arguments or WHICH), *told])
        printed = capsys.readouterr()
        assert isinstance(end.value.code, int)
        return end.value.code, printed.out, printed.err, state.decode_cache(log.read_text())

    yield run
    signal.signal(signal.SIGTERM, before)


def test_it_fills_once_and_then_finds_it_there(run: Run, artifact: Artifact, place: Path) -> None:
    code, out, _, said = run(*WHICH, "--generation", artifact.generation)
    assert (code, said and said.fill) == (0, CacheFill.FILLED) and "3 MB copied" in out
    assert said is not None and (said.filled_bytes, said.evicted_bytes) == (artifact.bytes, 0) and said.told_at > 0
    view = NodeCache(place, LARGE).look(artifact.manifest)
    assert view is not None
    view.release()
    code, out, _, said = run()
    assert (code, said and (said.lookup, said.fill)) == (0, (CacheLookup.HIT, None)) and "it is there" in out


def test_from_a_store_that_may_only_be_read(run: Run, artifact: Artifact, tmp_path: Path) -> None:
    """Nothing is written there: a claim is mounted read-only."""
    before = {path: path.lstat().st_mtime_ns for path in (tmp_path / "store").rglob("*")}
    assert run()[0] == 0
    assert {path: path.lstat().st_mtime_ns for path in (tmp_path / "store").rglob("*")} == before


def test_no_room_is_said_with_the_next_step(run: Run, artifact: Artifact) -> None:
    code, _, err, said = run(size=1000)
    assert code == ExitCode.INTERNAL and "raise nodeCache.size" in err
    assert said is not None and said.fill is CacheFill.FULL and "bytes are needed" in said.message


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda artifact: shutil.rmtree(artifact.path.parent), "no artifact is current"),
        (lambda artifact: (artifact.path / "memory.img").write_bytes(b"y" * 3_000_000), "DigestMismatch"),
        (lambda artifact: (artifact.path / "manifest.json").write_text("{"), "ManifestInvalid"),
    ],
)
def test_what_the_store_does_not_have_whole_is_not_filled(
    run: Run, artifact: Artifact, place: Path, spoil: Callable[[Artifact], object], says: str
) -> None:
    spoil(artifact)
    code, _, err, said = run()
    assert code == ExitCode.INTERNAL and says in err and said is not None and said.fill is CacheFill.FAILED
    assert NodeCache(place, LARGE).look(artifact.manifest) is None


def test_of_another_generation_nothing_is_copied(run: Run, artifact: Artifact, place: Path) -> None:
    code, _, _, said = run(*WHICH, "--generation", "older")
    assert code == ExitCode.INTERNAL and said is not None and "is current now, and not older" in said.message
    assert not list(place.iterdir())


@pytest.mark.parametrize(
    ("arguments", "options", "says"),
    [
        ((), {"cache": "/nowhere"}, "say with --cache"),
        ((), {"cache": None}, "say with --cache"),
        ((), {"size": None}, "say with --size"),
        ((), {"size": "much"}, "not a number of bytes"),
        ((), {"store": "/nowhere"}, "say where it is with --store"),
        (("--identity", "x"), {}, "is not an identity"),
        ((), {"bucket": "ftp://x/y"}, "ftp://x/y"),
    ],
)
def test_what_is_wrong_with_the_command_line_is_said(
    run: Run, artifact: Artifact, arguments: tuple[str, ...], options: dict[str, object], says: str
) -> None:
    code, _, err, said = run(*(arguments or WHICH), **options)
    assert code == ExitCode.USAGE and says in err and said is None


def test_from_a_bucket_straight_to_the_cache(run: Run, artifact: Artifact, place: Path, tmp_path: Path) -> None:
    (tmp_path / "bucket").mkdir()
    url = f"file://{tmp_path}/bucket"
    with pytest.raises(SystemExit) as end:
        cli.main(["bucket", "push", url, "--store", str(tmp_path / "store")])
    assert end.value.code == 0
    (tmp_path / "copy").mkdir()
    code, out, _, said = run(store=tmp_path / "copy", bucket=url)
    assert code == 0 and said is not None and said.fill is CacheFill.FILLED and "3 MB fetched" in out
    assert said.filled_bytes == artifact.bytes
    with NodeCache(place, LARGE).look(artifact.manifest) as view:  # type: ignore[union-attr]
        Artifact(view.path, artifact.manifest).verify()
    code, _, _, said = run(store=None, bucket=url)
    assert code == 0 and said is not None and said.lookup is CacheLookup.HIT
    assert not list((tmp_path / "copy").iterdir()), "an operator of before mounts it all the same"


@pytest.mark.parametrize(("harm", "says"), [("gone", "FileMissing"), ("cut short", "DigestMismatch")])
def test_what_the_bucket_does_not_have_whole_is_not_filled(
    run: Run, artifact: Artifact, place: Path, tmp_path: Path, harm: str, says: str
) -> None:
    (tmp_path / "bucket").mkdir()
    url = f"file://{tmp_path}/bucket"
    with pytest.raises(SystemExit):
        cli.main(["bucket", "push", url, "--store", str(tmp_path / "store")])
    (piece,) = [path for path in (tmp_path / "bucket").rglob("pieces/**/*") if path.is_file()]
    if harm == "gone":
        piece.unlink()
    else:
        piece.write_bytes(piece.read_bytes()[:-1])
    code, _, err, said = run(store=None, bucket=url)
    assert code == ExitCode.INTERNAL and says in err and said is not None and said.fill is CacheFill.FAILED
    assert NodeCache(place, LARGE).look(artifact.manifest) is None


def test_a_pod_that_is_told_to_stop_ends(artifact: Artifact, place: Path, tmp_path: Path) -> None:
    """While another one fills, for which it waits."""
    (place / FORMAT).mkdir()
    with (place / FORMAT / FILLING).open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        command = ["cache", "fill", *WHICH, f"--store={tmp_path}/store", f"--cache={place}", f"--size={LARGE}"]
        one = subprocess.Popen(
            [sys.executable, "-c", f"from vernal_worker import cli; cli.main({command!r})"],
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            until("it waits", lambda: (place / FORMAT / "busy").exists())
            one.send_signal(signal.SIGTERM)
            _, err = one.communicate(timeout=GUARD_SECONDS)
        finally:
            one.kill()
    assert one.returncode == ExitCode.INTERNAL and "ThawGivenUp" in err, err


def test_its_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["cache", "fill", "--help"])
    said = capsys.readouterr().out
    assert "nodeCache.prefetch" in said and "exit codes:" in said and "--generation" in said


def test_last_words_fit_into_a_status_whatever_they_say() -> None:
    told = state.encode_cache(NodeCacheReport(message="\N{GRINNING FACE}" * 5000))
    assert len(told) <= 4096 and state.decode_cache(told.decode()) is not None
    assert state.decode_cache("") is None and state.decode_cache("Killed") is None
