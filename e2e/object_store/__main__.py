"""Build the S3 server that tests run: PYTHONPATH=e2e python3 -m object_store prints its path."""

from common.tools import ToolError, fail

from object_store import PROGRAMS


def main() -> None:
    try:
        programs = PROGRAMS.ensure()
    except ToolError as error:
        fail(error)
    print("\n".join(programs.values()))


if __name__ == "__main__":
    main()
