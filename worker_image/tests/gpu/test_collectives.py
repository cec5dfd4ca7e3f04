"""All-reduce and all-gather of two and of four processes, before and after they were taken off the GPUs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from patience import GUARD_SECONDS
from vernal_worker.checkpoint.cuda.client import CudaHelper, OnGpu

pytestmark = pytest.mark.two_gpus

RANK = Path(__file__).with_name("collectives_rank.py")


@pytest.mark.parametrize("carrier", ["nvlink", "host"])
@pytest.mark.parametrize("count", [2, 4], ids="{}_ranks".format)
def test_ranks_get_the_right_sums_also_after_a_freeze(count: int, carrier: str, tmp_path: Path) -> None:
    """Four ranks on two or three GPUs take turns there: right, but nothing that one would measure, and not frozen."""
    ranks = [
        subprocess.Popen(
            [sys.executable, str(RANK), str(rank), str(count), carrier],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"TMPDIR": str(tmp_path)},
        )
        for rank in range(count)
    ]
    helper = CudaHelper()
    alone = count <= len(helper.gpus())
    try:
        pids = tuple(rank.pid for rank in ranks)
        while {line := rank.stdout.readline() for rank in ranks if rank.stdout} == {"off\n"}:
            helper.suspend(pids, GUARD_SECONDS)
            helper.restore(OnGpu(pids=pids, gpus=helper.gpus()), GUARD_SECONDS)
            for rank in ranks:
                assert rank.stdin is not None
                rank.stdin.write("on\n")
                rank.stdin.flush()
        assert [rank.wait(GUARD_SECONDS) for rank in ranks] == [0] * count
        result = json.loads(line)
        print(result)
        assert result["carrier"] == {"nvlink": "Remote", "host": "Hosted"}[carrier]
        assert result["checked"] == 24 and result.get("reconnected") == (3 if alone else None)
    finally:
        helper.close()
        for rank in ranks:
            rank.kill()
            rank.wait()
