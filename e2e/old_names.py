#!/usr/bin/env python3
"""Finds what still bears the project's old name: `python3 e2e/old_names.py [FILE...]`, a part of `make lint`.

Vernal was called Thaw. A worker still freezes and thaws, so the word itself stays where it is the verb (`thaw.py`,
`ThawTimeout`, `Phase.THAWING`, `thawTimeoutSeconds`), and only the names are found: packages, programs, the API group,
environment variables, paths, namespaces, images, connectors, metrics, and the proper name in a sentence. Each is
printed as FILE:LINE with the name to write instead. A line that says "formerly" tells history and is left alone.

Without arguments it reads, and looks at the paths of, all files that git knows or would add. Exit status 1 if
anything was found.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
#: These two must write the old names down.
EXEMPT = ("e2e/old_names.py", "e2e/tests/test_old_names.py")

#: Constants and classes that are called after the verb. Every other THAW_… and Thaw… was named after the project.
VERB_CONSTANTS = ("TIMEOUT", "GIVEN_UP", "FAILED", "REQUIRED")
VERB_CLASSES = ("Error", "Failed", "Failure", "Failures", "GivenUp", "Required", "Result", "Timeout", "Timings")

_HELM = "labels|selectorLabels|name|clusterName|rules"
_PROGRAMS = "operator|worker|system|view|edit|admin|kube|node|cluster|demo|store|storm|outcomes|shutdown|base|bench"
_LESS_SEEN = "stamp|build|context|test|canary|inbox|control|command|criu|keep-awake|api|kv"
_METHODS = "adopted|adopt|connect|quiesce|resume|unshield|link|finish_transfers|save_weights|load_weights"
_FOLDERS = r"opt|run|lib|tmp|etc|bin|\.cache|charts|docker\.io|localhost|REGISTRY|registry"
_SAYS_OR_IS = "is|has|was|had|does|did|can|will|needs|runs|uses|keeps|knows|makes|adds|builds|looks|sets|starts|reaches"

#: What is found, as (what it is, pattern). The whole match is reported.
PATTERNS: tuple[tuple[str, str], ...] = (
    ("a Python package", r"\bthaw_(?:contract|operator|worker)(?![A-Za-z0-9])"),
    ("a metric or file prefix", r"\bthaw_(?:kv|operator|worker|script)_\w*|\bthaw_kv\b"),
    ("a method of the worker extension", rf"\bthaw_(?:{_METHODS})\b"),
    ("the prefix of names", r"(?<![A-Za-z0-9_])thaw_(?!\w)"),
    ("an environment variable", rf"\bTHAW_(?!(?:{'|'.join(VERB_CONSTANTS)})\b)[A-Z0-9_]*"),
    ("a format's magic", r"\bTHAWKV\b"),
    ("a class", rf"\b[A-Z]?[a-z]*Thaw(?!(?:{'|'.join(VERB_CLASSES)})\b)[A-Z]\w*"),
    ("the API group or a host", r"\b(?:[\w-]+\.)*thaw\.(?:dev|local)(?![A-Za-z0-9])(?:/[\w./-]+)?"),
    ("a template or file of the project", rf"\bthaw\.(?:{_HELM}|pth|conflist)\b"),
    ("a program, namespace, image or role", rf"(?<![A-Za-z0-9_-])thaw-(?:{_PROGRAMS}|{_LESS_SEEN})(?![A-Za-z0-9_])"),
    ("an object of a release", r"\b(?:full|small|s|[0-9]+)-thaw(?![\w-])"),
    ("a path or an image", rf"(?<![\w.])/?(?:[\w.~-]+/)*(?:{_FOLDERS})/thaw(?![A-Za-z0-9_])[\w./-]*"),
    ("a release or distribution", r"\b(?:un)?install(?: --?[\w-]+)* thaw(?![\w-])"),
    ("a release or distribution", r"""\b(?:name|release|RELEASE|NAME)["']?\s*[:=]\s*["']?thaw["']?\s*$"""),
    ("a path", r"""/ ["']thaw["']|(?:prefix=|glob\(|CommonName: )["']thaw-"""),
    ("an object or a user", r"""["'](?:name|cluster|user|namespace|current-context|categories)["']: \[?["']thaw["']"""),
    ("a key derivation context", r"""["']thaw 20\d\d """),
    ("a module", r"^\s*import thaw\b"),
    ("the prefix of log lines", r"\bthaw (?:event|level)=|[\"']thaw: "),
    # In a sentence: after a word (a verb there would be in lower case), as an owner, or followed by what it does.
    ("the project's name", r"(?<![A-Za-z])(?<!class )(?<!import )(?<=[a-z0-9)`] )Thaw\b(?!\(| \||\[)"),
    ("the project's name", r"\bThaw(?:'s|, (?:which|that|a|the)\b)"),
    ("the project's name", rf"\bThaw(?= (?:{_SAYS_OR_IS})\b)"),
    ("the project's name", r"""^#+ Thaw$|\| Thaw \||, ["']THAW["']\)|, Thaw(?= [a-z]|\.)"""),
)  # fmt: skip
_COMPILED = [(what, re.compile(pattern)) for what, pattern in PATTERNS]


@dataclass(frozen=True)
class Finding:
    """An old name: the line that it is in, counted from 1 (0: the path itself), what it names, and what to write."""

    line: int
    old: str
    new: str
    what: str


def find(text: str) -> list[Finding]:
    """Every old name in a file's text, in order. A name that several patterns find is told once."""
    return [
        Finding(number, old, renamed(old), what)
        for number, line in enumerate(text.splitlines(), 1)
        if "formerly" not in line.lower()
        for old, what in _in_line(line)
    ]


def renamed(old: str) -> str:
    """The name to write instead, in the same case."""
    old = old.replace("THAWKV", "VERNAL")
    return old.replace("thaw", "vernal").replace("Thaw", "Vernal").replace("THAW", "VERNAL")


def _in_line(line: str) -> Iterator[tuple[str, str]]:
    if "thaw" not in line.lower():
        return
    found = [(match.start(), -match.end(), match.group(), what) for what, p in _COMPILED for match in p.finditer(line)]
    end = 0
    for start, stop, old, what in sorted(found):
        if start >= end:  # else it lies in the one before
            yield old.strip(), what
            end = -stop


def find_in_path(path: str) -> list[Finding]:
    """Old names in a path, as line 0. Files are called after the verb, folders and packages after the project."""
    return [Finding(0, old, renamed(old), what) for old, what in _in_line(path)]


def _files() -> list[str]:
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listing = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise SystemExit(f"error: git lists no files here ({error}): name the files to look at") from error
    return [name for name in listing.split("\0") if name and name not in EXEMPT and (ROOT / name).is_file()]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", metavar="FILE", help="only these (default: the whole checkout)")
    count = 0
    for name in parser.parse_args().files or _files():
        try:
            text = (ROOT / name).read_text()
        except UnicodeDecodeError:
            continue  # a picture, not a text
        for finding in [*find_in_path(name), *find(text)]:
            count += 1
            print(f"{name}:{finding.line}: {finding.old}: write {finding.new} ({finding.what})")
    if count:
        print(
            f"error: {count} old names. What is called after the verb goes into VERB_CONSTANTS or VERB_CLASSES of "
            "e2e/old_names.py; a line about the past says \"formerly\".", file=sys.stderr,
        )  # fmt: skip
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main())
