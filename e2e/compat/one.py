"""One version, by the Python of its environment. With the development environment:

  PYTHONPATH=e2e:worker_image/tests/worker .venv/bin/python e2e/compat/one.py /var/tmp/one

A worker starts and freezes itself, another one thaws it, and both answer alike. The last line is what came of it, as
JSON.
"""

from __future__ import annotations

import argparse
import json
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from worker_pod import Pod

PROMPTS = ("A worker that has served before", "Freeze it once", "0, 1, 2, 3")


def main(work: Path) -> dict[str, object]:
    from images.criu import criu_path
    from models.tiny import make_tiny_model
    from worker_pod import Pod

    model, store = work / "model", work / "store"
    store.mkdir(parents=True, exist_ok=True)
    make_tiny_model(model)
    found: dict[str, object] = {"vllm": version("vllm"), "torch": version("torch")}
    pods: list[Pod] = []

    def start(name: str) -> Pod:
        pods.append(Pod(name, work / f"{name}.log", store, model, criu_path()))
        return pods[-1]

    def answers(pod: Pod) -> list[str]:
        return [pod.complete(prompt, logprobs=2) for prompt in PROMPTS]

    try:
        creator = start("creator")
        state = creator.wait_ready()
        found["freeze"] = (
            f"{state.freeze.outcome} {state.freeze.reason}".strip() if state.freeze else state.start_reason
        )
        before = answers(creator)
        thawed = start("thawed")
        state = thawed.wait_ready()
        found["thaw"] = (
            state.start_mode if state.start_mode == "Restored" else f"{state.start_mode}: {state.start_reason}"
        )
        found["equal"] = answers(thawed) == before
    except AssertionError as error:
        found["failed"] = str(error)[-2000:]
    finally:
        for pod in pods:
            pod.end()
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, help="for the model, the checkpoint and logs; not below /tmp")
    print(json.dumps(main(parser.parse_args().directory)))
