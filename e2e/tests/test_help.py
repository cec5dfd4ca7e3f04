"""`--help` of everything in e2e that a person may run teaches: what it does, an example to copy, and every argument."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

E2E = Path(__file__).parents[1]
#: Run by another program, which tells it everything: no person types its arguments.
CHILDREN = {
    "dashboards/draw.py",
    "front_door/bad.py",
    "front_door/good.py",
    "kv_recovery/engine.py",
    "store_matrix/children.py",
    "store_matrix/fault_fs.py",
}
PROGRAMS = sorted(
    name
    for path in [*E2E.rglob("*.py"), *E2E.rglob("*.sh")]
    if (name := str(path.relative_to(E2E))) not in CHILDREN
    and (path.suffix == ".sh" or '\nif __name__ == "__main__":\n' in path.read_text())
)
VERBS = {
    "docsite/__main__.py": ["build", "links", "quickstart"],
    "cluster/__main__.py": ["up", "down", "clean", "status", "kubeconfig", "load-image", "build", "api-only"],
    "shutdown/__main__.py": ["matrix", "kills", "storm", "outcomes"],
}


def help_of(name: str, *verb: str) -> str:
    """Raises CalledProcessError unless it exits with 0."""
    module = name.removesuffix(".py").removesuffix("/__main__").replace("/", ".")
    script = [str(E2E / name)] if (E2E / name).parent == E2E or name.startswith(("images/", "models/")) else None
    command = ["bash", str(E2E / name)] if name.endswith(".sh") else [sys.executable, *(script or ["-m", module])]
    environment = {**os.environ, "PYTHONPATH": str(E2E), "COLUMNS": "120"}
    done = subprocess.run([*command, *verb, "--help"], check=True, capture_output=True, text=True, env=environment)
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize("name", PROGRAMS)
def test_it_says_what_it_does_and_gives_an_example(name: str) -> None:
    text = help_of(name)
    called = {"__main__.py": f"python3? -m {Path(name).parent.name}", "leftovers.py": r"python3? -m cluster\.leftovers"}
    called["speed.py"] = r"python3? -m kv_recovery\.speed"
    called["other_stores.py"] = r"python3? -m kv_recovery\.other_stores"
    example = called.get(Path(name).name, re.escape(f"e2e/{name}"))
    outside_usage = re.sub(r"^usage: .*?\n\n", "", text, flags=re.DOTALL)
    assert re.search(example, outside_usage), f"no example of a call in:\n{text}"
    assert_each_argument_is_explained(text)


@pytest.mark.parametrize(("name", "verb"), [(name, verb) for name, verbs in VERBS.items() for verb in verbs])
def test_so_does_each_verb(name: str, verb: str) -> None:
    text = help_of(name, verb)
    description = text.partition("\n\n")[2].partition("\n\n")[0]
    assert len(description) > 30 and not description.startswith("options:"), text
    assert_each_argument_is_explained(text)


def assert_each_argument_is_explained(text: str) -> None:
    """argparse puts an explanation behind two spaces, or into the next line, further in."""
    lines = text.splitlines()
    for line, after in zip(lines, [*lines[1:], ""], strict=True):
        if re.match(r"  (-|\w|{)", line) and not re.search(r"\S  +\S", line.strip()) and "$" not in line:
            argument = re.fullmatch(r"  (-[\w-]+.*|[a-z]\w*|{.*}|[A-Z_]+)", line)
            assert not argument or after.startswith("     "), f"{line.strip()} is not explained in:\n{text}"
