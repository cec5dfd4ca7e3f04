"""Operators of two releases, one after the other, on the same pools."""

import io
import subprocess
import tarfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.apiserver import ApiServer
from controlplane.cases import Case, Server
from controlplane.faults import Bench, Chosen, FaultClass, judge
from controlplane.proxy import Call, Fault
from controlplane.scenarios import ALL, Scenario, run
from controlplane.server import prepared
from controlplane.zygote import Zygote
from vernal_operator.kinds import CHECKPOINTS, PODS, POOLS

ROOT = Path(__file__).parents[3]
PACKAGES = ("operator/vernal_operator", "contract/vernal_contract")
CHART = "charts/vernal"


@dataclass
class Older:
    """An older operator, and an API server with its CRDs and roles; the same server, if these are the same."""

    commit: str
    zygote: Zygote
    server: Server


class NoOlderError(Exception):
    """There is no history to take an older operator from; the message says which part is missing."""


def commit_before(revision: str | None = None) -> str:
    """`revision`, or the newest commit on the way to this one whose operator is not the one that lies here.

    Raises:
        NoOlderError: git or the commit is not there.
    """
    if revision is not None:
        return _git("rev-parse", "--verify", f"{revision}^{{commit}}").strip()
    for commit in _git("rev-list", "--first-parent", "--max-count=200", "HEAD").split():
        if _git("diff", "--name-only", commit, "--", *PACKAGES).strip():
            return commit
    raise NoOlderError("no commit in this clone has another operator (a shallow clone: git fetch --unshallow)")


@contextmanager
def older(commit: str, newer: Server) -> Iterator[Older]:
    """The operator of `commit`, ready to be started."""
    directory = newer.directory / f"older-{commit[:12]}"
    with tarfile.open(fileobj=io.BytesIO(_git_bytes("archive", commit, *PACKAGES, CHART))) as archive:
        archive.extractall(directory, filter="data")
    with ExitStack() as stack:
        zygote = Zygote(tuple((directory / package).parent for package in PACKAGES))
        stack.callback(zygote.close)
        server = newer
        if _git("diff", "--name-only", commit, "--", f"{CHART}/files/crds").strip():
            api = stack.enter_context(ApiServer())
            server = stack.enter_context(prepared(api, directory, chart=directory / CHART))
        yield Older(commit, zygote, server)


def _git(*arguments: str) -> str:
    return _git_bytes(*arguments).decode()


def _git_bytes(*arguments: str) -> bytes:
    try:
        return subprocess.run(["git", "-C", str(ROOT), *arguments], check=True, capture_output=True).stdout
    except FileNotFoundError:
        raise NoOlderError("git is not installed") from None
    except subprocess.CalledProcessError as error:
        raise NoOlderError(f"git {arguments[0]}: {error.stderr.decode().strip()}") from None


WAYS = ("an older operator, then this one", "this one, an older one, this one again", "this one on older CRDs")


def _what(seed: int) -> tuple[Scenario, str]:
    return ALL[seed % len(ALL)], WAYS[seed // len(ALL) % len(WAYS)]


def _one(bench: Bench, namespace: str, seed: int, there: Older) -> int:
    scenario, way = _what(seed)
    chosen = Chosen(bench.reference(scenario), f"older {seed}")
    server = there.server if way == WAYS[2] else bench.server
    newer = bench.server.zygote
    first, then = {WAYS[0]: (there.zygote, newer), WAYS[1]: (newer, there.zygote), WAYS[2]: (newer, newer)}[way]
    with Case(server, namespace, patience=bench.patience) as case:
        case.zygote = first

        def calls(index: int, call: Call) -> Fault | None:
            if not chosen(index, call) or case.operator is None:
                return None
            case.zygote = then  # from the next start on
            return Fault(drop="after", then=case.operator.kill)

        run(case, scenario, calls)
        assert case.starts > 1, f"{namespace}: there is no write number {chosen.number}"
        if way == WAYS[1]:
            case.assert_quiet(2)
            pods = _pods(case)
            case.zygote = newer
            since = time.monotonic()
            case.restart()
            case.wait("it to look", lambda: any(call.is_list and call.at > since for call in case.proxy.calls))
            case.assert_quiet(2)
            assert _pods(case) == pods, f"{namespace}: the other release made pods anew"
        judge(case, bench.reference(scenario).picture, starts=None, view=_roughly)
    return 1


def _pods(case: Case) -> list[str]:
    return sorted(pod["metadata"]["uid"] for pod in case.items(PODS))


def _roughly(picture: dict[str, Any]) -> dict[str, Any]:
    """Without what another release may build otherwise: how a pod or a child is made, and fields of its own in status.

    An upgrade rolls no pool, so pods that another release made stay, under the name of their revision: it is of all
    that was written, with the defaults that the CRDs had then.
    """
    counts = {kind: len(items) for kind, items in picture.items() if kind not in (POOLS.name, CHECKPOINTS.name)}
    told = ("replicas", "readyReplicas", "updatedReplicas", "conditions", "checkpoint")
    pools = [{name: pool.get("status", {}).get(name) for name in told} for pool in picture[POOLS.name]]
    for pool in pools:
        pool["checkpoint"] = {name: value for name, value in (pool["checkpoint"] or {}).items() if name != "revision"}
    return counts | {"pools": pools, "checkpoints": len(picture[CHECKPOINTS.name])}


def older_class(there: Older) -> FaultClass:
    return FaultClass(
        "other-release",
        f"operators of two releases in turn (the other one: {there.commit[:12]})",
        lambda bench: len(ALL) * (2 if there.server is bench.server else 3),
        lambda bench, namespace, seed: _one(bench, namespace, seed, there),
        lambda bench, seed: ", ".join((_what(seed)[0].name, _what(seed)[1])),
    )
