"""A bucket for a pool's checkpoints: of a real S3 server beside the embedded cluster, or the one that the environment
names."""

import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cluster.errors import ClusterError
from cluster.layout import NODE_IP, State, state_dir
from cluster.proc import Processes
from common.ports import free_port
from common.progress import step
from common.tools import ToolError
from object_store import server

from scenarios.kube import die, wait

KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
_PROCESS = "versitygw"


@dataclass(frozen=True)
class Bucket:
    """`keys`: what is in the pool's Secret, `KEYS` as far as there are."""

    url: str
    endpoint: str | None
    region: str | None
    keys: Mapping[str, str]


@contextmanager
def embedded(name: str) -> Iterator[Bucket]:
    """A new bucket of a server that runs as long as the block: on the node's address, which no other machine has, with
    credentials of its own. It is a process of the cluster's: what a killed run leaves goes with the next one, or with
    `python -m cluster down`.
    """
    state = State(state_dir())
    directory = state.root / "object-store"
    processes = Processes(state.run, state.logs, str(state.root))
    keys = {"AWS_ACCESS_KEY_ID": secrets.token_hex(8), "AWS_SECRET_ACCESS_KEY": secrets.token_hex(16)}

    def gone() -> None:
        processes.stop([_PROCESS])
        shutil.rmtree(directory, ignore_errors=True)

    gone()
    (directory / name).mkdir(parents=True, mode=0o700)
    try:
        with step("starting an S3 server, versitygw (2 min to compile the first time, then 1 s)"):
            port = _start(processes, directory, keys)
        yield Bucket(f"s3://{name}", f"http://{NODE_IP}:{port}", server.REGION, keys)
    finally:
        gone()


def _start(processes: Processes, directory: Path, keys: Mapping[str, str]) -> int:
    """The port."""
    port = free_port(NODE_IP)

    def answers() -> bool:
        processes.check(_PROCESS)
        return server.answers(NODE_IP, port)

    try:
        processes.ensure(_PROCESS, server.command(NODE_IP, port, directory), server.variables(keys, directory))
        wait("the S3 server to answer", answers, every=0.1)
    except (ClusterError, ToolError) as error:
        die(str(error))
    return port


def of_environment(name: str) -> Bucket:
    """What VERNAL_BUCKET and the AWS_* variables name, below a prefix of its own."""
    url = os.environ.get("VERNAL_BUCKET", "").rstrip("/")
    keys = {key: value for key in KEYS if (value := os.environ.get(key))}
    if not url.startswith("s3://") or not keys.keys() >= set(KEYS[:2]):
        die(f"with KUBECONFIG set, --store s3 needs VERNAL_BUCKET=s3://BUCKET, {KEYS[0]} and {KEYS[1]}, and, where it "
            "is not AWS in us-east-1, AWS_ENDPOINT_URL and AWS_REGION")  # fmt: skip
    return Bucket(f"{url}/{name}", os.environ.get("AWS_ENDPOINT_URL"), os.environ.get("AWS_REGION"), keys)
