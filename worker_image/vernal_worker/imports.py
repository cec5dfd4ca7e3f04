"""Importing what a start needs, and nothing else."""

import sys


def msgspec_alone() -> None:
    """Without `typing_extensions`, where the image has it: msgspec would take from there what `typing` has as well, and
    it brings `inspect` and the compiler's modules, a tenth of a start."""
    with_it = sys.modules.get("typing_extensions")
    sys.modules["typing_extensions"] = None  # type: ignore[assignment]  # to import it fails
    import msgspec  # noqa: F401

    del sys.modules["typing_extensions"]
    if with_it is not None:
        sys.modules["typing_extensions"] = with_it
