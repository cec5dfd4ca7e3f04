"""Models from a hub are known by their commit, and fetched by a process that is gone before the freeze."""

import contextlib
import os
import re
import socket
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from patience import until
from vernal_contract import names
from vernal_contract.config import ModelConfig, WorkerConfig, encode
from vernal_contract.identity import differences
from vernal_worker.supervisor import fetching, hub, identity
from vernal_worker.supervisor.context import Repository, Settings, read_settings
from vernal_worker.supervisor.hub import HubError

sys.path.insert(0, str(Path(__file__).parent))
from hub_server import Hub

TOKEN = "hf_planted_7c21"
FIRST, SECOND = "1" * 40, "2" * 40


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Hub]:
    for name in ("org/model", "org/draft"):
        repository = tmp_path / "hub" / name
        repository.mkdir(parents=True)
        (repository / ".commit").write_text(FIRST)
        (repository / "config.json").write_text("{}")
        (repository / "model.safetensors").write_bytes(b"weights")
        (repository / "pytorch_model.bin").write_bytes(b"the same once more")
    server = Hub(0, tmp_path / "hub", TOKEN)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def variables(server: Hub, tmp_path: Path) -> dict[str, str]:
    return {
        "PATH": "/bin",
        "HOME": str(tmp_path),
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_TOKEN": TOKEN,
    }


def settings(variables: dict[str, str], revision: str | None = None, **fields: Any) -> Settings:
    config = WorkerConfig(
        pool="p",
        namespace="n",
        revision="r",
        model=ModelConfig(name="org/model", revision=revision),
        secret_env=("HF_TOKEN",),
        **fields,
    )
    return read_settings({names.ENV_CONFIG: encode(config), **variables})


def test_a_branch_is_the_commit_that_it_stands_for(server: Hub, variables: dict[str, str]) -> None:
    branch, commit = (identity.gather(hub.pin(settings(variables, it), variables)) for it in (None, FIRST))
    assert branch == commit
    assert branch.contents == {"model": f"commit {FIRST}"}
    (server.directory / "org/model/.commit").write_text(SECOND)
    after = identity.gather(hub.pin(settings(variables), variables))
    assert {line.partition(":")[0] for line in differences(branch, after)} == {
        "contents.model",
        "engineArgs.revision",
        "modelRevision",
    }


def test_a_commit_needs_no_hub(server: Hub, variables: dict[str, str]) -> None:
    hub.pin(settings(variables, FIRST), variables)
    assert server.asked == []


def test_the_token_is_neither_in_the_arguments_nor_in_the_environment(variables: dict[str, str]) -> None:
    found = hub.pin(settings(variables), variables)
    assert TOKEN not in repr((found.arguments, found.environment, found.repositories, identity.gather(found)))


def test_without_a_hub_the_cache_of_downloads_says_it(variables: dict[str, str], tmp_path: Path) -> None:
    variables["HF_ENDPOINT"] = "http://127.0.0.1:9"  # discard: nobody listens
    with pytest.raises(HubError, match=r"model: .*'main' of 'org/model'.*refused"):
        hub.pin(settings(variables), variables)
    refs = tmp_path / ".cache/huggingface/hub/models--org--model/refs"
    refs.mkdir(parents=True)
    (refs / "main").write_text(SECOND)
    assert hub.pin(settings(variables), variables).repositories == (Repository("model", "org/model", SECOND),)


WRONG: dict[str, Any] = {
    "no HTTP": b"garbage\r\n\r\n",
    "half an answer": b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{",
    "no JSON": b"HTTP/1.0 200 OK\r\n\r\n<html>",
    "a list": b"HTTP/1.0 200 OK\r\n\r\n[]",
    "no commit": b"HTTP/1.0 200 OK\r\n\r\n{}",
    "a number as commit": b'HTTP/1.0 200 OK\r\n\r\n{"sha":5}',
    "no UTF-8": b'HTTP/1.0 200 OK\r\n\r\n{"sha":"\xff"}',
    "lists without end": b'HTTP/1.0 200 OK\r\n\r\n{"x":' + b"[" * 20_000,
}


@pytest.mark.parametrize("answer", WRONG.values(), ids=WRONG)
def test_whatever_stands_where_the_hub_should_is_an_error_of_the_hub_s(
    answer: bytes, variables: dict[str, str]
) -> None:
    def say() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(1 << 16)
            connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=say)
        thread.start()
        variables["HF_ENDPOINT"] = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(HubError, match="it is not known which commit 'main' of 'org/model' is"):
            hub.pin(settings(variables), variables)
        thread.join()


def test_what_the_cache_has_in_a_commit_s_place_is_none(variables: dict[str, str], tmp_path: Path) -> None:
    """A revision is part of a path there, and may lead out of it."""
    (tmp_path / "secret").write_text("something else")
    variables["HF_HUB_OFFLINE"] = "1"
    with pytest.raises(HubError, match="HF_HUB_OFFLINE is set"):
        hub.pin(settings(variables, str(tmp_path / "secret")), variables)


def test_a_name_that_is_none(variables: dict[str, str]) -> None:
    config = WorkerConfig(pool="p", namespace="n", revision="r", model=ModelConfig(name="s3://bucket/model"))
    with pytest.raises(HubError, match="s3://bucket/model"):
        hub.pin(read_settings({names.ENV_CONFIG: encode(config), **variables}), variables)


def test_drafts_tokenizers_and_adapters_are_known_by_commit_too(variables: dict[str, str]) -> None:
    arguments = {
        "tokenizer": "org/draft",
        "speculative_config": {"model": "org/draft", "num_speculative_tokens": 2},
        "lora_modules": ["a=org/draft", {"name": "b", "path": "org/draft"}],
    }
    found = hub.pin(settings(variables, engine_args=arguments), variables)
    wheres = ["model", "engineArgs.tokenizer", "engineArgs.speculative_config.model"]
    wheres += ["engineArgs.lora_modules[0]", "engineArgs.lora_modules[1].path"]
    assert {each.where: each.revision for each in found.repositories} == dict.fromkeys(wheres, FIRST)
    placed = hub.with_files(
        found.arguments, found.repositories, {where: f"/files/{number}" for number, where in enumerate(wheres)}
    )
    assert placed["model"] == "/files/0" and placed["tokenizer"] == "/files/1"
    assert placed["speculative_config"] == {"model": "/files/2", "num_speculative_tokens": 2}
    assert placed["lora_modules"] == ["a=/files/3", {"name": "b", "path": "/files/4"}]


@pytest.mark.parametrize(
    ("arguments", "where", "placed"),
    [
        (
            {"speculativeConfig": '{"model":"org/draft"}'},
            "speculative_config.model",
            {"speculative_config": {"model": "/f"}},
        ),
        (
            {"speculative_config.model": "org/draft"},
            "speculative_config.model",
            {"speculative_config": {"model": "/f"}},
        ),
        ({"specModel": "org/draft"}, "spec_model", {"spec_model": "/f"}),
        (
            {"loraModules": '{"name":"a","path":"org/draft"}'},
            "lora_modules.path",
            {"lora_modules": {"name": "a", "path": "/f"}},
        ),
        ({"loraModules": "a=org/draft"}, "lora_modules", {"lora_modules": "a=/f"}),
    ],
)
def test_what_a_hub_has_is_known_however_it_is_written(
    variables: dict[str, str], arguments: dict[str, Any], where: str, placed: dict[str, Any]
) -> None:
    found = hub.pin(settings(variables, FIRST, engine_args=arguments), variables)
    assert [(each.where, each.revision) for each in found.repositories[1:]] == [(f"engineArgs.{where}", FIRST)]
    files = hub.with_files(found.arguments, found.repositories, {f"engineArgs.{where}": "/f"})
    assert placed.items() <= files.items()


def test_a_gated_model_is_fetched_with_the_token(variables: dict[str, str]) -> None:
    found = hub.pin(settings(variables), variables)
    directories = fetching.fetch(found, 120, threading.Event())
    names_ = sorted(file.name for file in Path(directories["model"]).iterdir())
    assert names_ == ["config.json", "model.safetensors"], "weights once"
    assert (Path(directories["model"]) / "model.safetensors").read_bytes() == b"weights"


def test_without_the_token_it_is_said_what_is_missing(variables: dict[str, str]) -> None:
    variables["HF_TOKEN"] = "wrong"
    with pytest.raises(HubError, match=r"model: org/model cannot be fetched.*HF_TOKEN"):
        fetching.fetch(hub.pin(settings(variables, FIRST), variables), 120, threading.Event())


def test_fetching_ends_when_the_worker_is_to_stop(variables: dict[str, str]) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(InterruptedError):
        fetching.fetch(hub.pin(settings(variables, FIRST), variables), 120, stop)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has capabilities to give up")
def test_what_fetches_has_none_of_process_1s_capabilities(server: Hub, variables: dict[str, str]) -> None:
    """It has the pool's environment, and runs code that knows nothing of checkpoints."""
    server.gate.clear()
    found = hub.pin(settings(variables, FIRST), variables)
    with ThreadPoolExecutor() as pool:
        try:
            fetched = pool.submit(fetching.fetch, found, 120, threading.Event())
            until("it to ask for a file", lambda: fetched.done() or any("/resolve/" in path for path in server.asked))
            assert not fetched.done()
            (pid,) = _fetching()
            status = Path(f"/proc/{pid}/status").read_text()
            masks = re.findall(r"^Cap(?:Inh|Prm|Eff|Bnd|Amb):\s(\w+)$", status, re.MULTILINE)
            assert len(masks) == 5 and {int(mask, 16) & ~(1 << 1) for mask in masks} == {0}, "DAC_OVERRIDE only"
            environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            assert f"HF_TOKEN={TOKEN}".encode() in environment and not [
                v for v in environment if v.startswith(b"VERNAL_")
            ]
        finally:
            server.gate.set()
        assert fetched.result()["model"]


def _fetching() -> list[int]:
    """Processes of ours that fetch."""
    children: list[str] = []
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # a thread of another test ended
            children += (task / "children").read_text().split()
    found = []
    for pid in children:
        with contextlib.suppress(OSError):
            if b"vernal_worker.engine.fetch" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(int(pid))
    return found
