"""A kopf operator that does nothing but print what its watch of pools shows it. `kopf_alone.py NAMESPACE`.

Its settings are the best that there are against faults: no end of tries, a pause between watches, silence is noticed.
"""

import logging
import os
import sys
from collections.abc import Iterator
from typing import Any

import kopf
import kubernetes
from vernal_operator.kinds import POOLS

registry = kopf.OperatorRegistry()
PAUSE_SECONDS = 2.0
"""Between watches, as far as kopf keeps to it."""


class Backoffs:
    """For ever."""

    def __iter__(self) -> Iterator[float]:
        while True:
            yield 0.5


@kopf.on.startup(registry=registry)
def start(settings: kopf.OperatorSettings, **_: Any) -> None:
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.networking.error_backoffs = Backoffs()
    settings.networking.enforce_retry_after = True
    settings.watching.reconnect_backoff = PAUSE_SECONDS
    settings.watching.inactivity_timeout = 70.0


@kopf.on.login(registry=registry)
def login(**_: Any) -> kopf.ConnectionInfo:
    configuration = kubernetes.client.Configuration()
    kubernetes.config.load_kube_config(os.environ["KUBECONFIG"], client_configuration=configuration)
    _, _, token = configuration.get_api_key_with_prefix("BearerToken", "authorization").partition(" ")
    return kopf.ConnectionInfo(server=configuration.host, scheme="Bearer", token=token)


@kopf.on.event(POOLS.group, POOLS.version, POOLS.plural, registry=registry)
def event(type: str | None, name: str, **_: Any) -> None:
    print(f"event {type} {name}", flush=True)


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    kopf.run(registry=registry, standalone=True, namespaces=[sys.argv[1]])
    print("kopf has ended", flush=True)
