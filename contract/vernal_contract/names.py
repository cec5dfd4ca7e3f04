"""Names that both sides write down: API group, labels, annotations, environment variables, ports and paths."""

from typing import Final

GROUP: Final = "vernal.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"
FIELD_MANAGER: Final = "vernal-operator"

# Labels. `POOL` selects exactly one pod a replica, which is what /scale's labelSelectorPath promises to an HPA.
LABEL_POOL: Final = f"{GROUP}/pool"
LABEL_REVISION: Final = f"{GROUP}/revision"
LABEL_SLOT: Final = f"{GROUP}/slot"
LABEL_COMPONENT: Final = f"{GROUP}/component"
COMPONENT_WORKER: Final = "worker"
COMPONENT_JANITOR: Final = "janitor"
COMPONENT_WAKER: Final = "waker"
COMPONENT_COLLECTOR: Final = "collector"
COMPONENT_PREFETCH: Final = "prefetch"
LABEL_SERVICE: Final = "kubernetes.io/service-name"  # Kubernetes' own: which Service an EndpointSlice is of
LABEL_SLICE_BY: Final = "endpointslice.kubernetes.io/managed-by"

ANNOTATION_SPEC_HASH: Final = f"{GROUP}/spec-hash"
# On a pool: any text; a new one asks for a new checkpoint. On a pod: the text that it was made under.
ANNOTATION_RENEW: Final = f"{GROUP}/renew-checkpoint"
# On a Job that fetches a checkpoint: where to, and which.
ANNOTATION_NODE: Final = f"{GROUP}/node"
ANNOTATION_GENERATION: Final = f"{GROUP}/generation"
FINALIZER_CHECKPOINT: Final = f"{GROUP}/artifact-files"

# Environment of the worker's container. CONFIG is the JSON of `config.WorkerConfig`; the rest is the downward API.
ENV_CONFIG: Final = "VERNAL_CONFIG"
ENV_POD_NAME: Final = "VERNAL_POD_NAME"
ENV_POD_NAMESPACE: Final = "VERNAL_POD_NAMESPACE"
ENV_POD_UID: Final = "VERNAL_POD_UID"
ENV_POD_IP: Final = "VERNAL_POD_IP"
ENV_NODE_NAME: Final = "VERNAL_NODE_NAME"
# What `POST /drain` takes as bearer token; from a Secret. It stays in process 1: never in the engine, never frozen.
ENV_ADMIN_TOKEN: Final = "VERNAL_ADMIN_TOKEN"  # noqa: S105
ENV_SIGNING_KEY: Final = "VERNAL_SIGNING_KEY"  # from a Secret; never reaches the engine
# Before the names of a bucket's credentials, such as AWS_ACCESS_KEY_ID: from a Secret, and like the signing key in
# process 1 alone. Under names of their own they are not taken for the engine's, which may have others.
ENV_OBJECT_STORE: Final = "VERNAL_OBJECT_STORE_"
# Generations of the pool's artifacts that are to be replaced, with commas between them: they are not thawed.
ENV_RENEW: Final = "VERNAL_RENEW"
# How many bytes a worker's node cache may have; where there is one, it is mounted at PATH_NODE_CACHE.
ENV_NODE_CACHE: Final = "VERNAL_NODE_CACHE_BYTES"
# Of a janitor: which artifacts its namespace has VLLMCheckpoints of, as identity/host tuple with commas between them.
ENV_KNOWN: Final = "VERNAL_KNOWN"

CONTAINER_WORKER: Final = "worker"
VOLUME_NODE_CACHE: Final = "vernal-node-cache"
PORT_SERVING: Final = 8000
PORT_ADMIN: Final = 9100
PORT_NAME_SERVING: Final = "http"
PORT_NAME_ADMIN: Final = "admin"

HEADER_NOT_ACCEPTED: Final = "x-vernal-not-accepted"
"""Of an answer to a request that a worker did not let in: nothing of it was done, so it may be sent to another one."""
PROBES: Final = frozenset({"/health", "/ping", "/metrics", "/version", "/load"})
"""Paths of the serving port that tell about the server: no work, which keeps no pool up and wakes none."""

# Places inside the worker's container. They are part of the host tuple: a thawed process opens these very paths.
PATH_STORE: Final = "/var/lib/vernal/store"
PATH_MODEL: Final = "/var/lib/vernal/model"
PATH_KV: Final = "/var/lib/vernal/kv"
PATH_RUN: Final = "/run/vernal"
PATH_IMAGE_ID: Final = "/opt/vernal/image-id"
PATH_NODE_CACHE: Final = "/var/lib/vernal/node-cache"  # gone from the container before an engine is there
