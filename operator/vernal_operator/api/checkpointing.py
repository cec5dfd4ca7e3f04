"""`spec.checkpoint`: what of a pool's workers is frozen and thawed, and how."""

from enum import StrEnum
from typing import ClassVar

from pydantic import Field
from vernal_contract.config import CheckpointPolicy, Verify, WeightsPlacement

from vernal_operator.api.common import Model, Rule, Seconds, nested
from vernal_operator.api.references import SecretKey
from vernal_operator.api.storage import Retention, Storage


class Startup(StrEnum):
    """What pods 2..N do while there is no checkpoint."""

    IMMEDIATE = "Immediate"
    WAIT_FOR_CHECKPOINT = "WaitForCheckpoint"


class CheckpointSpec(Model):
    """How the pool freezes its first worker and thaws the others."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.signingKey) || self.verify == 'Full'",
            lambda self: self.signing_key is None or self.verify is Verify.FULL,
            "spec.checkpoint.verify must be Full with signingKey: what is not read is not proven",
        ),
    )
    policy: CheckpointPolicy = Field(
        default=CheckpointPolicy.AUTO,
        description="Auto: thaw if a checkpoint fits, else start cold and make one. Required: a thaw that "
        "fails stops the worker instead of starting cold. Disabled: plain vLLM, no store, no added "
        "capabilities.",
    )
    startup: Startup = Field(
        default=Startup.IMMEDIATE,
        description="Immediate: all pods start at once, cold as long as there is no checkpoint. "
        "WaitForCheckpoint: the second to last pods are made when the first one's checkpoint is published, "
        "or when it failed to make one.",
    )
    storage: Storage | None = Field(
        default=None, description="Where checkpoints are kept. Required unless policy is Disabled."
    )
    weights: WeightsPlacement = Field(
        default=WeightsPlacement.EXTERNAL,
        description="External: weights in a blob of their own, streamed to the GPU after the thaw. InImage: "
        "weights stay in process memory and so in the image (always so on a CPU).",
    )
    retention: Retention = nested("When checkpoints that nothing uses are deleted.")
    verify: Verify = Field(
        default=Verify.FULL,
        description="Full: every byte is checked against its digest before the worker is ready. Sizes: "
        "presence and sizes only, for storage that checks its own bytes.",
    )
    signing_key: SecretKey | None = Field(
        default=None,
        description="A key of a Secret that checkpoints are signed with (HMAC-SHA256): workers thaw only what a worker "
        "with the same key has made. Without it, whoever can write to the storage can run code in each pod that thaws "
        "from it.",
    )
    restore_attempts: int = Field(
        default=3,
        ge=1,
        le=100,
        description="Failed thaws that speak against one checkpoint before it is quarantined and made anew. Storage "
        "that was gone and GPUs that were full do not count; what may be the node's fault counts once a node.",
    )
    freeze_timeout_seconds: Seconds = Field(
        default=600,
        ge=1,
        description="Longest time for each step of freezing and publishing; the worker then serves without. A big "
        "engine gets more (120 s and 10 s for each GB of its memory), out of what the cold start left of "
        "`startupTimeoutSeconds`. Seconds.",
    )
    warm_up_seconds: Seconds = Field(
        default=120,
        ge=0,
        description="Longest time, before the freeze, for one request of each kind (logprobs, grammars, penalties, "
        "adapters, pooling), so that what they compile is in the checkpoint; 0 for none. Seconds.",
    )
    thaw_timeout_seconds: Seconds | None = Field(
        default=None,
        ge=1,
        description="Longest time to thaw; the worker then starts cold. Seconds. Unset: two minutes, and ten seconds "
        "more for each GB of the checkpoint; sooner if the rate at which the storage delivers cannot make it.",
    )
    gpu_memory_wait_seconds: Seconds = Field(
        default=60,
        ge=0,
        description="How long a start waits for GPU memory that another process holds; then the container exits with "
        "GpuMemoryInsufficient. Seconds.",
    )
