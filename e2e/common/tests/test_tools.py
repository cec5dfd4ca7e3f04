"""What tools say goes to one log file, told once; its end is shown when a tool fails."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from common import tools
from common.tools import ToolError, run

TALKS = [sys.executable, "-c", "import sys; print('loud'); print('louder', file=sys.stderr)"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VERNAL_CACHE", str(tmp_path))
    monkeypatch.setenv(tools.LOG_VARIABLE, "")  # so that what `log_file` sets is undone
    return tmp_path


def test_the_screen_shows_the_logs_name_once_and_no_word_of_the_tools(
    cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(TALKS, "Weep.")
    run(TALKS, "Weep.")
    said = capsys.readouterr()
    (log,) = (cache / "logs").glob("*.log")
    assert said.out == "" and said.err.count("\n") == 1 and said.err.endswith(f"what tools say goes to {log}\n")
    assert log.read_text().count("loud\n") == log.read_text().count("louder\n") == 2
    assert f"$ {sys.executable} -c" in log.read_text()


def test_programs_that_it_runs_use_the_same_log(cache: Path, capfd: pytest.CaptureFixture[str]) -> None:
    program = f"from common.tools import run; run({TALKS}, 'Weep.')"
    run(TALKS, "Weep.")
    environment = {**os.environ, "PYTHONPATH": str(Path(tools.__file__).parents[1])}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment)
    (log,) = (cache / "logs").glob("*.log")
    assert log.read_text().count("louder\n") == 2
    assert capfd.readouterr().err.count(str(log)) == 1


def test_a_failure_shows_the_end_of_what_was_said_and_what_to_do(cache: Path) -> None:
    program = "import sys; [print('line', n) for n in range(999)]; print('disk full', file=sys.stderr); sys.exit(7)"
    with pytest.raises(ToolError) as failed:
        run([sys.executable, "-u", "-c", program], "Make room.")
    text = str(failed.value)
    (log,) = (cache / "logs").glob("*.log")
    assert "exited with status 7. Make room." in text and f"The end of {log}:" in text
    assert text.endswith("    line 998\n    disk full") and "line 900\n" not in text
    assert "line 900\n" in log.read_text()


def test_a_tool_that_is_not_there(cache: Path) -> None:
    with pytest.raises(ToolError, match=r"^buildah-of-mars is not there\. Install it\.$"):
        run(["buildah-of-mars"], "Install it.")


def test_what_is_given_is_read_and_variables_are_added(cache: Path) -> None:
    run(["sh", "-c", 'echo "$GREETING $(cat)"'], "Weep.", {"GREETING": "hello"}, "from stdin")
    assert "hello from stdin\n" in tools.log_file().read_text()


def test_old_logs_go(cache: Path) -> None:
    (cache / "logs").mkdir()
    for number in range(30):
        (cache / "logs" / f"20200101-0000{number:02}-1.log").touch()
    newest = tools.log_file()
    newest.touch()
    left = sorted((cache / "logs").iterdir())
    assert len(left) == 20 and left[-1] == newest and left[0].name == "20200101-000011-1.log"
