"""`python -m vernal_worker` is `vernal-worker`; without arguments it runs a worker.

Images start it with `python -S`: `site` looks into every directory of packages for what it is to do there, which takes
as long as half of all imports. What it found when the image was built is in a file (`python_path.py`).
"""

import os
import sys

FOUND = "vernal.path"
"""In the directory of a virtual environment."""


def _find_packages() -> None:
    try:
        with open(f"{sys.executable.rpartition('/bin/')[0]}/{FOUND}") as file:
            found = [line.split(" ", 1) for line in file.read().splitlines()]
        same = all(time == "-" or int(time) == int(os.stat(entry).st_mtime) for time, entry in found)  # noqa: PTH116
        if same and any(os.access(f"{entry}/vernal_worker", os.F_OK) for _, entry in found):
            sys.path.extend(entry for _, entry in found if entry not in sys.path)
            return
    except (OSError, ValueError):
        pass
    import site

    site.main()


if sys.flags.no_site:
    _find_packages()

from vernal_worker.cli import main  # noqa: E402  # found only now

if __name__ == "__main__":
    main()
