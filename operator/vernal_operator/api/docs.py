"""Reference pages from the models: one table per kind for the spec, one for the status."""

import json
from collections.abc import Iterator
from typing import Any

from vernal_contract import names

from vernal_operator.api.crd import Kind, object_schema
from vernal_operator.api.engine_args import REFUSED

Schema = dict[str, Any]


def page(kind: Kind) -> str:
    """The Markdown page of a kind."""
    schema = object_schema(kind)
    lines = [
        f"# {kind.kind}",
        "",
        "<!-- generated from the models by `make crds`; edit operator/vernal_operator/api instead -->",
        "",
        f"`apiVersion: {names.API_VERSION}`, short name `{kind.short}`. {kind.description}",
    ]
    for part in ("spec", "status"):
        lines += ["", f"## {part}", "", "| field | type | default | meaning |", "|---|---|---|---|"]
        lines += list(_rows(part, schema["properties"][part]))
    rules = list(_rules("", schema))
    if rules:
        lines += ["", "## Rules", "", "The API server refuses an object that breaks one of these.", ""]
        lines += [f"- {rule}" for rule in rules]
    return "\n".join(lines) + "\n"


def _rows(path: str, schema: Schema) -> Iterator[str]:
    required = set(schema.get("required", []))
    for name, field in schema.get("properties", {}).items():
        if field.get("description", "").startswith(REFUSED):  # the rules say it
            continue
        here = f"{path}.{name}"
        default = "required" if name in required else f"`{json.dumps(field['default'])}`" if "default" in field else ""
        yield f"| `{here}` | {_type(field)} | {default} | {_cell(field.get('description', ''))} |"
        yield from _rows(here, field)
        if field.get("type") == "array":
            yield from _rows(f"{here}[]", field["items"])


def _type(field: Schema) -> str:
    if field.get("x-kubernetes-int-or-string"):
        return "integer or string"
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if field.get("type") == "array":
        return f"list of {_type(field['items'])}s"
    if "additionalProperties" in field:
        return f"map to {_type(field['additionalProperties'])}"
    kind = str(field.get("type", "any"))
    bounds = [f"{sign} {field[key]}" for key, sign in (("minimum", "≥"), ("maximum", "≤")) if key in field]
    return " ".join([kind, *bounds])


def _rules(path: str, schema: Schema) -> Iterator[str]:
    for rule in schema.get("x-kubernetes-validations", []):
        where = f"`{path}`: " if path and not rule["message"].startswith("spec.") else ""
        yield where + rule["message"]
    for name, field in schema.get("properties", {}).items():
        here = f"{path}.{name}" if path else name
        yield from _rules(here, field)
        if "items" in field:
            yield from _rules(f"{here}[]", field["items"])


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
