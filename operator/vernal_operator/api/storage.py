"""Where checkpoints and KV blocks are kept, and how long checkpoints that no pool uses."""

from enum import StrEnum
from typing import ClassVar

from pydantic import Field

from vernal_operator.api.common import Model, Quantity, Rule, Seconds
from vernal_operator.api.references import SecretRef, inside_rule, own_rule


class ClaimStorage(Model):
    """A PersistentVolumeClaim. Host paths are not offered on purpose: who makes a pool must not get at the
    node.
    """

    rules: ClassVar[tuple[Rule, ...]] = (
        inside_rule("subPath", lambda self: self.sub_path),
        own_rule("claimName", "PersistentVolumeClaim", lambda self: self.claim_name),
    )
    claim_name: str = Field(
        min_length=1,
        max_length=253,
        description="Name of a PersistentVolumeClaim in the pool's namespace. ReadWriteMany lets every node thaw.",
    )
    sub_path: str = Field(default="", max_length=1024, description="Directory inside the claim; its root by default.")


class ObjectStore(Model):
    """A bucket of S3, or of a server that speaks it."""

    url: str = Field(
        pattern="^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9_][A-Za-z0-9._-]*)*$",
        max_length=1024,
        description="s3://BUCKET or s3://BUCKET/PREFIX. Pools that name the same share its checkpoints, over clusters "
        "too.",
    )
    endpoint: str | None = Field(
        default=None,
        pattern="^https?://[^ /@?#]+(/[^ @?#]*)?$",
        max_length=1024,
        description="URL of a server that is not AWS, e.g. http://minio.storage:9000.",
    )
    region: str | None = Field(
        default=None,
        pattern="^[A-Za-z0-9-]+$",
        max_length=63,
        description="The bucket's region; us-east-1 unless set.",
    )
    credentials_secret: SecretRef = Field(
        description="A Secret with the keys AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and, if there is one, "
        "AWS_SESSION_TOKEN. They must allow to get, put, list and delete objects below url. Process 1 of a worker and "
        "the janitor Job get them: they are not in the engine, and in no checkpoint.",
    )
    size_limit: Quantity | None = Field(
        default=None,
        description="Size limit of a pod's own copy of its checkpoint, e.g. 60Gi: an emptyDir on the node's disk. The "
        "kubelet evicts a pod that exceeds it. None by default.",
    )


class Storage(Model):
    """A PersistentVolumeClaim or a bucket, exactly one."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.claimName) != has(self.objectStore)",
            lambda self: (self.claim_name is None) != (self.object_store is None),
            "storage of a checkpoint needs exactly one of claimName and objectStore",
        ),
        Rule(
            "!has(self.objectStore) || self.subPath == ''",
            lambda self: self.object_store is None or not self.sub_path,
            "subPath is of a claim: with objectStore write it behind the bucket in objectStore.url",
            ".subPath",
            "FieldValueForbidden",
        ),
        inside_rule("subPath", lambda self: self.sub_path),
        own_rule("claimName", "PersistentVolumeClaim", lambda self: self.claim_name, optional=True),
    )
    claim_name: str | None = Field(
        default=None,
        min_length=1,
        max_length=253,
        description="Name of a PersistentVolumeClaim in the pool's namespace. ReadWriteMany lets every node thaw.",
    )
    sub_path: str = Field(default="", max_length=1024, description="Directory inside the claim; its root by default.")
    object_store: ObjectStore | None = Field(
        default=None, description="A bucket instead of a claim: each pod brings what it thaws to its node's disk."
    )

    @property
    def place(self) -> tuple[str, ...]:
        """Equal for storage that has the same checkpoints, whoever may read it how."""
        if self.object_store is None:
            return (self.claim_name or "", self.sub_path)
        return (self.object_store.url, self.object_store.endpoint or "")

    @property
    def called(self) -> str:
        """For people."""
        return f"claim {self.claim_name}" if self.object_store is None else f"bucket {self.object_store.url}"


class RetentionPolicy(StrEnum):
    DELETE = "Delete"
    RETAIN = "Retain"


class Retention(Model):
    policy: RetentionPolicy = Field(
        default=RetentionPolicy.DELETE,
        description="Delete: a checkpoint that no pool uses is deleted, with its files, after unusedSeconds. "
        "Retain: it stays until someone deletes it.",
    )
    unused_seconds: Seconds = Field(
        default=86400, ge=0, description="How long a checkpoint that no pool uses is kept. Seconds."
    )
    max_unused: int | None = Field(
        default=None,
        ge=0,
        description="How many checkpoints of one model on one claim and path are kept while no pool uses them: of more "
        "than these, those that have been unused for longest go. By default only time counts. Not with policy Retain.",
    )
