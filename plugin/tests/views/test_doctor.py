"""What `kubectl vernal doctor` looks at."""

from typing import Any

import pytest
from kubectl_vernal.output import when
from kubectl_vernal.read import POOLS
from kubectl_vernal.views import doctor
from recording import BUCKET, Change, a_node, world

EVERYTHING = doctor.Rights({right[:3]: True for right in doctor.RIGHTS}, "demo")
VERSION = {"major": "1", "minor": "37", "gitVersion": "v1.37.2"}


def checks(change: Change = lambda raw: None, rights: doctor.Rights = EVERYTHING) -> dict[str, doctor.Check]:
    def at_the_lease(raw: dict[str, Any]) -> None:
        raw["now"] = when(_lease(raw)["spec"]["renewTime"])
        change(raw)

    return {check.what: check for check in doctor.view(world(at_the_lease), VERSION, rights)}


def test_all_is_well_where_it_is() -> None:
    found = checks()
    assert doctor.is_well(list(found.values()))
    assert found["Your rights"].outcome == found["Node node"].outcome == "ok"


@pytest.mark.parametrize(
    ("what", "change", "outcome"),
    [
        ("CRD vllmworkerpools", lambda raw: raw["objects"].update(customresourcedefinitions=[]), "bad"),
        ("Operator", lambda raw: raw["objects"].update(leases=[]), "bad"),
        ("Operator", lambda raw: raw["objects"].pop("leases") and raw["unread"].update(leases="403"), "unknown"),
        ("Operator, Lease vernal-system/demo", lambda raw: raw.update(now=raw["now"] + 3600), "bad"),
        (
            "Operator, Lease vernal-system/demo",
            lambda raw: _lease(raw)["spec"].update(holderIdentity=""),
            "bad",
        ),
        ("Claim demo/store", lambda raw: raw["objects"].update(persistentvolumeclaims=[]), "bad"),
        ("Claim demo/store", lambda raw: _claim(raw, "Bound", ["ReadWriteOnce"]), "warn"),
        ("Claim demo/store", lambda raw: _claim(raw, "Bound", ["ReadWriteMany"]), "ok"),
        ("Node node", lambda raw: a_node(raw)["status"]["nodeInfo"].update(kernelVersion="5.4.0"), "warn"),
        (
            "Node node",
            lambda raw: a_node(raw)["metadata"]["labels"].update({"nvidia.com/cuda.driver-version.full": "550.54"}),
            "warn",
        ),
    ],
)
def test_what_is_not_well_is_found(what: str, change: Change, outcome: str) -> None:
    found = checks(change)[what]
    assert found.outcome == outcome
    assert found.do or outcome in ("ok", "unknown")


def test_a_pool_with_a_bucket_needs_no_claim() -> None:
    def change(raw: dict[str, Any]) -> None:
        for one in raw["objects"][POOLS]:
            one["spec"]["checkpoint"]["storage"] = BUCKET
        raw["objects"].update(persistentvolumeclaims=[])

    found = checks(change)
    assert doctor.is_well(list(found.values())) and not [what for what in found if what.startswith("Claim")]


def _lease(raw: dict[str, Any]) -> dict[str, Any]:
    return next(lease for lease in raw["objects"]["leases"] if lease["metadata"]["name"] == "demo")


def _claim(raw: dict[str, Any], phase: str, modes: list[str]) -> None:
    (claim,) = raw["objects"]["persistentvolumeclaims"]
    claim["status"]["phase"], claim["spec"]["accessModes"] = phase, modes


def test_a_right_that_is_missing_says_what_for() -> None:
    lacking = doctor.Rights({**EVERYTHING.allowed, ("get", "", "pods/proxy"): False}, "demo")
    found = checks(rights=lacking)["Your right to get pods/proxy"]
    assert found.outcome == "warn" and "explain" in found.found


def test_an_old_kubernetes_is_told() -> None:
    (first, *_) = doctor.view(world(), {"major": "1", "minor": "33+", "gitVersion": "v1.33.0-eks"}, EVERYTHING)
    assert first.outcome == "bad"
