"""Which checkpoints a pool over unlike nodes has, and for how long it knows of them."""

from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from plan.factory import HOST, INPUTS, kept, pool, published, ready, snapshot, spec, worker
from vernal_contract.identity import HostTuple, digest
from vernal_contract.state import ArtifactRef, WorkerState
from vernal_operator.api.storage import Storage
from vernal_operator.build.checkpoint import checkpoint_name
from vernal_operator.plan import plan
from vernal_operator.plan.hosts import MOST_NODES, elsewhere, fitting, listed, makes
from vernal_operator.plan.model import CheckpointView, PodView, Snapshot
from vernal_operator.plan.revision import revision

STORAGE = Storage(claim_name="store")
A, B = HOST, HostTuple(architecture="x86_64", cpu_features=("avx512",), kernel="6.19")
OTHER_GPU = HostTuple(architecture="x86_64", cpu_features=("avx2",), kernel="6.18", gpu_product="L4")
"""Of the same node as A."""


def on(node: str, host: HostTuple = A, slot: int = 0, image: str = "i", **fields: Any) -> PodView:
    """A pod that serves there, on a host of that kind; its identity is that of its image."""
    inputs = msgspec.structs.replace(INPUTS, image_id=image)
    identity = digest(inputs)
    artifact = ArtifactRef(identity=identity, generation=f"g-{image}", host_tuple=digest(host), bytes=1, files=1)
    said = worker(identity=identity, identity_inputs=inputs, host_tuple=digest(host), host=host, artifact=artifact)
    return ready(slot, worker=said, node=node, **fields)


def updated(host: HostTuple) -> HostTuple:
    """With another driver."""
    return msgspec.structs.replace(host, gpu_driver="615")


def name(pod: PodView) -> str:
    state: WorkerState | None = pod.worker
    assert state is not None and state.identity is not None and state.host_tuple is not None
    return checkpoint_name(state.identity, state.host_tuple, STORAGE)


def carried_out(before: Snapshot, *pods: PodView) -> Snapshot:
    """What the next plan sees after this one, with these pods."""
    done = plan(before)
    made = [published(manifest, generation=None) for manifest in done.create_checkpoints]
    status = before.pool.status if done.status is None else done.status
    return replace(
        before,
        pool=replace(before.pool, status=status),
        checkpoints=(*before.checkpoints, *made),
        pods=pods,
    )


def entries(snap: Snapshot) -> dict[str, list[str]]:
    status = plan(snap).status or snap.pool.status
    return {entry["name"]: entry["nodes"] for entry in status.get("checkpoints", [])}


def test_one_for_each_kind_of_node_and_each_stays_while_its_node_does() -> None:
    one, two = on("a1", A, 0), on("b1", B, 1)
    snap = carried_out(snapshot(spec(replicas=2), one, two), one, two)
    assert entries(snap) == {name(one): ["a1"], name(two): ["b1"]}
    alone = carried_out(replace(snap, pool=replace(snap.pool, spec=spec(replicas=1))), one)
    assert entries(alone) == {name(one): ["a1"], name(two): ["b1"]}, "no pod is on b1 now, and one may be again"
    assert fitting([alone.pool], name(two)) == ("b1",)
    assert fitting([replace(alone.pool, deletion_time=1.0)], name(two)) == ()


def test_a_node_with_a_new_driver_fits_the_old_checkpoint_no_more() -> None:
    one, two = on("a1", A, 0), on("b1", B, 1)
    snap = carried_out(snapshot(spec(replicas=2), one, two), one, two)
    changed = on("b1", updated(B), 1)
    later = carried_out(snap, one, changed)
    assert entries(later) == {name(one): ["a1"], name(changed): ["b1"]}


def test_the_pod_that_was_made_last_says_what_its_node_is() -> None:
    old, new = on("n", A, 0, created=1.0), on("n", B, 1, created=2.0)
    snap = carried_out(snapshot(spec(replicas=2), old, new), old, new)
    assert entries(snap) == {name(old): [], name(new): ["n"]}


@pytest.mark.parametrize("reverse", [False, True])
def test_a_node_with_gpus_of_two_kinds_fits_both(reverse: bool) -> None:
    one, two = on("n", A, 0, created=2.0 if reverse else 1.0), on("n", OTHER_GPU, 1, created=1.5)
    snap = carried_out(snapshot(spec(replicas=2), one, two), one, two)
    assert entries(snap) == {name(one): ["n"], name(two): ["n"]}
    alone = carried_out(replace(snap, pool=replace(snap.pool, spec=spec(replicas=1))), two)
    assert entries(alone) == {name(one): ["n"], name(two): ["n"]}


def test_a_revision_that_is_over_names_no_nodes_and_one_of_the_same_identity_goes_on() -> None:
    one, two = on("a1", A, 0), on("b1", B, 1)
    snap = carried_out(snapshot(spec(replicas=2), one, two), one, two)
    for image, expected in (("i", {"a1", "b1"}), ("other", {"a1"})):
        wanted = spec(replicas=1, image="worker:2")
        rolled = on("a1", A, 0, image=image, revision=revision(wanted))
        status = dict(snap.pool.status) | {"currentRevision": revision(wanted), "updateRevision": revision(wanted)}
        after = replace(snap, pool=pool(wanted, status=status), pods=(rolled,), revisions=(kept(wanted),))
        assert {node for nodes in entries(after).values() for node in nodes} == expected


PODS = st.lists(
    st.builds(
        on,
        st.sampled_from("abcdefghijklmnop"),
        st.sampled_from([A, B, OTHER_GPU, updated(A), updated(B)]),
        st.integers(0, 99),
        st.sampled_from(["i", "j"]),
        created=st.floats(0, 100),
    ),
    max_size=20,
    unique_by=lambda pod: pod.slot,
)


@given(st.lists(PODS, max_size=4))
def test_whatever_pods_come_and_go(turns: list[list[PodView]]) -> None:
    made, hosts = [revision(spec())], {digest(h): h for h in (A, B, OTHER_GPU, updated(A), updated(B))}
    seen, known = pool(), dict[str, CheckpointView]()
    for pods in turns:
        found = listed(seen, STORAGE, made, pods, known)
        names = [entry["name"] for entry in found]
        assert names == sorted({*names}) and {name(pod) for pod in pods} <= {*names}
        of: dict[tuple[str, str], set[Any]] = {}
        for entry in found:
            assert len(entry["nodes"]) <= MOST_NODES and entry["nodes"] == sorted({*entry["nodes"]})
            for node in entry["nodes"]:
                machine = hosts[entry["hostTuple"]]
                of.setdefault((entry["identity"], node), set()).add((machine.kernel, machine.gpu_driver))
        assert all(len(machines) == 1 for machines in of.values()), "a node is one machine"
        [manifest] = plan(snapshot(spec(), ready())).create_checkpoints
        view = published(manifest, generation=None)
        for entry in found:
            about = {"identity": entry["identity"], "host_tuple": entry["hostTuple"]}
            host = msgspec.to_builtins(hosts[entry["hostTuple"]])
            known[entry["name"]] = replace(
                view, name=entry["name"], spec=view.spec.model_copy(update=about | {"host": host})
            )
        seen = pool(status={"checkpoints": found})
        assert listed(seen, STORAGE, made, pods, known) == found, "it settles at once"
        for_nodes = [entry for entry in found if entry["nodes"]]
        assert listed(seen, STORAGE, made, [], known) == for_nodes, "without pods it is kept for its nodes"


def test_which_checkpoints_pods_are_made_of_and_where_others_of_their_identity_are() -> None:
    entries = [
        {"name": "one", "identity": "i", "revision": "r2", "nodes": ["a", "b"]},
        {"name": "two", "identity": "i", "revision": "r2", "nodes": ["b", "c"]},
        {"name": "old", "identity": "o", "revision": "r1", "nodes": ["d"]},
    ]
    status = {"checkpoint": {"name": "one"}, "checkpoints": entries, "updateRevision": "r2", "currentRevision": "r2"}
    found = pool(status=status)
    assert [name for name in ("one", "two", "old", "none") if makes(found, name)] == ["one", "two"]
    assert elsewhere(found, "one", "i") == {"c"} and elsewhere(found, "two", "i") == {"a"}
    assert not elsewhere(found, "old", "o") and not makes(pool(), "one")
