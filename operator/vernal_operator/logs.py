"""The operator's log, in the shape of the workers': `TIME vernal level=warning logger=... message="..."`."""

import logging
import sys

from vernal_contract.logline import format_fields, stamp


class LineFormatter(logging.Formatter):
    """One line a record; a traceback is a field of it, with its line breaks written as \\n."""

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, object] = {
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "traceback": self.formatException(record.exc_info) if record.exc_info else None,
        }
        return f"{stamp(record.created)} vernal {format_fields(fields)}"


def set_up(level: str) -> None:
    """Send records of `level` and above to stderr, and those of libraries only where they tell users something."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter())
    logging.basicConfig(level=level, handlers=[handler])
    logging.getLogger("kopf").setLevel(max(logging.getLevelName(level), logging.WARNING))
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)  # probes
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # the client says what failed
