"""The quick start's commands are the page's, and one program."""

import subprocess
from pathlib import Path

import pytest
from docsite.quickstart import PAGE, commands, script


def test_every_command_is_a_line_of_the_page_in_its_order() -> None:
    lines = PAGE.read_text().splitlines()
    found = [lines.index(command) for command in commands()]
    assert found == sorted(found)
    assert len(found) > 20
    assert commands()[1] == "python3 -m cluster up"
    assert commands()[-1].startswith("kubectl delete persistentvolume")
    assert not any("kind" in command.split()[:1] or "REGISTRY" in command for command in commands())


def test_lines_that_go_on_are_one_command_and_comments_none(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "## A\n\n```sh\n# what it does\necho \\\n  one\n```\n\n```yaml\nno: command\n```\n\n## B\n\n```sh\ntwo\n```\n"
    )
    assert commands(page, "A") == ["echo    one"]
    assert commands(page, "B") == ["two"]
    with pytest.raises(ValueError, match="not in list"):
        commands(page, "C")


def test_it_is_a_program() -> None:
    subprocess.run(["bash", "-n", "-c", script(commands())], check=True)


def test_a_line_sees_what_one_before_it_set_and_the_first_that_fails_ends_it() -> None:
    good = subprocess.run(
        ["bash", "-c", script(["export A=1", 'echo "a is $A"'])], capture_output=True, text=True, check=True
    )
    assert "$ export A=1" in good.stdout and "a is 1" in good.stdout
    bad = subprocess.run(
        ["bash", "-c", script(["false | cat", "echo later"])], capture_output=True, text=True, check=False
    )
    assert bad.returncode == 1 and "later\n" not in bad.stdout.replace("$ echo later\n", "")
