"""Thirty small trees start at once on an empty store."""

import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.integration

TREES = 30


def test_thirty_trees_at_once_on_an_empty_store(pods: Any, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    each = [pods() for _ in range(TREES)]
    how: list[str] = []
    threads = [threading.Thread(target=lambda pod=pod: how.append(pod.start_from_store("store"))) for pod in each]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counts = Counter(how)
    print(dict(counts))
    assert sum(counts.values()) == TREES and counts["published"] == 1
    assert set(counts) <= {"published", "thawed", "went on"}
    served = [pod.ask("state")["child"] for pod in each]
    assert served == [["child hi", "grandchild hi"]] * TREES
    (directory,) = (tmp_path / "store").glob("artifacts/*/*")
    assert len([path for path in directory.iterdir() if path.is_dir() and path.name[0].isdigit()]) == 1
    assert list((tmp_path / "store/staging").iterdir()) == []
    assert list((tmp_path / "store/leases").iterdir()) == []
    assert pods().start_from_store("store") == "thawed"
