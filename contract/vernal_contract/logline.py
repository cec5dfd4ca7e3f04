"""One shape for log lines of operator and workers: `TIME vernal key=value key="several words"`, one line an entry."""

import datetime
import re

_PLAIN = re.compile(r"[^\s\"=]+")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")  # whoever reads lines may take some of them for an end


def format_fields(fields: dict[str, object]) -> str:
    """`key=value` pairs; a value with spaces, quotes or line breaks is quoted, one that is None is left
    out."""
    parts: list[str] = []
    for key, value in fields.items():
        if value is None:
            continue
        text = f"{value:.3f}" if isinstance(value, float) else str(value)
        if not _PLAIN.fullmatch(text):
            text = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
            text = '"' + _CONTROL.sub(_escaped, text) + '"'
        parts.append(f"{key}={text}")
    return " ".join(parts)


def _escaped(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"


def stamp(seconds: float) -> str:
    """A Unix time as the first word of a line: RFC 3339 in UTC, with milliseconds."""
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
