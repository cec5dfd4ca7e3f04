"""`python -m vernal_worker` is `vernal-worker`; without arguments it runs a worker.

Images start it with `python -S`: `site` looks into every directory of packages for what it is to do there, which takes
as long as half of all imports. What it found when the image was built is in a file.
"""

import sys

FOUND = "vernal.path"
"""In the directory of a virtual environment: its `sys.path`, one entry a line."""


def _find_packages() -> None:
    try:
        with open(f"{sys.executable.rpartition('/bin/')[0]}/{FOUND}") as file:
            sys.path.extend(entry for entry in file.read().splitlines() if entry not in sys.path)
    except OSError:
        import site

        site.main()


if sys.flags.no_site:
    _find_packages()

from vernal_worker.cli import main  # noqa: E402  # found only now

if __name__ == "__main__":
    main()
