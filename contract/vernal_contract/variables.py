"""Environment variables that shape an engine: they are frozen with it, so they count towards its identity.

The worker passes them on from its container; the operator refuses them where their value is known only after the thaw,
and knows by them which variables a worker may name that no pool has set.
"""

from typing import Final

from vernal_contract import names

KEPT: Final = frozenset(
    [
        "PATH",
        "HOME",
        "LANG",
        "LC_ALL",
        "TZ",
        "LD_LIBRARY_PATH",
        "LD_PRELOAD",
        "PYTHONPATH",
        "PYTHONHOME",
        "PYTHONDONTWRITEBYTECODE",
        "VIRTUAL_ENV",
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
        "REQUESTS_CA_BUNDLE",
    ]
)
"""Variables of the image that are passed on. A pool's pod template may set them as well."""

TUNING: Final = ("VLLM_", "HF_", "TORCH", "OMP_", "MKL_", "KMP_", "TRITON_", "NCCL_", "GLOO_", "CUDA_")
"""Prefixes of variables that are passed on and change what the engine is."""

NEVER: Final = frozenset(
    {"CUDA_VISIBLE_DEVICES", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "VLLM_API_KEY", names.ENV_ADMIN_TOKEN}
)
"""Not passed on in spite of their prefix: they name this pod's devices, or are secret."""


def shapes(name: str) -> bool:
    """Whether a variable of the container is passed on to an engine that may be frozen."""
    return (name in KEPT or name.startswith(TUNING)) and name not in NEVER
