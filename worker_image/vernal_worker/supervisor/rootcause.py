"""Why an engine did not start, in vLLM's own words, from what it wrote: pure.

The exception that ends vLLM's main process says only that another process failed, some hundred lines after that one
said why.
"""

import re
from collections.abc import Sequence

_PREFIX = re.compile(r"^(\((?:EngineCore|Worker|APIServer)[^)]*\) )?(?:[A-Z]+ \d\d-\d\d \d\d:\d\d:\d\d \[[^\]]*\] )?")
_EXCEPTION = re.compile(r"^(?:[A-Za-z_]\w*\.)*[A-Za-z_]\w*(?:Error|Exception)(?:: |$)")
_USAGE = re.compile(r"^\S+: error: (.*)")
_WRAPPER = re.compile(
    r"Engine core initialization failed|WorkerProc initialization failed|Engine process failed to start"
    r"|Process \S+ died|EngineDeadError|CancelledError"
)
"""Says that something failed elsewhere."""
_RELAYED = re.compile(r"^RuntimeError: Worker failed with error '")
_KILLED = re.compile(r"Failed core proc\(s\): \{.*'(\w+)': -(\d+)")
_STOP = re.compile(r"^(Traceback|  File |    |During handling|The above exception|\s*$|For further information)")
_CONTINUED = 3
_LONGEST = 1000


def cause(lines: Sequence[str]) -> str | None:
    """The last exception, or argparse's complaint, that is more than the echo of another one; None if there is none."""
    split = [_split(line) for line in lines]
    for at in range(len(split) - 1, -1, -1):
        process, text = split[at]
        if (usage := _USAGE.match(text)) is not None:
            return _short(usage[1])
        if _EXCEPTION.match(text) and not _WRAPPER.search(text) and not _RELAYED.match(text):
            return _short(" ".join([text.rstrip(), *_continued(process, split[at + 1 :])]))
    for line in reversed(lines):
        if (killed := _KILLED.search(line)) is not None:
            why = "; out of memory?" if killed[2] == "9" else ""
            return f"{killed[1]} was killed by signal {killed[2]}{why}"
    return None


def _split(line: str) -> tuple[str, str]:
    """The process that wrote a line, and the line without what the logger put before it."""
    found = _PREFIX.match(line)
    return (found[1] or "", line[found.end() :]) if found else ("", line)


def _continued(process: str, after: Sequence[tuple[str, str]]) -> list[str]:
    """The rest of an exception's text that has several lines."""
    found: list[str] = []
    for writer, text in after[:_CONTINUED]:
        if writer != process or _STOP.match(text) or _EXCEPTION.match(text):
            break
        found.append(text.strip())
    return found


def _short(text: str) -> str:
    text = text.partition(" [type=")[0].strip()  # pydantic's: the rest repeats the input
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
