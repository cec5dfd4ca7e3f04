"""What `make kv-recovery` does beside its table, and that its comparison can fail."""

import threading
from pathlib import Path

import pytest
from kv_recovery import recovery, report, saving, ttft
from kv_recovery.cases import Case, Run
from kv_recovery.cases import prompts as prompt_sets
from kv_recovery.child import connector, write_fault
from patience import GUARD_SECONDS
from vernal_worker.kv.faults import Fault, Kind, Which

GOOD = Run([[1, 2], [3, 4]], ["length", "length"], 1.0, {"loaded_tokens": 256})


@pytest.mark.integration
@pytest.mark.parametrize("in_flight", [0, 4])
def test_the_first_token_with_and_without_the_store(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], in_flight: int
) -> None:
    """Shows how much sooner it comes; that the prefixes are loaded is what is checked."""
    bench = recovery.cpu_bench(tmp_path, print)
    setting = ttft.Setting(bench.engine, bench.environment, 15 * 128, range(4, 512), in_flight=in_flight)
    with capsys.disabled():
        ttft.measure(setting, tmp_path, print)


@pytest.mark.integration
def test_throughput_with_and_without_saving(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Shows what saving costs; that blocks are saved is what is checked."""
    bench = recovery.cpu_bench(tmp_path, print)
    setting = saving.Setting(bench.engine, bench.environment, range(4, 512), prompts=4, tokens=1000, rounds=3)
    test = saving.Measurement(setting, tmp_path, print)
    with capsys.disabled(), test.plain, test.saving:
        test.compare()


@pytest.mark.integration
@pytest.mark.parametrize("timeout", [GUARD_SECONDS, 0.5], ids=["in time", "too late"])
def test_a_producer_that_exits_finishes_its_saves_or_times_out(tmp_path: Path, timeout: float) -> None:
    """vLLM's own shutdown, right after the answer, while storage holds every block back."""
    bench = recovery.cpu_bench(tmp_path, print)
    hold = tmp_path / "hold"
    hold.touch()
    write_fault(bench.fault, Fault(kind=Kind.SLOW_SAVE, which=Which.ALL, hold=str(hold)))
    producer = connector(
        bench.store, role="kv_producer", fault_file=str(bench.fault), flush_timeout_seconds=timeout, threads=4
    )
    with bench.child(producer, "prefill") as child:
        prompts = prompt_sets(child.block_tokens)["apart"]
        child.run(prompts, 1, flush=False)
        assert not stored(bench.store), "the saves are still to be finished"
        if timeout == GUARD_SECONDS:
            threading.Timer(0.5, hold.unlink).start()  # while it exits, or before
    assert len(stored(bench.store)) == (4 * 3 if timeout == GUARD_SECONDS else 0)


def stored(store: Path) -> list[Path]:
    return list(store.glob("*/*/*.kv"))


def test_the_answers_that_must_be_equal_are_compared() -> None:
    other = Run([[1, 2], [3, 5]], ["length", "length"], 1.0, {"loaded_tokens": 256})
    assert report.judge(Case("c", Fault()), GOOD, GOOD).problems == ()
    verdict = report.judge(Case("c", Fault()), other, GOOD)
    assert verdict.problems == ("answers differ from the baseline",)
    assert "-request 1 (length): 3 4" in report.difference(verdict)
    assert "+request 1 (length): 3 5" in report.difference(verdict)


def test_a_control_that_does_not_differ_is_a_failure() -> None:
    (problem,) = report.judge(Case("c", Fault(), differs=True), GOOD, GOOD).problems
    assert "cannot fail" in problem


def test_a_fault_that_was_not_injected_is_a_failure() -> None:
    case = Case("c", Fault(), frozenset({"corrupt"}), recomputes=True)
    assert len(report.judge(case, GOOD, GOOD).problems) == 2


def test_with_policy_fail_exactly_the_affected_requests_fail() -> None:
    one_failed = Run([[], [3, 4]], ["error", "length"], 1.0, {"load_failures:corrupt": 1})
    case = Case("c", Fault(), frozenset({"corrupt"}), failed=1)
    assert report.judge(case, one_failed, GOOD).problems == ()
    assert report.judge(case, GOOD, GOOD).problems
