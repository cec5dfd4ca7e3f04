"""What `kubectl vernal checkpoints` lists."""

from typing import Any

from kubectl_vernal.read import CHECKPOINTS
from kubectl_vernal.views import checkpoints
from recording import BUCKET, world


def test_a_quarantined_checkpoint_says_so_and_why() -> None:
    def change(raw: dict[str, Any]) -> None:
        entry = next(
            one for one in raw["objects"][CHECKPOINTS][0]["status"]["conditions"] if one["type"] == "Quarantined"
        )
        entry.update(status="True", reason="Quarantined", message="failed 3 times")

    rows = checkpoints.view(world(change))
    (one,) = (row for row in rows if row["state"] == "Quarantined")
    assert checkpoints.text(rows)[-1] == f"{one['name']}: Quarantined: failed 3 times"


def test_one_that_is_deleted_is_on_its_way() -> None:
    def change(raw: dict[str, Any]) -> None:
        raw["objects"][CHECKPOINTS][0]["metadata"]["deletionTimestamp"] = "2026-11-25T10:00:00Z"

    assert "Deleting" in {row["state"] for row in checkpoints.view(world(change))}


def test_a_checkpoint_in_a_bucket_is_shown_with_its_url() -> None:
    def change(raw: dict[str, Any]) -> None:
        raw["objects"][CHECKPOINTS][0]["spec"]["storage"] = BUCKET

    assert "s3://models/vernal" in [row["claim"] for row in checkpoints.view(world(change))]
