"""How long the first request of each kind takes, and the second: on a plain start and on a thawed worker."""

import json
import time

from common.progress import say
from shutdown.workers import Workers
from vernal_worker.engine import warm
from worker_pod import Pod

Times = dict[str, tuple[float, float]]


def run(made: Workers) -> str:
    made.make_checkpoint()
    plain = made.start(made.store, checkpoint={"policy": "Disabled"})
    plain.wait_ready()
    say("a plain start")
    cold = _ask(plain)
    plain.end()
    say("a thawed worker")
    pod = made.thawed()
    thawed = _ask(pod)
    pod.end()
    lines = ["| kind | plain: first | second | thawed: first | second |", "|---|---|---|---|---|"]
    for kind in cold:
        times = "".join(f" {1000 * seconds:.0f} ms |" for seconds in (*cold[kind], *thawed[kind]))
        lines.append(f"| {kind} |{times}")
    late = [kind for kind, (first, second) in thawed.items() if first > 2 * second]
    lines += ["", f"thawed, first over twice the second: {', '.join(late) or 'none'}"]
    return "\n".join(lines)


def _ask(pod: Pod) -> Times:
    """One kind after the other, the plain one twice at first: what every first request pays is not a kind's."""
    found: Times = {}
    asked = warm.requests("tiny", [])
    for kind in ("plain", *asked):
        path, body = asked[kind]
        times = []
        for _ in range(2):
            began = time.monotonic()
            status, answer = pod.ask("POST", path, body)
            times.append(time.monotonic() - began)
        if status == 200:
            found[kind] = (times[0], times[1])
        elif status not in (400, 404, 405):
            raise RuntimeError(f"{kind}: HTTP {status}: {json.dumps(answer.decode(errors='replace'))}")
    return found
