"""Print the path of the S3 server that tests run: the one that VERNAL_VERSITYGW names, else one that is built.

PYTHONPATH=e2e python3 -m object_store    # versitygw, 2 minutes the first time
"""

import argparse

from common.tools import ToolError, fail

from object_store.server import program


def main() -> None:
    argparse.ArgumentParser(
        prog="python3 -m object_store", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    try:
        print(program())
    except ToolError as error:
        fail(error)


if __name__ == "__main__":
    main()
