"""The quick start's commands, copied from its page line by line, and run."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

from docsite.pages import DOCS, ROOT, blocks

PAGE = DOCS / "quick-start.md"
SECTION = "On the embedded cluster"


def commands(page: Path = PAGE, section: str = SECTION) -> list[str]:
    """Every line of the `sh` blocks of a section, in order; a line that ends in a backslash goes on in the next.

    Raises:
        ValueError: there is no such section, or it has no commands.
    """
    lines = page.read_text().splitlines()
    begin = lines.index(f"## {section}")
    end = next((n for n in range(begin + 1, len(lines)) if lines[n].startswith("## ")), len(lines))
    found: list[str] = []
    for block in blocks(page):
        if block.language == "sh" and begin < block.line - 1 < end:
            found += block.text.replace("\\\n", " ").splitlines()
    found = [line for line in found if line.strip() and not line.startswith("#")]
    if not found:
        raise ValueError(f"{page.name}: no commands in {section!r}")
    return found


def script(lines: list[str]) -> str:
    """One bash program, since lines set variables for later ones. Each is shown before it runs; the first that fails
    ends it.
    """
    shown = [f"printf '\\n$ %s\\n' {shlex.quote(line)}\n{line}" for line in lines]
    return "\n".join(["set -eu -o pipefail", *shown, "printf '\\nThe quick start went through.\\n'"]) + "\n"


def run() -> int:
    """Run it from the root of the checkout. Returns bash's exit status."""
    return subprocess.run(["bash", "-c", script(commands())], cwd=ROOT, check=False).returncode
