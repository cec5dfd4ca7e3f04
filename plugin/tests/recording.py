"""Objects that a real API server and operator gave, and what becomes of those when something is wrong."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kubectl_vernal.read import POOLS, World

RECORDED = json.loads((Path(__file__).parent / "recorded" / "world.json").read_text())
Change = Callable[[dict[str, Any]], None]
BUCKET = {"subPath": "", "objectStore": {"url": "s3://models/vernal", "credentialsSecret": {"name": "bucket"}}}


def world(change: Change = lambda raw: None) -> World:
    raw = copy.deepcopy(RECORDED)
    change(raw)
    return World(**raw)


def pool(raw: dict[str, Any], called: str = "qwen") -> dict[str, Any]:
    return next(one for one in raw["objects"][POOLS] if one["metadata"]["name"] == called)


def pod_of(found: World, mode: str, called: str = "qwen") -> dict[str, Any]:
    there = found.pods_of(found.pool("demo", called) or {})
    return next(pod for pod in there if (found.state(pod) or {}).get("startMode") == mode)


def a_node(raw: dict[str, Any]) -> dict[str, Any]:
    return next(node for node in raw["objects"]["nodes"] if node["metadata"]["name"] == "node")
