"""Candidates for a shell's completion, from the parser itself.

The answer is kubectl's and cobra's: one candidate a line, a tab and what it is, and as the last line ":4" (do not offer
files instead).
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

Lookup = Callable[[str, str | None], Sequence[str]]
"""Names of what a positional argument takes ("pool", "pod"), in a namespace."""


_KINDS = {"POOL": "pool", "POD": "pod", "POOL|POD": "pool"}  # by metavar


def candidates(parser: argparse.ArgumentParser, words: Sequence[str], lookup: Lookup) -> Iterator[str]:
    """What the last of `words` can become."""
    *before, last = words or [""]
    verbs = _verbs(parser)
    if not before:
        yield from (f"{name}\t{text}" for name, text in verbs.items() if name.startswith(last))
        return
    chosen = _parser_of(parser, before[0])
    if chosen is None:
        return
    flags = {flag: action for action in chosen._actions for flag in action.option_strings}
    if len(before) > 1 and (wants := flags.get(before[-1])) is not None and wants.nargs != 0:
        yield from (str(choice) for choice in wants.choices or () if str(choice).startswith(last))
        return
    if last.startswith("-"):
        shown = (flag for flag, action in flags.items() if action.help is not argparse.SUPPRESS)
        yield from (f"{flag}\t{flags[flag].help}" for flag in shown if flag.startswith(last))
        return
    for action in chosen._actions:
        if action.option_strings:
            continue
        if action.choices:
            yield from (str(choice) for choice in action.choices if str(choice).startswith(last))
        elif kind := _KINDS.get(str(action.metavar)):
            yield from (name for name in lookup(kind, _namespace(before)) if name.startswith(last))


def _verbs(parser: argparse.ArgumentParser) -> dict[str, str]:
    action = next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return {choice.dest: choice.help or "" for choice in action._choices_actions}


def _parser_of(parser: argparse.ArgumentParser, verb: str) -> argparse.ArgumentParser | None:
    action = next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    found: argparse.ArgumentParser | None = action.choices.get(verb)
    return found


def _namespace(words: Sequence[str]) -> str | None:
    for word, after in pairwise(words):
        if word in ("-n", "--namespace"):
            return after
    return None
