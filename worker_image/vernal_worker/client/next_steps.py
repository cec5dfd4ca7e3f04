"""What to do about a failure where there is no Kubernetes, pod or claim: a program and its directory of checkpoints."""

from vernal_contract.reasons import Reason

_LINES = "see the engine's lines, on the program's stderr or where output= says"
_VERIFY = "run `vernal-worker verify --store DIRECTORY` and check the disk"

NEXT_STEP: dict[Reason, str] = {
    Reason.HOST_UNSUPPORTED: "run `vernal-worker doctor`: it names what lacks; start='disabled' needs none",
    Reason.QUARANTINED: "the message says when a new checkpoint is made; freeze into another directory until then",
    Reason.MODEL_UNRESOLVED: "give a directory, or check the hub and HF_TOKEN",
    Reason.CONTENT_UNREADABLE: "the message names file and source: let nobody write there meanwhile",
    Reason.ENGINE_UNFREEZABLE: "start='cold' or 'disabled': engines of this kind cannot be frozen",
    Reason.HOST_MISMATCH: "the message names what differs: start='auto' makes a checkpoint of this host's own",
    Reason.MANIFEST_MISSING: "start='auto' makes a new checkpoint",
    Reason.MANIFEST_INVALID: f"{_VERIFY}; start='auto' makes a new checkpoint",
    Reason.FORMAT_UNSUPPORTED: "a newer Vernal wrote the checkpoint: install that, or use another directory",
    Reason.FILE_MISSING: _VERIFY,
    Reason.FILE_SIZE_MISMATCH: _VERIFY,
    Reason.DIGEST_MISMATCH: f"the disk returned other bytes than were written: {_VERIFY}",
    Reason.STORE_UNAVAILABLE: "check that the directory of checkpoints can be made and written by root",
    Reason.STORE_FULL: "make room on the disk of the directory of checkpoints",
    Reason.STORE_READ_ONLY: "name a directory of checkpoints that can be written",
    Reason.STORE_SLOW: "check the throughput of the disk of the directory of checkpoints",
    Reason.CRIU_MISSING: "install CRIU 4.2 or newer, or name it with criu= or VERNAL_CRIU",
    Reason.CRIU_DUMP_FAILED: f"{_LINES}; run `vernal-worker doctor`",
    Reason.CRIU_RESTORE_FAILED: f"{_LINES}; run `vernal-worker doctor`",
    Reason.FILES_NOT_CARRIED: "have them where they will be at the thaw, or below XDG_CACHE_HOME or TMPDIR",
    Reason.CONNECTIONS_OPEN: "have the engine connect later, or leave out what connects",
    Reason.CUDA_CHECKPOINT_FAILED: "check the driver (570 or newer) with `vernal-worker doctor`",
    Reason.CUDA_RESTORE_FAILED: "check the driver and the GPUs with `vernal-worker doctor`",
    Reason.GPU_MEMORY_INSUFFICIENT: "another process holds the GPU's memory: `nvidia-smi` names it",
    Reason.SHM_FAILED: "free memory of this machine: the engine's /dev/shm is in it",
    Reason.FREEZE_TIMEOUT: "check the disk's write throughput, or raise freeze_timeout_seconds of checkpoint=",
    Reason.THAW_TIMEOUT: "check the disk's read throughput, or raise thaw_timeout_seconds of checkpoint=",
    Reason.CANARY_MISMATCH: "a thawed engine answered otherwise than the frozen one: keep the checkpoint and report it",
    Reason.CONTAINER_KILLED: "`dmesg` says whether memory ran out",
    Reason.ENGINE_START_FAILED: f"{_LINES}; check the model and the engine's arguments",
    Reason.ENGINE_START_TIMEOUT: _LINES,
    Reason.ENGINE_DIED: f"{_LINES}; `dmesg` says whether memory ran out",
    Reason.ENGINE_UNRESPONSIVE: _LINES,
    Reason.CONFIG_INVALID: "the message names the field of the engine's arguments or of checkpoint=",
    Reason.INTERNAL: "a bug in Vernal: please report it with the engine's lines",
}
