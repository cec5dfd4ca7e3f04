"""The contract between operator and worker: what one writes the other reads, and hashes mean what they say."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from vernal_contract import config, identity, state
from vernal_contract.reasons import NEXT_STEP, Reason

MODEL = config.ModelConfig(name="m")
NOT_A_FAILURE = {
    Reason.POLICY_DISABLED,
    Reason.NO_ARTIFACT,
    Reason.RENEWAL_ASKED,
    Reason.RESTORED,
    Reason.LEASE_HELD,
    Reason.LEASE_LOST,
    Reason.PUBLISHED_BY_OTHER,
    Reason.FREEZE_GIVEN_UP,
    Reason.THAW_GIVEN_UP,
}

inputs = st.builds(
    identity.IdentityInputs,
    image_id=st.text(max_size=8),
    engine_args=st.dictionaries(st.text(max_size=5), st.one_of(st.integers(-9, 9), st.booleans(), st.text(max_size=5))),
    engine_env=st.dictionaries(st.text(max_size=5), st.text(max_size=5)),
    model=st.text(max_size=5),
    model_revision=st.none() | st.text(max_size=5),
    weights=st.sampled_from(["External", "InImage"]),
    versions=st.dictionaries(st.sampled_from(["vllm", "torch", "criu"]), st.text(max_size=5)),
)


@given(st.dictionaries(st.text(min_size=1), st.text()), st.lists(st.text(min_size=1)))
def test_config_survives_the_environment(env: dict[str, str], secrets: list[str]) -> None:
    written = config.WorkerConfig(
        pool="p", namespace="n", revision="r", model=MODEL, engine_env=env, secret_env=tuple(secrets)
    )
    assert config.decode(config.encode(written)) == written


def test_config_names_the_bad_field() -> None:
    text = config.encode(config.WorkerConfig(pool="p", namespace="n", revision="r", model=MODEL))
    with pytest.raises(msgspec.ValidationError, match=r"\$\.drain\.timeoutSeconds"):
        config.decode(text.replace('"timeoutSeconds":90.0', '"timeoutSeconds":"soon"'))


@given(inputs, inputs)
def test_digests_differ_exactly_when_a_field_differs(a: identity.IdentityInputs, b: identity.IdentityInputs) -> None:
    assert (identity.digest(a) == identity.digest(b)) == (identity.differences(a, b) == [])


def test_true_is_not_one() -> None:
    """Equal in Python, yet different JSON and a different engine argument."""
    common = {"image_id": "i", "engine_env": {}, "model": "m", "weights": "InImage", "versions": {}}
    a = identity.IdentityInputs(engine_args={"x": 1}, **common)  # type: ignore[arg-type]
    b = identity.IdentityInputs(engine_args={"x": True}, **common)  # type: ignore[arg-type]
    assert identity.digest(a) != identity.digest(b)
    assert len(identity.differences(a, b)) == 1


def test_differences_name_the_field_and_both_sides() -> None:
    a = identity.HostTuple(architecture="x86_64", cpu_features=("avx2", "avx512f"), kernel="6.18")
    b = identity.HostTuple(architecture="x86_64", cpu_features=("avx2",), kernel="6.1")
    lines = identity.differences(a, b)
    assert len(lines) == 2
    assert "cpuFeatures" in lines[0] and "avx512f" in lines[0]
    assert "kernel" in lines[1] and "6.18" in lines[1] and "6.1" in lines[1]


def test_state_of_a_newer_worker_is_read() -> None:
    written = state.WorkerState(pod="p", namespace="n", pool="q", revision="r", phase=state.Phase.READY)
    newer = state.encode(written).replace(b'"pod":', b'"invented":{"x":1},"pod":')
    assert state.decode(newer) == written


def test_every_failure_has_a_next_step() -> None:
    assert set(NEXT_STEP) == set(Reason) - NOT_A_FAILURE


HOST = identity.HostTuple(architecture="x86_64", cpu_features=("avx2", "sse2"), kernel="6.18", mounts=("/model",))


@pytest.mark.parametrize("more", [{"cpu_features": ("avx2", "avx512f", "sse2")}, {"mounts": ("/certs", "/model")}])
def test_a_host_that_has_more_than_the_process_uses_fits(more: dict[str, tuple[str, ...]]) -> None:
    other = msgspec.structs.replace(HOST, **more)
    assert identity.misfits(HOST, other) == []
    (line,) = identity.misfits(other, HOST)
    assert line.endswith("only on this host []")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("architecture", "arm64"),
        ("kernel", "6.1"),
        ("gpu_product", "NVIDIA H200"),
        ("gpu_driver", "1"),
        ("gpu_count", 2),
    ],
)
def test_a_host_that_differs_otherwise_does_not_fit_and_the_field_is_named(name: str, value: object) -> None:
    (line,) = identity.misfits(HOST, msgspec.structs.replace(HOST, **{name: value}))
    assert line.partition(":")[0].lower() == name.replace("_", "")
