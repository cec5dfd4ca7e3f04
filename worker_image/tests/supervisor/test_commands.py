"""`vernal-worker` as people use it, on a store with one artifact."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from blake3 import blake3
from patience import GUARD_SECONDS
from vernal_contract import names
from vernal_contract.config import CheckpointConfig, ModelConfig, WorkerConfig, encode
from vernal_contract.identity import HostTuple, IdentityInputs, digest
from vernal_worker import cli
from vernal_worker.checkpoint import host
from vernal_worker.store.lease import Owner
from vernal_worker.store.store import Store
from vernal_worker.supervisor import identity
from vernal_worker.supervisor.context import read_settings
from vernal_worker.supervisor.exits import COMMAND_MEANING, MEANING, ExitCode

ROOT = Path(__file__).parents[3]

INPUTS = IdentityInputs(
    image_id="i",
    engine_args={"max_model_len": 5},
    engine_env={},
    model="m/x",
    weights="InImage",
    versions={"vllm": "1"},
)
HOST = HostTuple(architecture="x86_64", cpu_features=(), kernel="6.18")

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    root = tmp_path / "store"
    root.mkdir()
    staging = Store(root).stage(INPUTS, HOST)
    (staging.dir / "memory.img").write_bytes(b"x" * 5_000_000)
    staging.publish(created_by="default/pod-1")
    return root


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """In this process: a new one takes most of a second."""

    def run(*arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
        with monkeypatch.context() as here:
            for name, value in variables.items():
                here.setenv(name, value)
            capsys.readouterr()
            with pytest.raises(SystemExit) as end:
                cli.main([*map(str, arguments)])
        captured = capsys.readouterr()
        assert end.value.code is None or isinstance(end.value.code, int), (
            "all of them say what went wrong by themselves"
        )
        return subprocess.CompletedProcess([*map(str, arguments)], end.value.code or 0, captured.out, captured.err)

    return run


def test_as_a_program(store: Path) -> None:
    command = [sys.executable, "-m", "vernal_worker", "inspect", "--store", str(store)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=GUARD_SECONDS, check=True)
    assert "default/pod-1" in done.stdout


def test_help_teaches(run: Run) -> None:
    text = run("--help").stdout
    for word in ("VERNAL_CONFIG", "unshare", "curl", "doctor", "exit codes"):
        assert word in text


def test_inspect(run: Run, store: Path) -> None:
    done = run("inspect", "--store", store)
    assert done.returncode == 0
    for word in (digest(INPUTS)[:16], "m/x", "max_model_len=5", "vllm=1", "default/pod-1", "5 MB"):
        assert word in done.stdout


def test_verify_names_the_damaged_file(run: Run, store: Path) -> None:
    assert run("verify", "--store", store).returncode == 0
    (file,) = store.glob("artifacts/*/*/current/memory.img")
    file.chmod(0o600)
    file.write_bytes(b"y" + b"x" * 4_999_999)
    done = run("verify", "--store", store)
    assert done.returncode == 1 and "DigestMismatch" in done.stdout and "memory.img" in done.stdout


@pytest.fixture
def worker(tmp_path: Path) -> WorkerConfig:
    """One whose model and whose template are on disk."""
    (tmp_path / "model").mkdir()
    for name in ("model/config.json", "model/weights.safetensors", "template.jinja"):
        (tmp_path / name).write_text("0")
    return WorkerConfig(
        pool="p",
        namespace="n",
        revision="r",
        model=ModelConfig(name="m/x", path=str(tmp_path / "model")),
        engine_args={"maxModelLen": 6, "chatTemplate": str(tmp_path / "template.jinja")},
        checkpoint=CheckpointConfig(store_path=str(tmp_path / "store")),
    )


def publish(worker: WorkerConfig, variables: dict[str, str] | None = None, **host_fields: object) -> None:
    """What a worker like `worker` would, on a host like this but for some fields. It needs no mounts: those of this
    machine come and go with other tests."""
    root = Path(worker.checkpoint.store_path)
    root.mkdir(exist_ok=True)
    settings = read_settings({**os.environ, names.ENV_CONFIG: encode(worker), **(variables or {})})
    here = msgspec.structs.replace(host.host_tuple(mounts=()), **host_fields)
    staging = Store(root).stage(identity.gather(settings), here)
    (staging.dir / "memory.img").write_bytes(b"x")
    staging.publish(created_by="default/pod-1")


def fields(done: subprocess.CompletedProcess[str]) -> list[list[str]]:
    """Which are named of each artifact."""
    found: list[list[str]] = []
    for line in done.stdout.splitlines():
        if line.startswith("  "):
            found[-1].append(line.strip().partition(":")[0])
        else:
            found.append([])
    return sorted(found)


def test_diff_between_models_names_exactly_the_fields_that_differ(
    run: Run, worker: WorkerConfig, tmp_path: Path
) -> None:
    """Also where nothing but a file's content differs, and nothing where nothing does."""
    publish(worker)
    for file in ("model/weights.safetensors", "template.jinja"):
        (tmp_path / file).write_text("1")
        publish(worker)
        (tmp_path / file).write_text("0")
    publish(worker, {"VLLM_X": "1"})
    publish(worker, {"LD_PRELOAD": "/nonexistent/lib.so"})
    publish(msgspec.structs.replace(worker, engine_args={**worker.engine_args, "maxModelLen": 7}))
    done = run("diff", **{names.ENV_CONFIG: encode(worker)})
    assert done.returncode == 0, "one of them fits"
    assert fields(done) == [
        [],
        ["contents.engineArgs.chat_template"],
        ["contents.model"],
        ["engineArgs.max_model_len"],
        ["engineEnv.LD_PRELOAD"],
        ["engineEnv.VLLM_X"],
    ], done.stdout


HOSTS: dict[str, tuple[str, Any]] = {
    "architecture": ("architecture", "s390x"),
    "cpuFeatures": ("cpu_features", ("invented",)),
    "gpuDriver": ("gpu_driver", "570.1"),
    "gpuMemoryGib": ("gpu_memory_gib", (5,)),
    "gpuProduct": ("gpu_product", "NVIDIA A100-SXM4-40GB MIG 1g.5gb"),
    "kernel": ("kernel", "2.6"),
    "mounts": ("mounts", ("/nowhere",)),
}


def test_diff_between_hosts_names_exactly_the_fields_that_differ(run: Run, worker: WorkerConfig) -> None:
    for name, value in HOSTS.values():
        publish(worker, **{name: value})
    done = run("diff", **{names.ENV_CONFIG: encode(worker)})
    assert (done.returncode, fields(done)) == (1, [[name] for name in HOSTS]), done.stdout


def test_diff_of_what_a_newer_worker_made(run: Run, worker: WorkerConfig) -> None:
    """With fields that this one does not know."""
    publish(worker)
    (file,) = Path(worker.checkpoint.store_path).glob("artifacts/*/*/current/manifest.json")
    given = json.loads(file.read_bytes())["manifest"]
    given["identityInputs"]["invented"], given["host"]["strange"] = 1, 2
    given |= {"identity": digest(given["identityInputs"]), "hostTuple": digest(given["host"])}
    body = msgspec.json.encode(given)
    file.chmod(0o600)
    file.write_bytes(b'{"digest":"%s","manifest":%s}\n' % (blake3(body).hexdigest().encode(), body))
    done = run("diff", **{names.ENV_CONFIG: encode(worker)})
    assert (done.returncode, fields(done)) == (1, [["invented", "strange"]]), done.stdout


@pytest.mark.parametrize("text", ["", "{", '{"pool": 7}'])
def test_diff_needs_a_configuration(run: Run, store: Path, text: str) -> None:
    done = run("diff", "--store", store, **{names.ENV_CONFIG: text})
    assert done.returncode == ExitCode.CONFIG_INVALID and names.ENV_CONFIG in done.stderr


def test_diff_when_what_the_engine_loads_cannot_be_read(run: Run, worker: WorkerConfig, tmp_path: Path) -> None:
    publish(worker)
    (tmp_path / "model/shard.safetensors").symlink_to("gone")
    done = run("diff", **{names.ENV_CONFIG: encode(worker)})
    assert done.returncode == ExitCode.INTERNAL and "not known" in done.stderr, done


def test_gc_removes_an_identity(run: Run, store: Path) -> None:
    done = run("gc", "--store", store)
    assert (done.returncode, done.stdout) == (0, "nothing to delete\n")
    assert list(store.glob("artifacts/*/*/current"))
    other = run("gc", "--store", store, "--identity", digest(INPUTS), "--host", "0" * 64)
    assert other.returncode == 0 and "freed 0 MB" in other.stdout
    done = run("gc", "--store", store, "--identity", digest(INPUTS), "--host", digest(HOST), "--grace", "0")
    assert done.returncode == 0 and "freed 5 MB" in done.stdout
    assert not list(store.glob("artifacts/*/*/current"))
    for dry in ([], ["--dry-run"]):
        done = run("gc", "--store", store, "--identity", digest(INPUTS), *dry)
        assert done.returncode == 0 and "nothing of identity" in done.stdout, "a janitor may come twice"


def test_gc_names_what_no_checkpoint_object_is_of(run: Run, store: Path, tmp_path: Path) -> None:
    """Of this user alone, and not what is so new that its object may be on its way."""
    hosts = [HostTuple(architecture="x86_64", cpu_features=(), kernel=kernel) for kernel in ("5", "6", "7", "8", "9")]
    lost, known, shared, new, going = hosts
    for made_on, users in ((lost, "u"), (known, "u"), (shared, "uv"), (new, "u"), (going, "u")):
        for user in users:
            staged = Store(store, user=user).stage(INPUTS, made_on)
            (staged.dir / "file").write_bytes(b"x" * 1000)
            staged.publish(created_by="a")
    for directory in store.glob("artifacts/*/*"):
        for path in [directory, *directory.rglob("*")]:
            if directory.name != digest(new)[:16]:
                os.utime(path, (1, 1), follow_symlinks=False)
    key = f"{digest(INPUTS)}/{digest(known)}"
    command = ("gc", "--store", store, "--identity", digest(INPUTS), "--host", digest(going), "--user", "u")
    done = run(*command, "--grace", "0", **{names.ENV_KNOWN: key})
    named = [line.split("/")[1] for line in done.stdout.splitlines() if line.startswith("orphan ")]
    assert (done.returncode, named) == (0, [digest(lost)[:16]]), done.stdout + done.stderr
    for flag, expected in (("", 2), (key, 1)):  # the known one, too, if nothing is known
        told = run(*command, "--known", flag, "--dry-run")
        assert told.returncode == 0 and told.stdout.count("orphan ") == expected, told
    quiet = run(*command)
    assert "orphan" not in quiet.stdout, "who is not told what is known cannot tell"
    junk = run(*command, **{names.ENV_KNOWN: "what a later operator writes"})
    assert junk.returncode == 0 and "orphan " not in junk.stdout and names.ENV_KNOWN in junk.stderr


def test_gc_puts_off_what_is_read(run: Run, store: Path) -> None:
    lookup = Store(store).open(INPUTS, HOST, Owner(pod="pod-9"))
    assert lookup.reading is not None
    with lookup.reading:
        done = run("gc", "--store", store, "--identity", digest(INPUTS), "--grace", "0")
    assert done.returncode == ExitCode.INTERNAL and "pod-9 reads" in done.stderr and "run it again" in done.stderr


def test_gc_dry_run_says_why(run: Run, store: Path) -> None:
    staged = Store(store).stage(INPUTS, HOST)
    os.utime(staged.dir, (1, 1))
    done = run("gc", "--store", store, "--dry-run")
    assert "would delete staging/" in done.stdout and "nobody has written" in done.stdout
    kept = run("gc", "--store", store, "--dry-run", "--identity", digest(INPUTS))
    assert "current" in kept.stdout and "used by nobody" in kept.stdout
    assert list(store.glob("artifacts/*/*/current"))


def test_du_says_who_holds_what(run: Run, store: Path) -> None:
    other = HostTuple(architecture="x86_64", cpu_features=(), kernel="7")
    staged = Store(store, user="ns/claim/").stage(INPUTS, other)
    content = b"y" * 3_000_000
    digests = [blake3(content).hexdigest()]
    (staged.dir / "weights").write_bytes(content)
    staged.publish(created_by="b", blobs={"weights": digests})
    again = Store(store).stage(INPUTS, HostTuple(architecture="arm64", cpu_features=(), kernel="7"))
    (again.dir / "weights").write_bytes(content)
    generation = again.publish(created_by="c", blobs={"weights": digests}).artifact.generation
    lookup = Store(store).open(INPUTS, other, Owner(pod="pod-3"))
    lease = Store(store).lease(INPUTS, HOST, Owner(pod="pod-4")).try_acquire()
    assert lookup.reading is not None and lease is not None
    with lookup.reading, lease:
        shown = run("du", "--store", store)
        found = json.loads(run("du", "--store", store, "-o", "json").stdout)
    assert shown.returncode == 0
    for words in ("5.0 MB", "used by ns/claim/; read by pod-3", "shared with others: 3.0 MB", "held by pod-4"):
        assert words in shown.stdout
    assert 8_000_000 < found["bytes"] < 9_000_000, "what is shared counts once"
    [blob] = found["blobs"]
    assert generation in blob["usedBy"] and len(blob["usedBy"]) == 2 and blob["bytes"] == 3_000_000


def test_doctor_tries_out_a_file_system(run: Run, store: Path) -> None:
    before = sorted(store.rglob("*"))
    done = run("doctor", "--store", store)
    assert done.returncode == 0 and "FAIL" not in done.stdout
    for name in ("rename", "O_EXCL", "hard links", "fsync", "private files", "time", "actimeo"):
        assert f"ok   {name}: " in done.stdout
    assert sorted(store.rglob("*")) == before
    absent = run("doctor", "--store", store / "absent")
    assert absent.returncode == 1 and "FAIL directory" in absent.stdout and "mount the claim" in absent.stdout


WRONG = [
    ("gc", "--grace", "-5"),
    ("gc", "--grace", "nan"),
    ("gc", "--grace", "inf"),
    ("gc", "--grace", "soon"),
    ("gc", "--identity", ""),
    ("gc", "--identity", "../.."),
    ("gc", "--identity", "abc"),
    ("inspect", "--identity", ""),
    ("inspect", "--identity", "*"),
    ("verify", "--identity", "XYZ"),
    ("verify", "--identity", "0" * 65),
    ("inspect", "--store", ""),
    ("doctor", "--store", ""),
    ("gc", "--host", "abc"),
    ("gc", "--host", "0" * 64),
    ("gc", "--patience", "5"),
    ("gc", "--user", "u"),
    ("gc", "--identity", "0" * 64, "--known", ""),
    ("gc", "--identity", "0" * 64, "--user", "u", "--known", "junk"),
    ("gc", "--identity", "0" * 64, "--user", "u", "--known", "0" * 64),
    ("no-such-command",),
    ("run", "now"),
]


@pytest.mark.parametrize("arguments", WRONG, ids=" ".join)
def test_a_wrong_command_line_is_refused(run: Run, store: Path, arguments: tuple[str, ...]) -> None:
    done = run(*arguments, *(("--store", store) if "--store" not in arguments and arguments[0] in "gc inspect" else ()))
    assert done.returncode == ExitCode.USAGE, done
    assert "error: " in done.stderr and "Traceback" not in done.stderr
    if (flag := next((each for each in reversed(arguments) if each.startswith("--")), None)) is not None:
        assert flag in done.stderr, "it names the flag"
    assert list(store.glob("artifacts/*/*/current"))


@pytest.mark.parametrize("command", ["inspect", "verify", "gc", "du"])
def test_where_there_is_no_store(run: Run, tmp_path: Path, command: str) -> None:
    done = run(command, "--store", tmp_path / "absent")
    assert done.returncode == ExitCode.USAGE and "absent" in done.stderr and "--store" in done.stderr
    (tmp_path / "photos").mkdir()
    done = run(command, "--store", tmp_path)
    assert done.returncode == ExitCode.USAGE and "is no store (it has photos)" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["photos"], "nothing is made there"
    (tmp_path / "empty" / "lost+found").mkdir(parents=True)  # a volume that is new
    done = run(command, "--store", tmp_path / "empty")
    assert done.returncode == ExitCode.OK and any(word in done.stdout for word in ("no artifacts", "nothing", "0.0 MB"))


@pytest.mark.parametrize("command", ["inspect", "verify"])
def test_an_identity_that_is_not_there(run: Run, store: Path, command: str) -> None:
    done = run(command, "--store", store, "--identity", "0" * 64)
    assert done.returncode == ExitCode.INTERNAL and "nothing of identity 0000" in done.stderr
    assert run(command, "--store", store, "--identity", digest(INPUTS)[:8]).returncode == ExitCode.OK


@pytest.mark.parametrize("command", ["inspect", "verify"])
@pytest.mark.parametrize("damage, reason", [("remove", "ManifestMissing"), ("cut", "ManifestInvalid")])
def test_a_manifest_that_cannot_be_read(run: Run, store: Path, command: str, damage: str, reason: str) -> None:
    (manifest,) = store.glob("artifacts/*/*/current/manifest.json")
    data = manifest.read_bytes()
    manifest.unlink()
    if damage == "cut":
        manifest.write_bytes(data[:100])
    done = run(command, "--store", store)
    assert done.returncode == ExitCode.INTERNAL
    assert reason in done.stdout and "no artifacts" not in done.stdout and "Traceback" not in done.stderr


VERBS = (
    *("inspect", "verify", "diff", "gc", "du"),
    *("bucket push memory:///", f"bucket pull memory:/// --identity {'0' * 64}"),
)
"""Those that look at a worker's store."""


@pytest.mark.parametrize("command", VERBS)
@pytest.mark.parametrize("text", ["{", '{"pool": 7}', "[]"])
def test_a_wrong_configuration_is_an_error_and_no_traceback(run: Run, command: str, text: str) -> None:
    done = run(*command.split(), **{names.ENV_CONFIG: text})
    assert done.returncode == ExitCode.CONFIG_INVALID
    assert names.ENV_CONFIG in done.stderr and "Traceback" not in done.stderr


def test_the_exit_codes_are_in_the_code_the_help_and_the_docs(run: Run) -> None:
    assert set(MEANING) == set(ExitCode)
    text, docs = run("--help").stdout, (ROOT / "docs/shutdown.md").read_text()
    for code, meaning in MEANING.items():
        assert f"{int(code):2}  {meaning}" in text
        assert f"| {int(code)} | {meaning} |" in docs
    for code, meaning in COMMAND_MEANING.items():
        assert f"{int(code):2}  {meaning}" in text
        assert f"| {int(code)} | {meaning} |" in docs


HELP = [*VERBS, "run", "doctor", "bucket ls", "bucket rm", "bucket gc", "bucket"]


@pytest.mark.parametrize("command", HELP)
def test_each_commands_help_has_its_exit_codes(run: Run, command: str) -> None:
    words = [word for word in command.split()[:2] if "-" not in word and ":" not in word]
    text = run(*words, "--help").stdout
    meaning = MEANING if words == ["run"] else COMMAND_MEANING
    for code, why in meaning.items():
        assert f"{int(code):2}  {why}" in text
    assert text.count("exit codes") == 1


@pytest.mark.parametrize("command", ["inspect", "verify"])
@pytest.mark.parametrize("how", ["deleted", "no link", "unreadable", "leads nowhere"])
def test_what_is_current_and_cannot_be_read(run: Run, store: Path, command: str, how: str) -> None:
    """It is there, and not well: never "no artifacts"."""
    (current,) = store.glob("artifacts/*/*/current")
    other = Store(store).stage(INPUTS, HostTuple(architecture="x86_64", cpu_features=(), kernel="7"))
    (other.dir / "memory.img").write_bytes(b"y")
    other.publish(created_by="default/pod-2")
    if how == "deleted":
        shutil.rmtree(current.resolve())
    elif how == "unreadable":
        (current / "manifest.json").unlink()
        (current / "manifest.json").symlink_to("/proc/self/mem")  # EIO: nothing is mapped at address 0
    else:
        current.unlink()
        current.write_text("x") if how == "no link" else current.symlink_to("20260101T000000Z-00000000")
    done = run(command, "--store", store)
    assert done.returncode == ExitCode.INTERNAL and "Traceback" not in done.stderr
    assert ("StoreUnavailable" if how == "unreadable" else "ManifestMissing") in done.stdout, done
    assert "default/pod-2" in done.stdout or ": good" in done.stdout, "the other one is well"


@pytest.mark.parametrize("command", ["inspect", "verify", "gc", "du"])
def test_a_directory_that_may_not_be_read_is_not_called_empty(store: Path, command: str) -> None:
    """Root may read everything, unless it has no capabilities to."""
    (directory,) = store.glob("artifacts/*")
    directory.chmod(0)
    without = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search", "--"]
    command_line = [*without, sys.executable, "-m", "vernal_worker", command, "--store", str(store)]
    done = subprocess.run(command_line, capture_output=True, text=True, timeout=GUARD_SECONDS, check=False)
    directory.chmod(0o700)
    assert done.returncode == ExitCode.INTERNAL, done
    assert str(directory) in done.stderr and "Permission denied" in done.stderr and "Traceback" not in done.stderr


def test_doctor_says_what_is_missing(run: Run) -> None:
    done = run("doctor", VERNAL_CRIU="/nonexistent/criu")
    assert done.returncode == 1 and "FAIL criu" in done.stdout
