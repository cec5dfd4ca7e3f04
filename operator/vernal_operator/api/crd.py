"""CustomResourceDefinitions from the models: pydantic's JSON Schema turned into a structural OpenAPI v3
schema.
"""

from dataclasses import dataclass
from typing import Any

from vernal_contract import names

from vernal_operator.api.checkpoint import VLLMCheckpointSpec
from vernal_operator.api.common import Model, Rule
from vernal_operator.api.pool import VLLMWorkerPoolSpec
from vernal_operator.api.status import VLLMCheckpointStatus, VLLMWorkerPoolStatus

Schema = dict[str, Any]

MAX_NAME = 48
"""Longest name of a pool: `<name>-<8>-<slot>` must be a DNS label of 63 characters with slots up to 99999."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """All that a CRD says beside its schema."""

    kind: str
    plural: str
    short: str
    description: str
    spec: type[Model]
    status: type[Model]
    columns: tuple[tuple[str, str, str, int], ...]  # name, type, JSONPath, priority (1: only with -o wide)
    rules: tuple[Rule, ...] = ()
    scale: bool = False

    @property
    def crd_name(self) -> str:
        return f"{self.plural}.{names.GROUP}"


POOL = Kind(
    kind="VLLMWorkerPool",
    plural="vllmworkerpools",
    short="vwp",
    description="VLLMWorkerPool is a pool of vLLM workers. The first one freezes itself into a checkpoint, "
    "later ones thaw it instead of starting.",
    spec=VLLMWorkerPoolSpec,
    status=VLLMWorkerPoolStatus,
    columns=(
        ("Desired", "integer", ".spec.replicas", 0),
        ("Ready", "integer", ".status.readyReplicas", 0),
        ("Status", "string", '.status.conditions[?(@.type=="Ready")].reason', 0),
        ("Why", "string", '.status.conditions[?(@.type=="Degraded")].reason', 0),
        ("Restored", "integer", ".status.restoredReplicas", 0),
        ("Checkpoint", "string", '.status.conditions[?(@.type=="CheckpointReady")].reason', 0),
        ("Updated", "integer", ".status.updatedReplicas", 1),
        ("Cold", "integer", ".status.coldStartedReplicas", 1),
        ("Progressing", "string", '.status.conditions[?(@.type=="Progressing")].reason', 1),
        ("Model", "string", ".spec.model.name", 1),
        ("Image", "string", ".spec.image", 1),
        ("Age", "date", ".metadata.creationTimestamp", 0),
    ),
    rules=(
        Rule(
            f"self.metadata.name.size() <= {MAX_NAME} && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
            None,
            "metadata.name must start with a letter, hold lower-case letters, digits and '-' only, and have "
            f"at most {MAX_NAME} characters, because pods and a Service are named after it",
        ),
    ),
    scale=True,
)

CHECKPOINT = Kind(
    kind="VLLMCheckpoint",
    plural="vllmcheckpoints",
    short="vck",
    description="VLLMCheckpoint is a frozen vLLM worker in a store. The operator makes it when a worker "
    "reports one, and every pool whose workers have the same identity and hosts shares it.",
    spec=VLLMCheckpointSpec,
    status=VLLMCheckpointStatus,
    columns=(
        ("Model", "string", ".spec.model", 0),
        ("Ready", "string", '.status.conditions[?(@.type=="Ready")].status', 0),
        ("Reason", "string", '.status.conditions[?(@.type=="Ready")].reason', 0),
        ("Size", "string", ".status.size", 0),
        ("Restores", "integer", ".status.restores", 0),
        ("Failures", "integer", ".status.restoreFailures", 0),
        ("Warm", "integer", ".status.warmNodes", 0),
        ("Last used", "date", ".status.lastUsedTime", 0),
        ("Claim", "string", ".spec.storage.claimName", 1),
        ("Bucket", "string", ".spec.storage.objectStore.url", 1),
        ("Used by", "string", ".status.usedBy", 1),
        ("Generation", "string", ".status.generation", 1),
        ("Age", "date", ".metadata.creationTimestamp", 0),
    ),
)

KINDS = (POOL, CHECKPOINT)


def crd(kind: Kind) -> Schema:
    """The CustomResourceDefinition of a kind."""
    subresources: Schema = {"status": {}}
    if kind.scale:
        subresources["scale"] = {
            "specReplicasPath": ".spec.replicas",
            "statusReplicasPath": ".status.replicas",
            "labelSelectorPath": ".status.selector",
        }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": kind.crd_name},
        "spec": {
            "group": names.GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": kind.kind,
                "listKind": f"{kind.kind}List",
                "plural": kind.plural,
                "singular": kind.kind.lower(),
                "shortNames": [kind.short],
                "categories": ["vernal"],
            },
            "versions": [
                {
                    "name": names.VERSION,
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": object_schema(kind)},
                    "subresources": subresources,
                    "additionalPrinterColumns": [
                        {"name": name, "type": type_, "jsonPath": path} | ({"priority": priority} if priority else {})
                        for name, type_, path, priority in kind.columns
                    ],
                }
            ],
        },
    }


def object_schema(kind: Kind) -> Schema:
    """The schema of a whole object."""
    schema: Schema = {
        "type": "object",
        "description": kind.description,
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": structural(kind.spec),
            "status": without_defaults(structural(kind.status)),
        },
    }
    if kind.rules:
        schema["x-kubernetes-validations"] = [rule.schema() for rule in kind.rules]
    return schema


def structural(model: type[Model]) -> Schema:
    """A model's schema with references inlined and all that Kubernetes does not take left out."""
    raw = model.model_json_schema(mode="validation", by_alias=True)
    definitions: dict[str, Schema] = raw.pop("$defs", {})
    return _convert(raw, definitions, _models(model))


def without_defaults(schema: Schema) -> Schema:
    """For a status: what is read back must be what was written, or a settled object would never look
    settled.
    """
    out = {k: v for k, v in schema.items() if k != "default"}
    if "properties" in out:
        out["properties"] = {k: without_defaults(v) for k, v in out["properties"].items()}
    for inner in ("items", "additionalProperties"):
        if inner in out:
            out[inner] = without_defaults(out[inner])
    return out


def _models(model: type[Model]) -> dict[str, type[Model]]:
    """Every model that `model` is made of, by name, itself included."""
    found: dict[str, type[Model]] = {}

    def visit(value: Any) -> None:
        if isinstance(value, type) and issubclass(value, Model):
            if value.__name__ not in found:
                found[value.__name__] = value
                for info in value.model_fields.values():
                    visit(info.annotation)
            return
        for part in getattr(value, "__args__", ()):
            visit(part)

    visit(model)
    return found


_KEPT = (
    "type", "description", "format", "enum", "pattern", "minimum", "maximum", "minLength", "maxLength",
    "minItems", "maxItems", "required",
)  # fmt: skip


def _convert(schema: Schema, definitions: dict[str, Schema], models: dict[str, type[Model]]) -> Schema:
    if "$ref" in schema:
        schema = definitions[schema["$ref"].rsplit("/", 1)[1]] | {k: v for k, v in schema.items() if k != "$ref"}
    branches = [b for b in schema.get("anyOf", []) if b != {"type": "null"}]
    rest = {k: v for k, v in schema.items() if k != "anyOf"}
    if len(branches) == 1:  # Optional[X]
        return _convert(_resolve(branches[0], definitions) | rest, definitions, models)
    if branches and rest.get("x-kubernetes-int-or-string"):  # bounds of either branch hold for values of its type
        merged = {k: v for branch in branches for k, v in branch.items() if k != "type"}
        return _convert(merged | rest, definitions, models)
    out: Schema = {k: schema[k] for k in _KEPT if k in schema}
    out |= {k: v for k, v in schema.items() if k.startswith("x-kubernetes-")}
    if "const" in schema:
        out["enum"] = [schema["const"]]
    if schema.get("default") is not None:
        out["default"] = schema["default"]
    if "properties" in schema:
        out["properties"] = {k: _convert(v, definitions, models) for k, v in schema["properties"].items()}
        model = models.get(schema.get("title", ""))
        if model is not None and model.rules:
            out["x-kubernetes-validations"] = [rule.schema() for rule in model.rules]
    elif isinstance(schema.get("additionalProperties"), dict):
        out["additionalProperties"] = _convert(schema["additionalProperties"], definitions, models)
    if "items" in schema:
        out["items"] = _convert(schema["items"], definitions, models)
    return out


def _resolve(schema: Schema, definitions: dict[str, Schema]) -> Schema:
    return definitions[schema["$ref"].rsplit("/", 1)[1]] if "$ref" in schema else schema
