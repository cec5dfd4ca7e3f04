"""Why an engine did not start, in vLLM's own words, from what it wrote: pure.

The exception that ends vLLM's main process says only that another process failed, some hundred lines after that one
said why.
"""

import re
from collections.abc import Collection, Sequence

_PREFIX = re.compile(r"^(\((?:EngineCore|Worker|APIServer)[^)]*\) )?(?:[A-Z]+ \d\d-\d\d \d\d:\d\d:\d\d \[[^\]]*\] )?")
_EXCEPTION = re.compile(r"^(?:[A-Za-z_]\w*\.)*[A-Za-z_]\w*(?:Error|Exception)(?:: |$)")
"""By its name, where it was logged without a traceback."""
_TRACEBACK = re.compile(r"^(?:Exception Group )?Traceback \(most recent call last\):$")
_GROUP = re.compile(r"^ +\+ Exception Group Traceback")
_IN_GROUP = re.compile(r"^ *[|+](?: |$)")
"""What Python puts before each line of a group's tracebacks."""
_RULE = re.compile(r"^ *\+-")
"""And between them."""
_USAGE = re.compile(r"^\S+: error: (.*)")
_WRAPPER = re.compile(
    r"Engine core initialization failed|WorkerProc initialization failed|Engine process failed to start"
    r"|Process \S+ died|EngineDeadError|CancelledError"
)
"""Says that something failed elsewhere."""
_INTERRUPTED = re.compile(r"^(?:KeyboardInterrupt|SystemExit|GeneratorExit)\b")
"""A process ended because it was told to: the cause only if there is no other."""
_RELAYED = re.compile(r"^RuntimeError: Worker failed with error '")
_KILLED = re.compile(r"Failed core proc\(s\): \{.*'(\w+)': -(\d+)")
_STOP = re.compile(r"^(Traceback| *\+-|  File |    |During handling|The above exception|\s*$|For further information)")
_CONTINUED = 3
_LONGEST = 1000


def cause(lines: Sequence[str]) -> str | None:
    """The last exception, or argparse's complaint, that is more than the echo of another one; None if there is none."""
    split = _without_groups([_split(line) for line in lines])
    ends = _ends(split)
    interrupted: str | None = None
    for at in range(len(split) - 1, -1, -1):
        process, text = split[at]
        if (usage := _USAGE.match(text)) is not None:
            return _short(usage[1])
        if (at in ends or _EXCEPTION.match(text)) and not _WRAPPER.search(text) and not _RELAYED.match(text):
            said = _short(" ".join([text.rstrip(), *_continued(process, at + 1, split, ends)]))
            if not _INTERRUPTED.match(text):
                return said
            interrupted = interrupted or said
    for line in reversed(lines):
        if (killed := _KILLED.search(line)) is not None:
            why = "; out of memory?" if killed[2] == "9" else ""
            return f"{killed[1]} was killed by signal {killed[2]}{why}"
    return interrupted


def _without_groups(split: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Tracebacks in an exception group as they are outside of one."""
    grouped: set[str] = set()  # processes that are writing one
    plain = []
    for process, text in split:
        if _GROUP.match(text):
            grouped.add(process)
        elif process in grouped and not _IN_GROUP.match(text) and not _RULE.match(text):
            grouped.discard(process)
        plain.append((process, _IN_GROUP.sub("", text, count=1) if process in grouped else text))
    return plain


def _ends(split: Sequence[tuple[str, str]]) -> set[int]:
    """Which lines are the last of a traceback: the exception, whatever it is called. Frames are indented."""
    within: set[str] = set()  # processes that are writing one
    found = set()
    for at, (process, text) in enumerate(split):
        if _TRACEBACK.match(text):
            within.add(process)
        elif process in within and text[:1].strip():
            found.add(at)
            within.discard(process)
    return found


def _split(line: str) -> tuple[str, str]:
    """The process that wrote a line, and the line without what the logger put before it."""
    found = _PREFIX.match(line)
    return (found[1] or "", line[found.end() :]) if found else ("", line)


def _continued(process: str, start: int, split: Sequence[tuple[str, str]], ends: Collection[int]) -> list[str]:
    """The rest of an exception's text that has several lines."""
    found: list[str] = []
    for at in range(start, min(start + _CONTINUED, len(split))):
        writer, text = split[at]
        if writer != process or at in ends or _STOP.match(text) or _EXCEPTION.match(text):
            break
        found.append(text.strip())
    return found


def _short(text: str) -> str:
    text = text.partition(" [type=")[0].strip()  # pydantic's: the rest repeats the input
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
