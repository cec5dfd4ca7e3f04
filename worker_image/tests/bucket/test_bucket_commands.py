"""`vernal-worker bucket` as people use it."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace
from object_store.server import S3Server
from vernal_contract import names
from vernal_contract.identity import HostTuple, IdentityInputs, digest
from vernal_worker import cli
from vernal_worker.bucket import credentials
from vernal_worker.bucket.objects import Objects
from vernal_worker.bucket.store import BucketStore
from vernal_worker.store.artifact import Artifact
from vernal_worker.store.lease import Owner
from vernal_worker.store.store import Store
from vernal_worker.supervisor.exits import ExitCode

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main(["bucket", *map(str, arguments)])
        captured = capsys.readouterr()
        assert end.value.code is None or isinstance(end.value.code, int)
        return subprocess.CompletedProcess(["bucket"], end.value.code or 0, captured.out, captured.err)

    return run


@pytest.fixture(params=["folder", pytest.param("s3", marks=pytest.mark.s3)])
def at(request: pytest.FixtureRequest, tmp_path: Path) -> list[str]:
    """URL and options. A folder is a bucket without conditions: enough for one who publishes."""
    if request.param == "folder":
        (tmp_path / "bucket").mkdir()
        return [f"file://{tmp_path}/bucket"]
    server = request.getfixturevalue("s3")
    request.getfixturevalue("s3_environment")
    return [f"s3://{server.make_bucket()}/models", "--endpoint", server.url]


def test_there_and_back(
    run: Run,
    at: list[str],
    make: Callable[..., Artifact],
    worker: Store,
    identity: IdentityInputs,
    host: HostTuple,
) -> None:
    made = make()
    creator = made.path.parents[3]
    assert run("ls", *at).stdout == "no artifacts\n"
    pushed = run("push", *at, "--store", creator)
    assert pushed.returncode == 0 and f"{made.generation}: current, 0 MB sent" in pushed.stdout, pushed
    listed = run("ls", *at)
    assert listed.returncode == 0 and made.generation in listed.stdout and "by test" in listed.stdout
    missing = run("pull", *at, "--store", worker.root, "--identity", "0" * 64)
    assert missing.returncode == ExitCode.INTERNAL and "nothing of identity 000" in missing.stderr
    pulled = run("pull", *at, "--store", worker.root, "--identity", digest(identity))
    assert pulled.returncode == 0 and "current, 0 MB fetched" in pulled.stdout, pulled
    found = worker.find(identity, host).artifact
    assert found is not None
    found.verify()
    assert run("rm", *at, "--identity", digest(identity)).returncode == 0
    assert run("ls", *at).stdout == "no artifacts\n"
    assert run("rm", *at, "--identity", digest(identity)).returncode == ExitCode.INTERNAL
    assert "nothing to delete" in run("gc", *at).stdout
    foreseen = run("gc", *at, "--grace", 0, "--dry-run").stdout
    done = run("gc", *at, "--grace", 0).stdout
    assert foreseen.replace("would delete", "deleted") == done and "it is not current any more" in done
    assert "nothing to delete" in run("gc", *at, "--grace", 0).stdout


def test_another_artifact_is_kept_unless_it_is_to_be_replaced(
    run: Run, at: list[str], make: Callable[..., Artifact]
) -> None:
    first, second = make({"a": b"1"}), make({"a": b"2"})
    run("push", *at, "--store", first.path.parents[3])
    kept = run("push", *at, "--store", second.path.parents[3])
    assert kept.returncode == ExitCode.INTERNAL
    assert f"not published, {first.generation} is current; --replace" in kept.stderr
    if at[0].startswith("s3:"):  # a folder knows no condition
        replaced = run("push", *at, "--store", second.path.parents[3], "--replace")
        assert f"{second.generation}: current" in replaced.stdout, replaced
        assert second.generation in run("ls", *at).stdout


def test_a_push_of_nothing_is_not_well(run: Run, at: list[str], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = run("push", *at, "--store", tmp_path / "empty")
    assert done.returncode == ExitCode.INTERNAL and "no artifacts" in done.stderr


@pytest.mark.parametrize("damage", ["manifest", "file", "generation"])
def test_a_push_goes_on_without_what_is_damaged(
    run: Run, at: list[str], make: Callable[..., Artifact], damage: str
) -> None:
    bad = make({"a": b"1"})
    root = bad.path.parents[3]
    staging = Store(root).stage(bad.manifest.identity_inputs, replace(bad.manifest.host, kernel="another"))
    (staging.dir / "a").write_bytes(b"2")
    good = staging.publish(created_by="test").artifact
    if damage == "generation":
        shutil.rmtree(bad.path)
    else:
        path = bad.path / ("manifest.json" if damage == "manifest" else "a")
        path.chmod(0o600)
        path.write_bytes(b"0")
    done = run("push", *at, "--store", root)
    assert done.returncode == ExitCode.INTERNAL, done
    assert str(bad.generation) in done.stderr and "Traceback" not in done.stderr
    assert f"{good.generation}: current" in done.stdout
    listed = run("ls", *at).stdout
    assert good.generation in listed and bad.generation not in listed


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["ls"], "URL"),
        (["ls", "nonsense"], "nonsense"),
        (["ls", "ftp://a/b"], "ftp"),
        (["pull", "memory:///"], "--identity"),
        (["pull", "memory:///", "--identity", "abc"], "64 hex digits"),
        (["gc", "memory:///", "--grace", "-1"], "number of seconds"),
        (["push"], "URL"),
        (["push", ""], "URL"),
        (["push", "nonsense"], "nonsense"),
        (["push", "memory:///", "--identity", "XYZ"], "hex digits"),
        (["push", "memory:///", "--store", "/nonexistent/store"], "there is no store at /nonexistent/store"),
        (["push", "memory:///", "--store", "/proc/self"], "is no store"),
        ([], "ACTION"),
    ],
)
def test_what_is_wrong_is_said(run: Run, arguments: list[str], said: str) -> None:
    done = run(*arguments)
    assert done.returncode == ExitCode.USAGE and said in done.stderr, done
    assert "Traceback" not in done.stderr


def test_a_bucket_that_is_not_there(run: Run, tmp_path: Path) -> None:
    done = run("ls", "s3://bucket", "--endpoint", "http://127.0.0.1:9")
    assert done.returncode == ExitCode.INTERNAL
    assert "ObjectStoreUnavailable: s3://bucket/artifacts" in done.stderr, done


@pytest.mark.s3
def test_the_janitor_lets_go_with_the_pools_credentials(
    run: Run,
    s3: S3Server,
    tmp_path: Path,
    identity: IdentityInputs,
    host: HostTuple,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What its Job runs: the credentials are under the names that pods have them."""
    for name, value in s3.environment.items():
        monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv(names.ENV_OBJECT_STORE + name, value)
    bucket = s3.make_bucket()
    url, at = f"s3://{bucket}/models", ["--endpoint", s3.url, "--region", s3.environment["AWS_REGION"]]
    pools = [
        BucketStore(
            tmp_path / user,
            Objects(url, endpoint=s3.url, credentials=credentials.given(os.environ), region=at[3]),
            user=user,
        )
        for user in ("one", "two")
    ]
    for store in pools:
        store.root.mkdir()
    staging = pools[0].stage(identity, host)
    (staging.dir / "oracle.json").write_bytes(b"{}")
    pools[0].publish(staging, created_by="test")
    assert pools[1].open(identity, host, Owner(pod="p")).artifact is not None
    which = ["--identity", digest(identity), "--host", digest(host)]
    done = run("rm", url, *at, *which, "--user", "one", "--gc")
    assert done.returncode == 0 and "used by two" in done.stdout and "nothing to delete" in done.stdout, done
    assert run("ls", url, *at).stdout != "no artifacts\n"
    done = run("rm", url, *at, *which, "--user", "two", "--gc")
    assert done.returncode == 0 and done.stdout.startswith("1 not found any more"), done
    assert run("ls", url, *at).stdout == "no artifacts\n"
    again = run("rm", url, *at, *which, "--user", "two", "--gc")
    assert again.returncode == 0, "a Job that is run again has nothing to do"
