"""The chart's values as models. `make crds` writes `charts/vernal/values.schema.json` from them: Helm refuses the rest.

What each value means, and its default, is said in `charts/vernal/values.yaml` alone.
"""

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

DIRECTORY = "^(/[A-Za-z0-9_][-.A-Za-z0-9_]*)+$"
"""Of a node: an absolute path without `.` and `..`, and not the root."""

Text = Annotated[str, Field(min_length=1)]
Namespace = Annotated[str, Field(min_length=1, max_length=63, pattern="^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]
Strings = dict[str, str]
Object = dict[str, Any]


class _Values(BaseModel):
    """Whatever is not named here is a mistake, such as a misspelt name. Helm lets users leave out all of it."""

    model_config = ConfigDict(alias_generator=to_camel, extra="forbid")


class Image(_Values):
    repository: str
    tag: Annotated[str, Field(pattern="^([A-Za-z0-9_][-.A-Za-z0-9_]{0,127})?$")]
    digest: Annotated[str, Field(pattern="^(sha256:[0-9a-f]{64})?$")]
    pull_policy: Literal["Always", "IfNotPresent", "Never"]


class PullSecret(_Values):
    name: Text


class Enabled(_Values):
    enabled: bool


class Crds(_Values):
    install: bool
    keep: bool


class Rbac(_Values):
    create: bool
    aggregate: bool
    aggregate_to_edit: bool


class Creators(_Values):
    users: list[Text]
    groups: list[Text]


class AdmissionPolicy(_Values):
    enabled: bool
    creators: Creators
    images: list[Annotated[str, Field(pattern="^[^/:@].*[/:@]$")]]
    csi_drivers: list[Text]


class ServiceAccount(_Values):
    create: bool
    name: str
    annotations: Strings


class PodMonitor(_Values):
    enabled: bool
    labels: Strings
    interval: Annotated[str, Field(pattern="^([0-9]+(ms|s|m|h))+$")]


class PrometheusRule(_Values):
    enabled: bool
    labels: Strings
    alert_labels: Strings
    runbook_url: Annotated[str, Field(pattern="^(https?://.*)?$")]


class Dashboards(_Values):
    enabled: bool
    labels: Strings
    annotations: Strings


class WorkersNetwork(_Values):
    namespaces: list[Namespace]
    serving_from: list[Object]
    extra_ingress: list[Object]


class NetworkPolicy(_Values):
    enabled: bool
    metrics_from: list[Object]
    workers: WorkersNetwork


class Waker(_Values):
    enabled: bool
    replicas: Annotated[int, Field(ge=1, le=99)]
    max_requests: Annotated[int, Field(ge=1)]
    max_requests_per_pool: Annotated[int, Field(ge=1)]
    max_bytes: Annotated[int, Field(ge=1)]
    max_body_bytes: Annotated[int, Field(ge=1)]
    hold_seconds: Annotated[int, Field(ge=1)]
    resources: Object


class HeadersSecret(_Values):
    name: Annotated[str, Field(max_length=253, pattern="^([a-z0-9]([-.a-z0-9]*[a-z0-9])?)?$")]
    key: Annotated[str, Field(max_length=253, pattern="^[-._a-zA-Z0-9]+$")]


class Tracing(_Values):
    endpoint: Annotated[str, Field(pattern=r"^(https?://[^\s]+)?$")]
    sampler: Literal["always_on", "parentbased_always_on"]
    headers_secret: HeadersSecret


class Prefetch(_Values):
    nodes: Annotated[int, Field(ge=0, le=100)]
    at_once: Annotated[int, Field(ge=1, le=100)]


class NodeCache(_Values):
    directory: Annotated[str, Field(pattern=f"^$|{DIRECTORY}")]
    size: Annotated[str, Field(pattern="^[1-9][0-9]{0,11}(Ki|Mi|Gi|Ti|Pi|k|M|G|T|P)?$")]
    prefetch: Prefetch


class Values(_Values):
    """All values. `global` is what Helm hands down from a chart that this one is part of."""

    image: Image
    image_pull_secrets: list[PullSecret]
    name_override: Annotated[str, Field(max_length=63)]
    fullname_override: Annotated[str, Field(max_length=63, pattern="^([a-z]([-a-z0-9]*[a-z0-9])?)?$")]
    replicas: Annotated[int, Field(ge=0, le=9)]
    pod_disruption_budget: Enabled
    watch_namespace: Annotated[str, Field(max_length=63, pattern="^([a-z0-9]([-a-z0-9]*[a-z0-9])?)?$")]
    crds: Crds
    rbac: Rbac
    admission_policy: AdmissionPolicy
    service_account: ServiceAccount
    waker: Waker
    node_cache: NodeCache
    tracing: Tracing
    threads: Annotated[int, Field(ge=1, le=64)]
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"]
    extra_args: list[Text]
    resources: Object
    pod_labels: Strings
    pod_annotations: Strings
    node_selector: Strings
    tolerations: list[Object]
    affinity: Object
    priority_class_name: str
    pod_monitor: PodMonitor
    prometheus_rule: PrometheusRule
    dashboards: Dashboards
    network_policy: NetworkPolicy
    extra_objects: list[Object | str]
    global_: Annotated[Object, Field(alias="global")]


def schema() -> str:
    """The JSON Schema, as text."""
    # Helm's own validator reads draft 7 in every 3.x; what pydantic writes here is the same in both.
    whole = Values.model_json_schema()
    definitions = whole.pop("$defs")
    text = json.dumps({"$schema": "http://json-schema.org/draft-07/schema#", **whole, "definitions": definitions})
    made: Object = _bare(json.loads(text.replace("#/$defs/", "#/definitions/")))
    return json.dumps(made, indent=2) + "\n"


def _bare(node: Any) -> Any:
    """Without titles, which repeat names, and with nothing required: values.yaml has the rest."""
    if isinstance(node, list):
        return [_bare(item) for item in node]
    if not isinstance(node, dict):
        return node
    kept = {key: value for key, value in node.items() if key not in ("title", "required", "description")}
    for key in ("properties", "definitions"):  # whose keys are names
        if key in kept:
            kept[key] = {name: _bare(value) for name, value in kept[key].items()}
    return {key: value if key in ("properties", "definitions") else _bare(value) for key, value in kept.items()}
