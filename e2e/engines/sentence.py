"""Which sentence of a log says why an engine did not start, or died: pure."""

import re

_EXCEPTION = re.compile(r"(?:^|[\s\]])((?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Exit|Interrupt)): (.+)$")
_GENERAL = (
    "Engine core initialization failed",
    "WorkerProc initialization failed",
    "EngineCore encountered an issue",
    "Executor failed",
    "cancelled",
)
"""What vLLM's outer processes say of an error in an inner one."""
_COUNTED = re.compile(r"\d+ validation errors?")
"""How pydantic begins; the errors are in the lines that follow."""
_PREFIX = re.compile(r"^\S+Z engine\s+(?:\(.*?\) ERROR \S+ \S+ \[\S+\]\s*)?")
_MOST = 200


def is_general(text: str) -> bool:
    """Whether an error only says that there was another one."""
    return any(general in text for general in _GENERAL)


def own_sentence(log: str) -> str:
    """The first error of a traceback in a worker's log that is not about another one; the last line if there is
    none. What is logged before the first traceback are warnings."""
    _, traceback, after = log.partition("Traceback (most recent call last)")
    all_lines = (after if traceback else log).splitlines()
    for number, line in enumerate(all_lines):
        if (match := _EXCEPTION.search(line)) and not is_general(match[2]):
            said = [match[2].strip()]
            if _COUNTED.match(said[0]):
                said += [_PREFIX.sub("", more).partition(" [type=")[0].strip() for more in all_lines[number + 1 :][:2]]
            return f"{match[1].rpartition('.')[2]}: {' '.join(said)}"[:_MOST]
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return lines[-1][:_MOST] if lines else "it said nothing"
