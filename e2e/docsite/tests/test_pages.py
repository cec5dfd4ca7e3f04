"""What the documentation says is there: files, fields, commands, reasons."""

import argparse
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubectl_vernal.main
import pytest
import vernal_operator.main
import yaml
from docsite.pages import DOCS, OUTSIDE, ROOT, Block, anchors, blocks, links, pages
from vernal_contract.reasons import Reason
from vernal_operator.api.crd import KINDS, object_schema
from vernal_operator.api.parse import parse_checkpoint, parse_pool
from vernal_worker import arguments

PAGES = [page for page in pages() if not page.is_relative_to(DOCS / "design")]
SCHEMAS: dict[str, dict[str, Any]] = {kind.kind: object_schema(kind) for kind in KINDS}


# --- links --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_a_file_and_to_a_heading_in_it(page: Path) -> None:
    dead = []
    for link in links(page):
        if link.external:
            continue
        path, _, anchor = link.target.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
            dead.append(str(link))
    assert not dead


def test_links_outside_are_whole_addresses() -> None:
    found = [link for page in pages() for link in links(page) if link.external]
    assert found
    assert not [str(link) for link in found if not re.fullmatch(r"https://[\w.-]+(/\S*)?", link.target)]


def test_the_navigation_names_pages_that_are_there() -> None:
    """What it does not name comes under More."""
    named = set(re.findall(r"^ +- .*?([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.M))
    there = {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")} | set(OUTSIDE.values())
    assert set(OUTSIDE.values()) <= named <= there


# --- fields -------------------------------------------------------------------------------------------------


def documents() -> Iterator[tuple[str, dict[str, Any]]]:
    """Each YAML document of a page or an example that is one of our kinds, or a part of a pool's."""
    texts = [(str(block), block.text) for page in PAGES for block in blocks(page) if block.language == "yaml"]
    texts += [(str(path.relative_to(ROOT)), path.read_text()) for path in sorted((DOCS / "examples").rglob("*.yaml"))]
    for where, text in texts:
        for document in yaml.safe_load_all(text):
            if isinstance(document, dict) and (document.get("kind") in SCHEMAS or set(document) == {"spec"}):
                yield where, document


def unknown(value: Any, schema: dict[str, Any], path: str) -> Iterator[str]:
    """Fields that a schema does not have, as strict field validation finds them."""
    if isinstance(value, dict) and "properties" in schema:
        for field, inner in value.items():
            if field in schema["properties"]:
                yield from unknown(inner, schema["properties"][field], f"{path}.{field}")
            elif not schema.get("x-kubernetes-preserve-unknown-fields"):
                yield f"{path}.{field}"
    elif isinstance(value, list) and "items" in schema:
        for number, item in enumerate(value):
            yield from unknown(item, schema["items"], f"{path}[{number}]")


@pytest.mark.parametrize(("where", "document"), list(documents()), ids=[where for where, _ in documents()])
def test_manifests_are_what_the_api_server_takes(where: str, document: dict[str, Any]) -> None:
    kind = document.get("kind", "VLLMWorkerPool")
    assert not list(unknown(document["spec"], SCHEMAS[kind]["properties"]["spec"], "spec")), where
    if "kind" in document:  # a part has not all that is required
        spec, error = parse_pool(document) if kind == "VLLMWorkerPool" else parse_checkpoint(document)
        assert spec is not None, f"{where}: {error}"


def test_a_field_that_is_not_there_is_found() -> None:
    schema = SCHEMAS["VLLMWorkerPool"]["properties"]["spec"]
    assert list(unknown({"engineEnv": {"X": "1"}, "drain": {"patience": 1}}, schema, "spec")) == [
        "spec.engineEnv",
        "spec.drain.patience",
    ]


@pytest.mark.parametrize("page", [page for page in PAGES if page.stem != "CHANGELOG"], ids=lambda page: page.name)
def test_fields_that_are_named_are_there(page: Path) -> None:
    """`spec.a.b` and `status.a` in code spans, of a pool or of a checkpoint."""
    missing = []
    for path in re.findall(r"`((?:spec|status)\.[A-Za-z.\[\]]+)[^`]*`", page.read_text()):
        if not any(_has(schema, path) for schema in SCHEMAS.values()):
            missing.append(path)
    assert not missing


def _has(schema: dict[str, Any], path: str) -> bool:
    here = schema
    for part in path.rstrip(".").replace("[]", "").split("."):
        here = here.get("items", here)
        if "additionalProperties" in here:
            return True
        if part not in here.get("properties", {}):
            return bool(here.get("x-kubernetes-preserve-unknown-fields")) and path.count(".") > 1
        here = here["properties"][part]
    return True


# --- commands -----------------------------------------------------------------------------------------------


def lines(block: Block) -> Iterator[list[str]]:
    """The commands of a block of shell, as words, without what is set before them and what follows a pipe."""
    for line in block.text.replace("\\\n", " ").splitlines():
        if block.language == "console" and not line.startswith("$ "):
            continue
        for part in re.split(r"\||&&|;|\$\(|>", line.removeprefix("$ ")):
            try:
                words = shlex.split(part.rstrip(')"'), comments=True)
            except ValueError:  # half of a quotation
                continue
            while words and (re.match(r"[A-Z_]+=", words[0]) or words[0] in ("sudo", "nice", "exec", "export")):
                words.pop(0)
            if words:
                yield words


SHELL = [
    (block, words)
    for page in PAGES
    for block in blocks(page)
    if block.language in ("sh", "console", "")
    for words in lines(block)
]
INLINE = [
    (page, shlex.split(re.split(r"[|>]", text)[0], comments=True))
    for page in PAGES
    for text in re.findall(r"`((?:kubectl vernal|vernal-worker|vernal-operator|make) [^`\n]*)`", page.read_text())
    if text.count("'") % 2 == 0
]


def of(*program: str) -> list[tuple[str, list[str]]]:
    """Where, and the arguments of, each command of a program, in blocks and in sentences."""
    size = len(program)
    every = [(str(where), words) for where, words in [*SHELL, *INLINE]]
    inside = [
        (where, words[words.index("--") + 1 :]) for where, words in every if "--" in words
    ]  # kubectl exec POD -- ...
    return [(where, words[size:]) for where, words in [*every, *inside] if tuple(words[:size]) == program]


def parses(parser: argparse.ArgumentParser, words: list[str]) -> bool:
    """Whether a command line is one. Names in capitals stand for what a reader puts there."""
    try:
        parser.parse_args(["0" * 64 if word == "HEX" else word for word in words])
    except SystemExit as end:
        return end.code == 0
    return True


def test_the_plugins_commands_are_ones(capsys: pytest.CaptureFixture[str]) -> None:
    found = of("kubectl", "vernal")
    assert len(found) > 20
    verbs = kubectl_vernal.main.parser()
    bare = [(where, words) for where, words in found if words and words != ["VERB", "--help"]]
    assert not [(where, words) for where, words in bare if len(words) > 1 and not parses(verbs, words)]
    assert not [(where, words) for where, words in bare if not parses(verbs, [words[0], "--help"])]


def test_the_workers_commands_are_ones(capsys: pytest.CaptureFixture[str]) -> None:
    found = of("vernal-worker")
    assert len(found) > 5
    assert not [(where, words) for where, words in found if words and not parses(arguments.parser(), words)]


def test_the_operators_commands_are_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert not [one for one in of("vernal-operator") if one[1] and not parses(vernal_operator.main._parser(), one[1])]
    for flag in {"--lease-seconds"}:
        assert flag in _help(vernal_operator.main._parser())


def _help(parser: argparse.ArgumentParser) -> str:
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return "".join(command.format_help() for command in commands.choices.values())


def test_make_has_the_targets() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.M))
    found = [(where, word) for where, words in of("make") for word in words if re.fullmatch(r"[a-z][a-z-]+", word)]
    assert len(found) > 10
    assert not [(where, word) for where, word in found if word not in targets]


def test_files_that_commands_name_are_in_the_tree() -> None:
    named = {
        word
        for block, words in SHELL
        for word in words
        if re.match(r"(docs|charts|e2e|worker_image|operator|plugin|bench)/", word)
    }
    assert not [name for name in sorted(named) if "{" not in name and not (ROOT / name).exists()]


# --- reasons ------------------------------------------------------------------------------------------------

TROUBLE = DOCS / "troubleshooting.md"


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_has_what_one_sees_why_and_what_next(reason: Reason) -> None:
    text = TROUBLE.read_text()
    section = re.search(rf"^### `{reason.value}`\n(.*?)(?=^##)", text, re.M | re.S)
    assert section, f"{TROUBLE.name} has no paragraph about {reason.value}"
    for part in ("**You see**", "**Why:**", "**Next:**"):
        assert part in section[1], (reason, part)


def test_the_page_has_no_reason_that_is_none() -> None:
    assert set(re.findall(r"^### `(\w+)`$", TROUBLE.read_text(), re.M)) == {reason.value for reason in Reason}


def test_conditions_reasons_of_the_operator_are_on_the_page() -> None:
    """What `Degraded` can say beside reasons of the contract."""
    from vernal_operator.plan.pods import MEANING

    text = TROUBLE.read_text()
    faults = {meaning.fault for meaning in MEANING.values() if meaning.fault}
    source = (ROOT / "operator/vernal_operator/plan/conditions.py").read_text()
    said = set(re.findall(r'Verdict\(\s*"Degraded",\s*"True",\s*"(\w+)"', source))
    assert {"ThawFailed", "InvalidSpec"} <= said
    assert not [reason for reason in sorted(faults | said) if f"`{reason}`" not in text]
