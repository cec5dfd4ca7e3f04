"""A worker's last words."""

from pathlib import Path

from vernal_contract.reasons import NEXT_STEP, Reason

from vernal_worker.supervisor import log
from vernal_worker.supervisor.exits import ExitCode

TERMINATION_LOG = Path("/dev/termination-log")
"""Where Kubernetes looks for a container's last words (`terminationMessagePath`)."""

_TERMINATION_BYTES = 4096
"""What the kubelet takes of it."""


def say_farewell(code: ExitCode, message: str, reason: Reason | None = None) -> None:
    """The last line of the log; if something is wrong, also the pod's termination message."""
    if code is ExitCode.OK:
        log.event("exit", code=int(code), message=message)
        return
    next_step = NEXT_STEP.get(reason) if reason is not None else None
    log.failure("exit", code=int(code), name=code.name, reason=reason, message=message, next_step=next_step)
    if TERMINATION_LOG.exists():
        try:
            end = f"\n{next_step or ''}\n".encode()
            said = f"{reason or code.name}: {message}".encode()[: _TERMINATION_BYTES - len(end)]
            TERMINATION_LOG.write_bytes(said.decode(errors="ignore").encode() + end)
        except OSError:
            pass  # it is a courtesy
