"""Engine arguments that a pool may not give, because Vernal gives them or because they would end up in a checkpoint.

The API server refuses them when a pool is applied, the operator when it reads one, the worker when it starts.
"""

import re
from typing import Final

OWNED: Final[dict[str, str]] = {
    "model": "spec.model says which model",
    "revision": "spec.model.revision says which revision",
    "host": "the worker opens the port itself",
    "port": "the worker opens the port itself",
    "uds": "the worker opens the port itself",
    "api_key": "a key in the arguments would be in the checkpoint; put VLLM_API_KEY into the pool's secrets",
    "worker_extension_cls": "Vernal reaches vLLM's workers through it",
    "ssl_keyfile": "a private key would be in the checkpoint; end TLS in front of the worker",
    "ssl_certfile": "end TLS in front of the worker",
    "api_server_count": "a worker has one API server",
    "headless": "a worker serves HTTP",
    "config": "what is in a file of arguments could not be told apart; put its content into engineArgs",
}
"""By canonical name, and why."""


def canonical_name(name: str) -> str:
    """An argument's name in snake_case, however it is spelt: max-model-len, --max-model-len, maxModelLen."""
    return re.sub(r"(?<=[a-z0-9])([A-Z])", lambda match: "_" + match[1].lower(), name).replace("-", "_").lstrip("_")


def spellings(canonical: str) -> tuple[str, ...]:
    """The ways to write a name: snake_case, kebab-case, camelCase; each once."""
    camel = re.sub(r"_([a-z])", lambda match: match[1].upper(), canonical)
    return tuple(dict.fromkeys((canonical, canonical.replace("_", "-"), camel)))
