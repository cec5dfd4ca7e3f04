"""Build the S3 server that tests run, and print its path.

PYTHONPATH=e2e python3 -m object_store    # versitygw, 2 minutes the first time
"""

import argparse

from common.tools import ToolError, fail

from object_store import PROGRAMS


def main() -> None:
    argparse.ArgumentParser(
        prog="python3 -m object_store", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    try:
        programs = PROGRAMS.ensure()
    except ToolError as error:
        fail(error)
    print("\n".join(programs.values()))


if __name__ == "__main__":
    main()
