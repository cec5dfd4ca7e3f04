"""Reason codes: one word for why a worker started the way it did, or why a freeze or a thaw failed.

The same word appears in `/state`, in the worker's log, in the Event, in the condition and as the `reason` label of the
metrics, so that one search finds all of them.
"""

from enum import StrEnum


class Reason(StrEnum):
    """Why. A member's value is what users see; `NEXT_STEP` says what to do about each failure."""

    # How a start was chosen.
    POLICY_DISABLED = "PolicyDisabled"
    HOST_UNSUPPORTED = "HostUnsupported"
    NO_ARTIFACT = "NoArtifact"
    RESTORED = "Restored"
    QUARANTINED = "Quarantined"
    RENEWAL_ASKED = "RenewalAsked"
    MODEL_UNRESOLVED = "ModelUnresolved"
    CONTENT_UNREADABLE = "ContentUnreadable"
    ENGINE_UNFREEZABLE = "EngineUnfreezable"

    # An artifact exists, yet does not fit or cannot be trusted.
    HOST_MISMATCH = "HostMismatch"
    MANIFEST_MISSING = "ManifestMissing"
    MANIFEST_INVALID = "ManifestInvalid"
    FORMAT_UNSUPPORTED = "FormatUnsupported"
    FILE_MISSING = "FileMissing"
    FILE_SIZE_MISMATCH = "FileSizeMismatch"
    DIGEST_MISMATCH = "DigestMismatch"

    # The store.
    STORE_UNAVAILABLE = "StoreUnavailable"
    OBJECT_STORE_UNAVAILABLE = "ObjectStoreUnavailable"
    STORE_FULL = "StoreFull"
    STORE_READ_ONLY = "StoreReadOnly"
    STORE_SLOW = "StoreSlow"
    LEASE_HELD = "LeaseHeld"
    LEASE_LOST = "LeaseLost"
    PUBLISHED_BY_OTHER = "PublishedByOther"

    # Freezing and thawing.
    CRIU_MISSING = "CriuMissing"
    CRIU_DUMP_FAILED = "CriuDumpFailed"
    CRIU_RESTORE_FAILED = "CriuRestoreFailed"
    FILES_NOT_CARRIED = "FilesNotCarried"
    CONNECTIONS_OPEN = "ConnectionsOpen"
    CUDA_CHECKPOINT_FAILED = "CudaCheckpointFailed"
    CUDA_RESTORE_FAILED = "CudaRestoreFailed"
    GPU_MEMORY_INSUFFICIENT = "GpuMemoryInsufficient"
    SHM_FAILED = "ShmFailed"
    FREEZE_TIMEOUT = "FreezeTimeout"
    THAW_TIMEOUT = "ThawTimeout"
    FREEZE_GIVEN_UP = "FreezeGivenUp"
    THAW_GIVEN_UP = "ThawGivenUp"
    CANARY_MISMATCH = "CanaryMismatch"
    CONTAINER_KILLED = "ContainerKilled"

    # The engine.
    ENGINE_START_FAILED = "EngineStartFailed"
    ENGINE_START_TIMEOUT = "EngineStartTimeout"
    ENGINE_DIED = "EngineDied"
    ENGINE_UNRESPONSIVE = "EngineUnresponsive"

    # The worker itself.
    CONFIG_INVALID = "ConfigInvalid"
    INTERNAL = "Internal"


class About(StrEnum):
    """What a failed thaw speaks against."""

    ARTIFACT = "Artifact"  # each counts towards its quarantine
    NODE = "Node"  # or the artifact: counts once a node, so that one broken node retires nothing
    GPU = "Gpu"  # others hold its memory
    STORAGE = "Storage"  # which may be back in a moment
    WORKER = "Worker"  # told to stop, or older than the artifact


_ABOUT: dict[Reason, About] = {
    Reason.MANIFEST_MISSING: About.ARTIFACT,
    Reason.MANIFEST_INVALID: About.ARTIFACT,
    Reason.FILE_MISSING: About.ARTIFACT,
    Reason.FILE_SIZE_MISMATCH: About.ARTIFACT,
    Reason.DIGEST_MISMATCH: About.ARTIFACT,
    Reason.CANARY_MISMATCH: About.ARTIFACT,
    Reason.STORE_UNAVAILABLE: About.STORAGE,
    Reason.OBJECT_STORE_UNAVAILABLE: About.STORAGE,
    Reason.STORE_FULL: About.STORAGE,
    Reason.STORE_READ_ONLY: About.STORAGE,
    Reason.STORE_SLOW: About.STORAGE,
    Reason.GPU_MEMORY_INSUFFICIENT: About.GPU,
    Reason.FORMAT_UNSUPPORTED: About.WORKER,
    Reason.THAW_GIVEN_UP: About.WORKER,
}


def about(reason: Reason) -> About:
    """What a thaw that failed for `reason` speaks against; where it is not known, the node it failed on."""
    return _ABOUT.get(reason, About.NODE)


NEXT_STEP: dict[Reason, str] = {
    Reason.HOST_UNSUPPORTED: "run `vernal-worker doctor` in the pod: it names what the host lacks",
    Reason.QUARANTINED: "the message says when a new checkpoint is made; `kubectl describe vck` shows the failures",
    Reason.MODEL_UNRESOLVED: "set spec.model.revision to a commit, or mount the model; check the hub and HF_TOKEN",
    Reason.CONTENT_UNREADABLE: "the message names file and source: let nobody write there, or have it in the image",
    Reason.ENGINE_UNFREEZABLE: "set spec.checkpoint.policy to Disabled: engines of this kind always start cold",
    Reason.HOST_MISMATCH: "run `vernal-worker diff` in the pod: it names the field that differs",
    Reason.MANIFEST_MISSING: "run `vernal-worker gc`; the next cold start makes a new checkpoint",
    Reason.MANIFEST_INVALID: "check the storage (`vernal-worker verify`); the next cold start makes a new checkpoint",
    Reason.FORMAT_UNSUPPORTED: "a newer Vernal wrote the artifact: upgrade the worker image, or delete the vck",
    Reason.FILE_MISSING: "run `vernal-worker verify` and check the storage",
    Reason.FILE_SIZE_MISMATCH: "run `vernal-worker verify` and check the storage",
    Reason.DIGEST_MISMATCH: "the storage returned other bytes than were written: check it (`vernal-worker verify`)",
    Reason.STORE_UNAVAILABLE: "check that the claim in spec.checkpoint.storage is bound, mounted and writable by uid 0",
    Reason.OBJECT_STORE_UNAVAILABLE: "check the bucket, and url, endpoint and credentialsSecret of "
    "spec.checkpoint.storage.objectStore; `vernal-worker bucket ls URL` in the pod asks it again",
    Reason.STORE_FULL: "grow the claim in spec.checkpoint.storage (with objectStore: sizeLimit, the node's disk), or "
    "lower spec.checkpoint.retention",
    Reason.STORE_READ_ONLY: "mount the claim in spec.checkpoint.storage with a read-write access mode",
    Reason.STORE_SLOW: "check the storage's throughput; the worker started cold rather than wait",
    Reason.CRIU_MISSING: "use the worker image of this release: it carries CRIU 4.2 or newer",
    Reason.CRIU_DUMP_FAILED: "see dump.log lines in the pod's log; run `vernal-worker doctor` in the pod",
    Reason.CRIU_RESTORE_FAILED: "see restore.log lines in the pod's log; run `vernal-worker doctor` in the pod",
    Reason.FILES_NOT_CARRIED: "have them in the image, on a mounted volume, or below XDG_CACHE_HOME or TMPDIR",
    Reason.CONNECTIONS_OPEN: "have the engine connect later, or leave out what connects (tracing, remote caches)",
    Reason.CUDA_CHECKPOINT_FAILED: "check the driver (570 or newer) with `vernal-worker doctor`",
    Reason.CUDA_RESTORE_FAILED: "check the driver and the GPUs with `vernal-worker doctor`",
    Reason.GPU_MEMORY_INSUFFICIENT: "another process holds the GPU's memory: `nvidia-smi` on the node names it",
    Reason.SHM_FAILED: "give the pod a larger /dev/shm (an emptyDir with medium Memory)",
    Reason.FREEZE_TIMEOUT: "check the storage's write throughput, or raise spec.checkpoint.freezeTimeoutSeconds",
    Reason.THAW_TIMEOUT: "check the storage's read throughput, or raise spec.checkpoint.thawTimeoutSeconds",
    Reason.CANARY_MISMATCH: "a thawed engine answered otherwise than the frozen one: keep the artifact and report it",
    Reason.CONTAINER_KILLED: "if OOMKilled (`kubectl describe pod`), raise spec.resources.limits.memory",
    Reason.ENGINE_START_FAILED: "see the engine's lines in the pod's log; check spec.model and spec.engineArgs",
    Reason.ENGINE_START_TIMEOUT: "see the engine's lines in the pod's log; raise spec.startupTimeoutSeconds",
    Reason.ENGINE_DIED: "see the engine's last lines in `kubectl logs --previous`; check memory limits",
    Reason.ENGINE_UNRESPONSIVE: "see the engine's last lines in `kubectl logs`; the kubelet restarts the container",
    Reason.CONFIG_INVALID: "the message names the field of VERNAL_CONFIG; use operator and worker image of one release",
    Reason.INTERNAL: "a bug in Vernal: please report it with the pod's log",
}
