"""What msgspec does to threads that are the first to use a class."""

import subprocess
import sys

AT_ONCE = """
import sys, threading, msgspec
from vernal_contract import decoding
sys.setswitchinterval(1e-6)
data = b'{"f7":{"a7":{"x":[1]}},"f0":{"a0":null}}'
for number in range(300):
    inner = msgspec.defstruct(f"I{number}", [(f"a{i}", dict[str, list[int]] | None, None) for i in range(8)])
    outer = msgspec.defstruct(f"S{number}", [(f"f{i}", inner | None, None) for i in range(8)])
    gate = threading.Barrier(4)
    def use():
        gate.wait()
        decoding.json(data, outer)
        decoding.convert({"f3": {"a3": {"x": [2]}}}, outer)
    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
print("alive")
"""


def test_threads_may_use_a_class_for_the_first_time_together() -> None:
    done = subprocess.run([sys.executable, "-c", AT_ONCE], env={"PYTHONPATH": ":".join(sys.path)}, capture_output=True)
    assert (done.returncode, done.stdout) == (0, b"alive\n"), done.stderr[-2000:]
