"""`python -m thaw_worker` is `thaw-worker`; without arguments it runs a worker."""

from thaw_worker.cli import main

if __name__ == "__main__":
    main()
