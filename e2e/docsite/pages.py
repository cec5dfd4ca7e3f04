"""The documentation's Markdown: pages, code blocks, links, headings."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"

OUTSIDE = {
    "bench/restore/README.md": "bench.md",
    "worker_image/vernal_worker/client/README.md": "library.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security-policy.md",
}
"""Pages of the site that lie elsewhere in the tree: path from the root, and name in the site."""

FOLDERS = {"Runbooks": "runbooks", "Design records": "design"}
"""Sections of the navigation that hold every page of a folder."""

_FENCE = re.compile(
    r"^(?P<indent> *)(?P<fence>```+|~~~+)(?P<language>[\w-]*)[^\n]*\n(?P<text>.*?)^(?P=indent)(?P=fence) *$",
    re.M | re.S,
)
_LINK = re.compile(r"(?<!!)\[(?P<text>(?:[^\[\]]|\[[^\]]*\])*)\]\((?P<target>[^)\s]+)\)")
_IMAGE = re.compile(r"!\[[^\]]*\]\((?P<target>[^)\s]+)\)")


@dataclass(frozen=True)
class Block:
    """A fenced block of code. `line` is that of its first line of text."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


@dataclass(frozen=True)
class Link:
    page: Path
    line: int
    target: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}: {self.target}"

    @property
    def external(self) -> bool:
        return re.match(r"[a-z]+:", self.target) is not None


def pages() -> list[Path]:
    """Every Markdown page of the documentation, and README, by path."""
    return sorted([*DOCS.rglob("*.md"), *(ROOT / path for path in OUTSIDE), ROOT / "README.md"])


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text()
    for match in _FENCE.finditer(text):
        line = text.count("\n", 0, match.start("text")) + 1
        yield Block(page, line, match["language"], match["text"])


def prose(text: str) -> str:
    """The text without its code, line by line where it was."""
    text = _FENCE.sub(lambda match: "\n" * match[0].count("\n"), text)
    return re.sub(r"`[^`\n]*`", lambda match: "`" + " " * (len(match[0]) - 2) + "`", text)


def links(page: Path) -> Iterator[Link]:
    """Links and images, of prose only."""
    text = prose(page.read_text())
    for pattern in (_LINK, _IMAGE):
        for match in pattern.finditer(text):
            yield Link(page, text.count("\n", 0, match.start()) + 1, match["target"])


def anchors(page: Path) -> set[str]:
    """Ids of a page's headings, as Python-Markdown's toc makes them, and those that are written out."""
    text = _FENCE.sub("", page.read_text())
    found = set(re.findall(r'<a id="([^"]+)"', text)) | set(re.findall(r"^#+ .*\{#([\w-]+)\}", text, re.M))
    for heading in re.findall(r"^#+ +(.*?) *(?:\{#.*\})?$", text, re.M):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\s-]", "", plain).strip().lower()
        found.add(re.sub(r"[-\s]+", "-", slug))
    return found
