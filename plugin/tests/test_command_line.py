"""Flags, help, completion, output: what is there without a cluster."""

import argparse
import io
import json
import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from images.tools import install
from kubectl_vernal import output
from kubectl_vernal.cluster import Cluster
from kubectl_vernal.complete import candidates
from kubectl_vernal.errors import MEANING
from kubectl_vernal.main import VERBS, main, parser
from kubectl_vernal.verbs import completion, logs
from kubectl_vernal.views.redact import GONE, redact, sensitive, text

DOCS = Path(__file__).parents[2] / "docs" / "plugin.md"


def verbs() -> dict[str, argparse.ArgumentParser]:
    (action,) = (one for one in parser()._actions if isinstance(one, argparse._SubParsersAction))
    return dict(action.choices)


@pytest.mark.parametrize("verb", sorted(verbs()))
def test_help_teaches_with_an_example_that_is_one(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    help_text = verbs()[verb].format_help()
    examples = re.findall(rf"^  (?:source <\()?kubectl[ -]vernal {verb}(.*)$", help_text, re.MULTILINE)
    assert examples, help_text
    for example in examples:
        words = re.split(r" [|>#)]| {2,}", example.rstrip(")"))[0].split()
        verbs()[verb].parse_args(words)


@pytest.mark.parametrize("current", [None, "gone", "other"])
def test_a_context_that_is_given_is_enough(tmp_path: Path, current: str | None) -> None:
    """As for kubectl: whatever context the file calls current, if any."""
    config: dict[str, Any] = {
        "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:1"}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [
            {"name": "prod", "context": {"cluster": "c", "user": "u", "namespace": "ml"}},
            {"name": "other", "context": {"cluster": "c", "user": "u", "namespace": "elsewhere"}},
        ],
    }
    if current is not None:
        config["current-context"] = current
    (tmp_path / "config").write_text(json.dumps(config))
    assert Cluster.connect(str(tmp_path / "config"), "prod").namespace == "ml"


def test_every_module_of_verbs_is_a_verb() -> None:
    folder = Path(logs.__file__).parent
    assert {path.stem for path in folder.glob("[a-z]*.py")} == {verb.__name__.rpartition(".")[2] for verb in VERBS}


def test_the_page_has_the_exit_codes() -> None:
    rows = dict(re.findall(r"^\| (\d) \| (.*) \|$", DOCS.read_text(), re.MULTILINE))
    assert rows == {str(int(code)): meaning for code, meaning in MEANING.items()}


def test_no_cluster_is_told_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert main(["status"]) == 3
    assert "KUBECONFIG" in capsys.readouterr().err


class _Answers(BaseHTTPRequestHandler):
    data = b""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.data)))
        self.end_headers()
        self.wfile.write(self.data)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.mark.parametrize("data", [b"no JSON", b"[" * 100_000 + b"]" * 100_000], ids=["no JSON", "no end"])
def test_an_answer_that_cannot_be_read_is_told_in_a_line(
    data: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One pool may be nested as deep as the API server keeps, and a worker may answer anything."""
    monkeypatch.setattr(_Answers, "data", data)
    with ThreadingHTTPServer(("127.0.0.1", 0), _Answers) as server:
        threading.Thread(target=server.serve_forever).start()
        url = f"http://127.0.0.1:{server.server_port}"
        cluster, context = (
            {"name": "c", "cluster": {"server": url}},
            {"name": "c", "context": {"cluster": "c", "user": "u"}},
        )
        config = {
            "clusters": [cluster],
            "contexts": [context],
            "users": [{"name": "u", "user": {}}],
            "current-context": "c",
        }
        (tmp_path / "config").write_text(json.dumps(config))
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
        try:
            assert main(["status"]) == 3
        finally:
            server.shutdown()
    said = capsys.readouterr().err
    assert "the answer cannot be read" in said and "Traceback" not in said and said.count("\n") == 1


def test_n_and_a_exclude_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["status", "-n", "a", "-A"])


# --- completion ---------------------------------------------------------------------------------------------


def complete(*words: str) -> list[str]:
    def lookup(kind: str, namespace: str | None) -> list[str]:
        return {"pool": [f"{namespace}-pool"], "pod": ["pod-1", "pod-2"]}[kind]

    return [line.partition("\t")[0] for line in candidates(parser(), list(words), lookup)]


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["st"], ["status"]),
        (["status", ""], ["None-pool"]),
        (["status", "-n", "x", ""], ["x-pool"]),
        (["explain", "pod"], ["pod-1", "pod-2"]),
        (["explain", "other"], []),
        (["status", "-o", "j"], ["json"]),
        (["status", "--all"], ["--all-namespaces"]),
        (["completion", "ba"], ["bash"]),
        (["nothing", ""], []),
    ],
)
def test_completion(words: list[str], found: list[str]) -> None:
    assert complete(*words) == found


def test_all_verbs_are_offered_and_hidden_flags_are_not() -> None:
    assert set(complete("")) == set(verbs())
    assert "--admin-port" not in complete("status", "-")


SHELLS = {
    "bash": "source /dev/stdin\nCOMP_WORDS=(kubectl-vernal comple) COMP_CWORD=1; _kubectl_vernal; echo ${COMPREPLY[@]}",
    "zsh": "compdef() { :; }; compadd() { shift; echo $@; }; . /dev/stdin\n"
    "words=(kubectl-vernal comple) CURRENT=2; _kubectl_vernal",
}


@pytest.mark.parametrize("shell", sorted(SHELLS))
def test_a_shell_completes_with_its_script(shell: str, tmp_path: Path) -> None:
    install({shell: shell}, "Completion is tried in the shell itself")
    program = tmp_path / "kubectl-vernal"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m kubectl_vernal "$@"\n')
    program.chmod(0o755)
    paths = os.pathsep.join(path for path in sys.path if path)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": paths}
    done = subprocess.run(
        [shell, "-c", SHELLS[shell]], input=completion.SCRIPTS[shell], env=environment, capture_output=True, text=True
    )
    assert done.stdout.split() == ["completion"], done


# --- output -------------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_colours_are_for_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert "\x1b[" in output.Paint.of(Terminal())("good", "x")
    assert output.Paint.of(io.StringIO())("good", "x") == "x"
    monkeypatch.setenv("NO_COLOR", "")
    assert output.Paint.of(Terminal())("good", "x") == "x"


def test_coloured_cells_are_as_wide_as_they_look() -> None:
    paint = output.Paint(True)
    plain = output.table(["A", "B"], [["xx", "y"], ["x", "y"]])
    coloured = output.table(["A", "B"], [[paint("good", "xx"), "y"], ["x", "y"]])
    assert [re.sub(r"\x1b\[\d+m", "", line) for line in coloured] == plain


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0, "0s"),
        (59, "59s"),
        (119, "119s"),
        (120, "2m"),
        (125, "2m5s"),
        (3700, "1h1m"),
        (86400 * 3, "3d"),
        (86400 * 30, "30d"),
    ],
)
def test_ages_are_kubectls(value: float, said: str) -> None:
    assert output.age(value) == said


@pytest.mark.parametrize(
    ("value", "said"),
    [(None, "-"), (0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (18.5e9, "17.2 GiB"), (2e12, "1862.6 GiB")],
)
def test_sizes(value: float | None, said: str) -> None:
    assert output.size(value) == said


@pytest.mark.parametrize(("text", "seconds"), [("30s", 30), ("10m", 600), ("2h", 7200)])
def test_times_of_logs(text: str, seconds: int) -> None:
    assert logs._duration(text) == seconds


@pytest.mark.parametrize("text", ["", "10", "m", "-5s", "1.5h"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="30s, 10m or 2h"):
        logs._duration(text)


# --- secrets ------------------------------------------------------------------------------------------------

words = st.text("abcdefghijklmnopqrstuvwxyz0123456789", min_size=24, max_size=40)


@given(
    words, st.sampled_from(["HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "apiKey", "password", "DB_PASSWD", "signingKeyValue"])
)
def test_no_secret_survives_wherever_it_stands(secret: str, field: str) -> None:
    inner: Any = {"env": [{"name": field, "value": secret}], field: secret, "list": [{field: secret}]}
    for value in (
        {"args": ["--api-key", secret]},
        {"args": [f"--api-key={secret}"]},
        inner,
        {"annotation": json.dumps(inner)},
        [inner],
    ):
        assert secret not in str(redact(value))


@given(words)
def test_no_secret_survives_in_a_line_of_a_log(secret: str) -> None:
    for line in (
        f"HF_TOKEN={secret}",
        f"Authorization: Bearer {secret}",
        f"GET https://user:{secret}@host/path",
        f"GET https://bucket/x?X-Amz-Signature={secret}&y=1",
        f"using hf_{secret}",
        f"exec server --hf-token {secret} --port 1",
        f"env AWS_SECRET_ACCESS_KEY={secret} started",
    ):
        assert secret not in text(line), line


def test_what_is_no_secret_stays() -> None:
    kept = {
        "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}},
        "max_tokens": 16,
        "tokenizer": "Qwen/Qwen3-8B",
        "tokenSecret": {"name": "drain", "key": "token"},
        "imagePullSecrets": [{"name": "registry"}],
        "automountServiceAccountToken": False,
        "message": "digest 3f2a does not agree",
    }
    assert redact(kept) == kept
    assert text("event=phase phase=Ready seconds=1.5") == "event=phase phase=Ready seconds=1.5"
    assert redact({"name": "HF_TOKEN", "value": "x"}) == {"name": "HF_TOKEN", "value": GONE}
    assert not sensitive("num_batched_tokens") and sensitive("OPENAI_API_KEY")
