"""KV blocks on their way between host memory and a real GPU's KV cache, beside what the engine has it compute."""

import threading
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

BLOCKS, SLOTS, LAYERS = 64, 16, 3
SHAPE = (2, 16, 8, 128)


def test_blocks_arrive_between_what_came_before_and_what_comes_after(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The device is busy when copies are enqueued by another thread, with work that writes to the same blocks; what is
    enqueued behind them reads what they brought."""
    torch = pytest.importorskip("torch")
    from vernal_worker.checkpoint.cuda.compile import compile_all
    from vernal_worker.checkpoint.cuda.digest import Kernels
    from vernal_worker.kv import cuda_copies
    from vernal_worker.kv.loads import Move, Run
    from vernal_worker.kv.pages import Pages

    def caches() -> dict[str, Any]:
        return {str(n): torch.zeros((BLOCKS, *SHAPE), dtype=torch.bfloat16, device="cuda") for n in range(LAYERS)}

    compile_all(tmp_path)
    monkeypatch.setattr(cuda_copies, "Kernels", lambda device: Kernels(device, tmp_path))
    cache = caches()
    pages = Pages(cache, BLOCKS)
    host = pages.host_slots(SLOTS * pages.block_bytes)
    host.memory.random_(0, 255)
    stream = pages.copy_stream(host)
    assert stream is not None
    moves = [Move(slot, 3 * slot + 1) for slot in range(SLOTS)]
    torch.cuda.synchronize()

    torch.cuda._sleep(200_000_000)
    for layer in cache.values():
        layer.fill_(1)  # of the blocks' last owner
    stream.mark()
    torch.cuda._sleep(200_000_000)  # the step's own work, which uses other blocks
    stream.begin()
    target = None

    def first() -> None:
        nonlocal target
        target = stream.prepare([move.block_id for move in moves])
        stream.copy([Run(target, 4, 4, 3), Run(target, 0, 0, 4)])

    thread = threading.Thread(target=first)
    thread.start()
    thread.join()
    fence = stream.copy([Run(target, 7, 7, SLOTS - 7)])
    stream.end()
    seen = {name: layer.clone() for name, layer in cache.items()}
    torch.cuda.synchronize()

    assert fence.done()
    assert stream.hashes
    assert stream.digests(range(SLOTS)) == b"".join(blake3(row.numpy()).digest() for row in host.memory)
    for number, layer in enumerate(seen.values()):
        size = layer[0].nbytes
        for move in moves:
            part = host.memory[move.slot, number * size : (number + 1) * size]
            assert torch.equal(layer[move.block_id].view(torch.uint8).flatten().cpu(), part)
        others = [n for n in range(BLOCKS) if n not in {move.block_id for move in moves}]
        assert (layer[others] == 1).all(), "no other block was touched"

    before = host.memory.clone()
    host.memory.zero_()
    monkeypatch.setattr(cuda_copies, "_PIECE_BYTES", 3 * pages.block_bytes)
    monkeypatch.setattr(cuda_copies, "_SAVING_BYTES", 6 * pages.block_bytes)  # 16 blocks by way of 2 times 3
    saved = pages.save(host, list(reversed(moves)))
    for layer in cache.values():
        layer.fill_(2)  # of the blocks' next owner
    saved.wait()
    assert torch.equal(host.memory, before)
    pages.release()
    host.close()
