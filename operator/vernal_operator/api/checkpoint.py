"""VLLMCheckpoint: one artifact in a store, shared by every pool whose workers have its identity and host
tuple.
"""

from typing import ClassVar

from pydantic import Field

from vernal_operator.api.common import FreeForm, Model, Rule
from vernal_operator.api.storage import Storage


class VLLMCheckpointSpec(Model):
    """What the checkpoint is of, and where it lies. Written once by the operator."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule("self == oldSelf", None, "spec is immutable", reason="FieldValueForbidden"),
    )
    identity: str = Field(
        pattern="^[0-9a-f]{64}$",
        description="SHA-256 of identityInputs: equal for workers that may share the checkpoint.",
    )
    host_tuple: str = Field(
        pattern="^[0-9a-f]{64}$", description="SHA-256 of host: equal for hosts that can thaw the checkpoint."
    )
    identity_inputs: FreeForm = Field(
        default={},
        description="What is in the frozen process: image, arguments, environment, model, versions.",
    )
    host: FreeForm = Field(
        default={}, description="What the frozen process expects around it: CPU, kernel, GPU, driver, mounts."
    )
    model: str = Field(min_length=1, description="Name of the model, for people who list checkpoints.")
    storage: Storage = Field(description="The claim or bucket that holds the files.")
    image: str = Field(min_length=1, description="Worker image that the janitor Job runs to remove the files.")
    image_pull_secrets: list[str] = Field(default=[], description="Names of Secrets to pull that image with.")
