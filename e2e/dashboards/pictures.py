"""Where dashboards and their pictures lie, and whether a picture is of the dashboard as it is now."""

from __future__ import annotations

import hashlib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BOARDS = ROOT / "charts" / "vernal" / "files" / "dashboards"
PICTURES = ROOT / "docs" / "pictures"


def digest(board: Path) -> str:
    """What a picture is made from: the dashboard, and how its series go."""
    total = hashlib.sha256(board.read_bytes())
    total.update(Path(__file__).with_name("story.py").read_bytes())
    return f"sha256:{total.hexdigest()}"


def stale() -> list[str]:
    """Dashboards whose picture is missing or of another state, and pictures of none."""
    boards = {board.stem: digest(board) for board in BOARDS.glob("*.json")}
    there = {picture.stem: picture.read_text() for picture in PICTURES.glob("*.svg")}
    return sorted(name for name in boards.keys() | there.keys() if boards.get(name, "-") not in there.get(name, ""))
