"""Operator and worker of neighbouring minor versions understand each other."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from vernal_contract import config, identity, state
from vernal_contract.config import CheckpointConfig, KVTransferConfig, ModelConfig, WorkerConfig
from vernal_contract.identity import HostTuple, IdentityInputs

RECORDED = Path(__file__).with_name("recorded")
"""What each minor version wrote: `python contract/tests/record.py` adds this one's."""

CONFIG = WorkerConfig(
    pool="p",
    namespace="n",
    revision="r",
    model=ModelConfig(name="m", revision="main"),
    engine_args={"speculative_config": {"model": "d"}},
    engine_env={"A": "1"},
    checkpoint=CheckpointConfig(),
    kv_transfer=KVTransferConfig(options={"threads": 2}),
)
INPUTS = IdentityInputs(
    image_id="i",
    engine_args={"max_model_len": 5},
    engine_env={"A": "1"},
    model="m",
    contents={"model": "0"},
    weights="InImage",
    versions={"vllm": "1"},
)
HOST = HostTuple(architecture="x86_64", cpu_features=("avx2",), kernel="6.18", mounts=("/model",))
STATE = state.WorkerState(
    pod="w",
    namespace="n",
    pool="p",
    revision="r",
    start_id="a1",
    phase=state.Phase.READY,
    start_mode=state.StartMode.RESTORED,
    identity=identity.digest(INPUTS),
    identity_inputs=INPUTS,
    host_tuple=identity.digest(HOST),
    host=HOST,
    artifact=state.ArtifactRef(identity="i", generation="g", host_tuple="h", bytes=1, files=1),
    freeze=state.FreezeReport(outcome=state.FreezeOutcome.PUBLISHED),
    restore_failures=[state.RestoreFailure(generation="g", stage="criu", reason="r", message="m")],
    drain=state.DrainReport(seconds_left=1.0, accepting=True),
    node_cache=state.NodeCacheReport(lookup=state.CacheLookup.HIT, fill=state.CacheFill.FULL),
)


def objects(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Where in a JSON value the objects are."""
    if isinstance(value, dict):
        yield path
        for key, item in value.items():
            yield from objects(item, (*path, key))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from objects(item, (*path, number))


def newer(text: str | bytes, path: tuple[str | int, ...]) -> str:
    """The same with a field that the next version invents."""
    value = at = json.loads(text)
    for step in path:
        at = at[step]
    at["invented"] = {"x": 1}
    return json.dumps(value)


FREE = {"engineArgs", "engineEnv", "options", "versions", "contents", "timings", "begun"}
"""Fields whose content is the user's, or a table: there is nothing unknown in them."""


@pytest.mark.parametrize("path", [p for p in objects(json.loads(config.encode(CONFIG))) if not FREE & set(p)])
def test_a_worker_reads_the_configuration_of_a_newer_operator_and_names_what_it_does_not_know(
    path: tuple[str, ...],
) -> None:
    text = newer(config.encode(CONFIG), path)
    assert config.decode(text) == CONFIG
    assert config.unknown_fields(text) == [".".join((*path, "invented"))]
    assert config.unknown_fields(config.encode(CONFIG)) == []


@pytest.mark.parametrize("path", [(), ("model",), ("drain",)])
def test_what_must_be_understood_is_refused_by_name(path: tuple[str, ...]) -> None:
    text = json.loads(newer(config.encode(CONFIG), path))
    name = ".".join((*path, "invented"))
    text["mustUnderstand"] = [name, "pool"]
    with pytest.raises(msgspec.ValidationError, match=f"does not know {name},"):
        config.decode(json.dumps(text))


@pytest.mark.parametrize("path", [p for p in objects(json.loads(state.encode(STATE))) if not FREE & set(p)])
def test_an_operator_reads_the_state_of_a_newer_worker(path: tuple[str, ...]) -> None:
    assert state.decode(newer(state.encode(STATE), path).encode()) == STATE


@pytest.mark.parametrize(("field", "word"), [("phase", "Ready"), ("startMode", "Restored"), ("outcome", "Published")])
def test_words_that_a_newer_worker_invents_are_no_silence(field: str, word: str) -> None:
    text = state.encode(STATE).replace(f'"{field}":"{word}"'.encode(), f'"{field}":"Invented"'.encode())
    assert text != state.encode(STATE)
    found = state.decode(text)
    assert found.freeze is not None
    assert "Unknown" in (found.phase, found.start_mode, found.freeze.outcome)
    with pytest.raises(msgspec.ValidationError):
        state.decode(state.encode(STATE).replace(b'"phase":"Ready"', b'"phase":1'))


def test_words_of_a_node_cache_that_a_newer_worker_invents_are_no_silence() -> None:
    text = state.encode(STATE).replace(b'"lookup":"Hit"', b'"lookup":"X"').replace(b'"fill":"Full"', b'"fill":"Y"')
    found = state.decode(text).node_cache
    assert found is not None and (found.lookup, found.fill) == ("Unknown", "Unknown")


def test_an_unknown_field_never_changes_what_an_identity_is() -> None:
    """Read by an older worker it is another identity still, and the field is named."""
    given = json.loads(newer(msgspec.json.encode(INPUTS), ()))
    assert identity.digest(given) != identity.digest(msgspec.convert(given, IdentityInputs)) == identity.digest(INPUTS)
    (line,) = identity.differences(given, INPUTS)
    assert line == "invented: artifact has {'x': 1}, this host has nothing"


READERS: dict[str, Callable[[bytes], Any]] = {
    "config": lambda data: config.decode(data.decode()),
    "state": state.decode,
    "identity": lambda data: msgspec.json.decode(data, type=IdentityInputs),
    "host": lambda data: msgspec.json.decode(data, type=HostTuple),
}


def test_there_is_a_record_of_every_message() -> None:
    names = {file.name.partition("-")[0] for file in RECORDED.iterdir()}
    assert names == READERS.keys()


@pytest.mark.parametrize("file", sorted(RECORDED.iterdir()), ids=lambda file: file.stem)
def test_what_earlier_versions_wrote_is_read(file: Path) -> None:
    """A field without a default, a renamed one or a new type would make the other side silent."""
    READERS[file.name.partition("-")[0]](file.read_bytes())
