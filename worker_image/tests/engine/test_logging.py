"""What the engine says reaches the worker's log."""

import subprocess
import sys

PROGRAM = """
import logging
from logging.config import dictConfig
from vernal_worker.engine import main, pool

dictConfig({"version": 1, "root": {"level": "ERROR", "handlers": []}})  # as a library that thinks it is alone
pool._logger.warning("lost")
main._log_ours()
pool._logger.warning("a connection was cut")
logging.getLogger("uvicorn.error").warning("an invalid request")
main._logger.info("serving")
"""


def test_whatever_libraries_do_to_logging() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines() == ["a connection was cut", "an invalid request", "serving"]
