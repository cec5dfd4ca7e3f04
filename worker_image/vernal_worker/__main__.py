"""`python -m vernal_worker` is `vernal-worker`; without arguments it runs a worker."""

from vernal_worker.cli import main

if __name__ == "__main__":
    main()
