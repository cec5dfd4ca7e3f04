"""What hands GPU memory out goes on listening, whatever happens meanwhile: no GPU needed."""

import socket
import subprocess
import sys
from pathlib import Path

import msgspec
from patience import GUARD_SECONDS
from vernal_worker.checkpoint.cuda.memory import MESSAGE, Fetch, Handover

NO_DESCRIPTORS = """
import os, resource, sys
from pathlib import Path
from vernal_worker.checkpoint.cuda.memory import Broker

broker = Broker([], Path("/"), 1, None)
broker.start(Path(sys.argv[1]))
broker.wait()
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
held = []
try:
    while True:
        held.append(os.open("/dev/null", os.O_RDONLY))
except OSError:
    print("full", flush=True)
input()
for fd in held:
    os.close(fd)
input()
"""


def test_it_outlives_a_moment_without_descriptors(tmp_path: Path) -> None:
    """Else the engine's workers wait for their memory until the thaw's time-out."""
    path = str(tmp_path / "memory.sock")
    with subprocess.Popen(
        [sys.executable, "-c", NO_DESCRIPTORS, path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as broker:
        assert broker.stdin and broker.stdout and broker.stderr
        assert broker.stdout.readline() == "full\n", broker.stderr.read()
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:  # it waits to be accepted
            connection.settimeout(GUARD_SECONDS)
            connection.connect(path)
            assert "cannot take a connection now" in broker.stderr.readline()
            broker.stdin.write("\n")
            broker.stdin.flush()
            connection.send(msgspec.json.encode(Fetch(rank=0, copies=False)))
            answer = msgspec.json.decode(connection.recv(MESSAGE), type=Handover)
            assert answer.problem is not None and "IndexError" in answer.problem, "there is no rank"
        broker.communicate("\n", timeout=GUARD_SECONDS)
