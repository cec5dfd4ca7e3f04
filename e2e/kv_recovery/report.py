"""Judging runs and showing them."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from kv_recovery.cases import Case, Run


@dataclass(frozen=True)
class Verdict:
    """A case, what came of it, and what is wrong with that: nothing, if `problems` is empty."""

    case: Case
    run: Run
    baseline: Run
    problems: tuple[str, ...]


def judge(case: Case, run: Run, baseline: Run) -> Verdict:
    problems: list[str] = []
    failed = [i for i, reason in enumerate(run.reasons) if reason == "error"]
    others = [i for i in range(len(run.answers)) if i not in failed]
    equal = all(run.answers[i] == baseline.answers[i] for i in others)
    if equal == case.differs:
        problems.append("answers are equal, so this test cannot fail" if equal else "answers differ from the baseline")
    if len(failed) != case.failed:
        problems.append(f"{len(failed)} requests failed instead of {case.failed}")
    failures = sum(value for key, value in run.counters.items() if key.startswith("load_failures:"))
    if case.expected and not run.counted("load_failures", sorted(case.expected)):
        problems.append(f"no load failure of kind {' or '.join(sorted(case.expected))} was counted")
    if not case.expected and failures:
        problems.append(f"{failures:.0f} load failures were counted where there should be none")
    if case.recomputes and not run.counted("recomputed_tokens"):
        problems.append("nothing was recomputed: the fault was not injected")
    if case.stored and not case.expected and not run.counted("loaded_tokens"):
        problems.append("nothing was loaded")
    if not case.stored and not run.counted("saves", ["full"]):
        problems.append("no save met a full store")
    return Verdict(case, run, baseline, tuple(problems))


HEADER = f"{'case':34} {'mode':6} {'loaded':>7} {'recomp.':>7} {'failed':>6} {'seconds':>8} {'added':>7}  result"


def row(verdict: Verdict, reference_seconds: float) -> str:
    """One line of the table; tokens loaded and recomputed, requests failed, seconds and seconds above no fault."""
    run = verdict.run
    failed = sum(reason == "error" for reason in run.reasons)
    if verdict.problems:
        result = "FAILED: " + "; ".join(verdict.problems)
    else:
        result = "differs, as it must" if verdict.case.differs else "equal"
    return (
        f"{verdict.case.name:34} {verdict.case.mode:6} {run.counted('loaded_tokens'):7.0f} "
        f"{run.counted('recomputed_tokens'):7.0f} {failed:6} {run.seconds:8.2f} "
        f"{run.seconds - reference_seconds:+7.2f}  {result}"
    )


def difference(verdict: Verdict) -> list[str]:
    """A unified diff of the answers, the baseline's first."""
    return list(
        difflib.unified_diff(
            _lines(verdict.baseline),
            _lines(verdict.run),
            "baseline",
            f"{verdict.case.name} ({verdict.case.mode})",
            lineterm="",
        )
    )


def _lines(run: Run) -> Sequence[str]:
    return [
        f"request {i} ({reason}): {' '.join(map(str, answer))}"
        for i, (answer, reason) in enumerate(zip(run.answers, run.reasons, strict=True))
    ]
