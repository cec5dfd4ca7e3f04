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
_MOST = 200


def own_sentence(log: str) -> str:
    """The first error in a worker's log that is not about another one; the last line if there is none."""
    for line in log.splitlines():
        if (match := _EXCEPTION.search(line)) and not any(general in match[2] for general in _GENERAL):
            return f"{match[1].rpartition('.')[2]}: {match[2].strip()}"[:_MOST]
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return lines[-1][:_MOST] if lines else "it said nothing"
