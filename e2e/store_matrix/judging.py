"""What a store came to, seen by processes that open it afterwards."""

import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from store_matrix.children import run
from store_matrix.table import PUBLISHED, REFUSED, Run

NEXT = 99
"""The artifact that is published when the fault is over."""

_COLLECT_ALL = -10.0
"""A grace period with which all that nobody uses is old enough."""


def judge(
    root: Path,
    created: Mapping[str, Any] | None,
    point: str,
    *,
    damaged: bool = False,
    generations: tuple[str, ...] = (),
) -> Run:
    """The fault is over.

    Args:
        created: the creator's answer, None if it was killed.
        damaged: the artifact was harmed after it was published: whoever reads it must be refused.
        generations: which were there before: that the reader finds one of them is no publication.
    """
    if created is not None and created.get("outcome") == "broken":
        return Run("broken", created["reason"], point)
    found = run("read", str(root))
    wrong = unsound(found, damaged)
    if wrong is not None:
        return Run(wrong, str(found), point)
    if found["state"] != "whole" and created is not None and created.get("outcome") == "published" and not damaged:
        return Run("lost", f"{found['reason']}: {found.get('message')}", point)
    if not damaged:
        again = run("create", str(root), number=NEXT, lease=False)
        after = run("read", str(root))
        if after["state"] != "whole":
            return Run("stuck", f"{again}, {after}", point)
    if left := leftovers(root):
        return Run("leftover", ", ".join(left), point)
    if found["state"] == "whole" and found["generation"] not in generations:
        return Run(PUBLISHED, point=point)
    reason = found.get("reason", "the one before stays")
    if created is not None and not damaged:
        reason = created.get("reason", reason)
    return Run(REFUSED, str(reason), point)


def unsound(found: Mapping[str, Any], damaged: bool = False) -> str | None:
    """The red word for what a reader says, at any time."""
    if found["state"] in ("wrong", "broken"):
        return str(found["state"])
    if found["state"] == "none" and found.get("opened") and not damaged:
        return "half"
    return None


def leftovers(root: Path) -> list[str]:
    """What the collector leaves, once all is old enough, that belongs to no artifact that is current."""
    _age(root)
    for _ in range(2):  # the first run marks
        said = run("collect", str(root), grace=_COLLECT_ALL)
        if "refused" in said:
            return [f"the collector is refused: {said['message']}"]
    left = [str(path.relative_to(root)) for path in root.rglob("*") if path.is_symlink() or not path.is_dir()]
    current = {name.rpartition("/")[0] for name in left if name.endswith("/current")}
    blobs = [name for name in left if name.startswith("blobs/")]
    bad = [
        name
        for name in left
        if name not in blobs
        and not any(
            name.startswith(f"{place}/") and _belongs(root / place, name[len(place) + 1 :]) for place in current
        )
    ]
    bad += blobs[len(current) :]
    return bad + [f"staging/{path.name}" for path in (root / "staging").iterdir()]


def _belongs(place: Path, name: str) -> bool:
    """To the artifact that is current in a key's directory."""
    return name == "current" or name.startswith((f"{(place / 'current').readlink()}/", "users/"))


def _age(root: Path) -> None:
    """Ten minutes pass: a reader that was killed counts as alive for two."""
    then = time.time() - 600
    for path in root.rglob("*"):
        if path.parent.name == "readers":
            with suppress(FileNotFoundError):
                os.utime(path, (then, then))
