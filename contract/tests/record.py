"""Writes down what this minor version writes: `python contract/tests/record.py`, once a minor version."""

import sys
import tomllib
from pathlib import Path

import msgspec

sys.path.insert(0, str(Path(__file__).parent))
from test_skew import CONFIG, HOST, INPUTS, RECORDED, STATE

if __name__ == "__main__":
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    version = ".".join(project["version"].split(".")[:2])
    for name, value in {"config": CONFIG, "state": STATE, "identity": INPUTS, "host": HOST}.items():
        text = msgspec.json.format(msgspec.json.encode(value, order="deterministic"))
        RECORDED.joinpath(f"{name}-{version}.json").write_bytes(text + b"\n")
