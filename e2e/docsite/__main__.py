"""`python -m docsite`: builds the documentation's site, lists where it leads outside, runs the quick start."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from common.progress import say, step
from common.tools import ToolError, fail, run
from images.tools import uv, uv_environment

from docsite import quickstart
from docsite.pages import ROOT, links, pages


def build(target: Path) -> None:
    """Build the site, strictly.

    Raises:
        ToolError: mkdocs warned; the message holds its words.
    """
    command: list[str | Path] = [uv(), "tool", "run", "--from", "mkdocs", "--with-requirements"]
    command += [ROOT / "constraints" / "docs.txt", "mkdocs", "build", "--strict", "--clean"]
    command += ["--config-file", ROOT / "mkdocs.yml", "--site-dir", target]
    with step(f"building {target} (10 s)"):
        run(
            command,
            "Correct the pages that it names; each is Markdown in docs/.",
            uv_environment() | {"NO_MKDOCS_2_WARNING": "1"},
        )
    say(f"{target}/index.html")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m docsite", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", help="what to do")
    builder = commands.add_parser(
        "build", help="build the site", description="Build the site, strictly: a dead link ends it."
    )
    builder.add_argument("--target", type=Path, default=ROOT / "dist" / "site", help="default: dist/site")
    commands.add_parser(
        "links",
        help="list the links that lead outside",
        description="List the links that lead outside, to look at; nothing is fetched.",
    )
    commands.add_parser(
        "quickstart",
        help="run the quick start",
        description="Copy the quick start's commands from its page, and run them on the embedded cluster.",
    )
    arguments = parser.parse_args()
    if arguments.command == "quickstart":
        return quickstart.run()
    if arguments.command == "links":
        for link in (link for page in pages() for link in links(page)):
            if link.external:
                print(link)
        return 0
    try:
        build(arguments.target.absolute())
    except ToolError as error:
        fail(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
