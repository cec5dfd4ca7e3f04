"""`spec.kvTransfer`: the KV cache that workers share."""

from enum import StrEnum
from typing import ClassVar, Literal

from pydantic import Field
from vernal_contract import names
from vernal_contract.config import KVTransferConfig

from vernal_operator.api.common import FreeForm, Model, Quantity, Rule
from vernal_operator.api.overlay import MOUNT_SAID, taken, taken_cel
from vernal_operator.api.storage import ClaimStorage


class LoadFailurePolicy(StrEnum):
    RECOMPUTE = "Recompute"
    FAIL = "Fail"


OWN_CONNECTOR = KVTransferConfig().connector


class KVTransferSpec(Model):
    """Shared KV cache."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            f"!{taken_cel('self.path')} && self.path != '/tmp'",
            lambda self: not taken(self.path) and self.path != "/tmp",  # noqa: S108 inside the pod
            "spec.kvTransfer.path must be absolute, in its shortest form, without '..', and none that "
            f"{MOUNT_SAID}, or leave it out",
            ".path",
        ),
        Rule(
            f"!has(self.sizeLimit) || self.connector == '{OWN_CONNECTOR}'",
            lambda self: self.size_limit is None or self.connector == OWN_CONNECTOR,
            f"spec.kvTransfer.sizeLimit is only for the connector {OWN_CONNECTOR}",
            ".sizeLimit",
            "FieldValueForbidden",
        ),
        Rule(
            "!has(self.sizeLimit) || self.role != 'kv_consumer'",
            lambda self: self.size_limit is None or self.role != "kv_consumer",
            "spec.kvTransfer.sizeLimit does nothing with the role kv_consumer, which saves nothing: set it on the "
            "pool that saves",
            ".sizeLimit",
            "FieldValueForbidden",
        ),
    )
    connector: str = Field(
        default=OWN_CONNECTOR, min_length=1, description="Name of the KV connector, as vLLM's kv_connector."
    )
    role: Literal["kv_producer", "kv_consumer", "kv_both"] = Field(
        default="kv_both",
        description="What this pool does, as vLLM's kv_role: kv_producer saves blocks (prefill), kv_consumer loads "
        "them (decode), kv_both does both.",
    )
    load_failure_policy: LoadFailurePolicy = Field(
        default=LoadFailurePolicy.RECOMPUTE,
        description="What becomes of a request whose KV block cannot be loaded. Recompute: the block is computed. "
        "Fail: the request ends with an error.",
    )
    storage: ClaimStorage | None = Field(
        default=None,
        description="Where blocks are kept: mounted at path. Without it, path must be on a volume of podTemplate.",
    )
    path: str = Field(
        default=names.PATH_KV, min_length=1, max_length=1024, description="Directory of the blocks in the pod."
    )
    size_limit: Quantity | None = Field(
        default=None,
        description="Size of the directory, e.g. 500Gi, at which the blocks that were used least recently go. "
        "Without it they go when the volume is full.",
    )
    options: FreeForm = Field(
        default={}, description="More entries of vLLM's kv_connector_extra_config; docs/kv.md lists the connector's."
    )
