"""No engine of a test gives up because the machine is slow."""

from patience import GUARD_SECONDS
from vernal_contract.config import CheckpointConfig

PATIENT = CheckpointConfig(freeze_timeout_seconds=GUARD_SECONDS, thaw_timeout_seconds=GUARD_SECONDS)
