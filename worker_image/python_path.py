#!/usr/bin/env python3
"""Prints where this Python finds modules, so that workers need not look for it: `VENV/bin/python -P python_path.py`.

One line for each entry of `sys.path`. Where packages are installed it begins with the time at which one came or went
last, in seconds; a worker of an image in which that is another time looks for itself (vernal_worker/__main__.py).
"""

import sys
from pathlib import Path

for entry in filter(None, sys.path):
    installed = Path(entry).name in ("site-packages", "dist-packages") and Path(entry).is_dir()
    print(int(Path(entry).stat().st_mtime) if installed else "-", entry)
