"""How long what is written down may be: workers' and the API server's words are part of it."""

_LONGEST = 4096


def cut(message: str) -> str:
    """What the schema takes, and what people read."""
    return message if len(message) <= _LONGEST else f"{message[: _LONGEST - 3]}..."
