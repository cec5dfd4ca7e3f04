"""What mkdocs is told beside mkdocs.yml: pages that lie outside of docs/, and what links to and from them lead to.

Pages are written for who reads them in the tree, so links are paths in it. A link to a file that is no page of the site
(code, a Makefile) becomes its path; one to nothing is a warning, which ends a strict build.
"""

from __future__ import annotations

import logging
import posixpath
import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from mkdocs.structure.files import File  # type: ignore[import-not-found]

from docsite.pages import DOCS, FOLDERS, OUTSIDE, ROOT

log = logging.getLogger("mkdocs.hooks.vernal")

_LINK = re.compile(r"(?P<bang>!?)\[(?P<text>(?:[^\[\]]|\[[^\]]*\])*)\]\((?P<target>[^)\s]+)\)")
_CODE = re.compile(r"(^ *```.*?^ *```|`[^`\n]*`)", re.M | re.S)


def on_config(config: Any) -> Any:
    """Folders of pages of a kind come into the navigation by themselves, and so do pages that it does not name."""
    written = repr(config.nav)
    folders = tuple(f"{folder}/" for folder in FOLDERS.values())
    there = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))
    more: list[str] = [name for name in there if not name.startswith(folders) and f"'{name}'" not in written]
    if more:
        config.nav.append({"More": more})
    for title, folder in FOLDERS.items():
        pages = sorted(path.relative_to(DOCS).as_posix() for path in (DOCS / folder).glob("*.md"))
        if pages:
            config.nav.append({title: pages})
    return config


def on_files(files: Any, config: Any) -> Any:
    for path, name in OUTSIDE.items():
        files.append(File.generated(config, name, abs_src_path=str(ROOT / path)))
    for image in sorted((ROOT / "bench").rglob("*.svg")):
        files.append(File.generated(config, image.relative_to(ROOT).as_posix(), abs_src_path=str(image)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    here = _in_tree(page.file.src_uri)
    parts = _CODE.split(markdown)
    return "".join(
        part if number % 2 else _LINK.sub(lambda m: _link(m, here, page), part) for number, part in enumerate(parts)
    )


def _in_tree(name: str) -> str:
    """Path from the root of the tree of a page of the site."""
    return next((path for path, called in OUTSIDE.items() if called == name), f"docs/{name}")


def _link(match: re.Match[str], here: str, page: Any) -> str:
    target, _, anchor = match["target"].partition("#")
    if not target or re.match(r"[a-z]+:", target):
        return match[0]
    path = posixpath.normpath(posixpath.join(posixpath.dirname(here), target))
    if path in OUTSIDE:
        name = OUTSIDE[path]
    elif path.startswith("docs/") and (ROOT / path).is_file():
        name = path.removeprefix("docs/")
    elif path.endswith(".svg") and (ROOT / path).is_file():
        name = path
    elif (ROOT / path).exists():
        return f"{match['text']} (`{path}`)" if path not in match["text"] else match["text"]
    else:
        log.warning("%s: the link to %s leads nowhere", here, match["target"])
        return match[0]
    relative = posixpath.relpath(name, posixpath.dirname(page.file.src_uri) or ".")
    return f"{match['bang']}[{match['text']}]({relative}{'#' + anchor if anchor else ''})"
