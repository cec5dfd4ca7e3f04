"""One of the processes that use a `Link`: `python collectives_rank.py RANK RANKS CARRIER`. Prints a JSON object."""

import ctypes
import json
import sys
import time

import torch
from vernal_worker.engine.collectives.kernel import UNIT
from vernal_worker.engine.collectives.link import Link

SIZES = [UNIT, 48 * 2048, 1 << 20, (16 << 20) + UNIT]
TYPES = [torch.float32, torch.bfloat16, torch.float16]


def data(rank: int, size: int, kind: torch.dtype) -> torch.Tensor:
    """The same values wherever they are made."""
    generator = torch.Generator().manual_seed(size * 10 + rank)
    count = size // torch.empty(0, dtype=kind).element_size()
    return torch.randn(count, generator=generator).to(kind).cuda()


def right(link: Link, rank: int, ranks: int) -> int:
    """How many results were as expected; all are checked."""
    checked = 0
    stream = torch.cuda.current_stream().cuda_stream
    for size in SIZES:
        for kind in TYPES:
            every = [data(each, size, kind) for each in range(ranks)]
            mine = every[rank]
            total = link.all_reduce(mine, None, stream)
            assert total is not None
            assert torch.equal(total, summed(every)), f"sum of {size} bytes of {kind}"
            row = torch.empty(ranks * mine.numel(), dtype=kind, device="cuda")
            assert link.all_gather(mine, row, stream)
            assert torch.equal(row, torch.cat(every)), f"gather of {size} bytes of {kind}"
            checked += 2
    return checked


def summed(tensors: list[torch.Tensor]) -> torch.Tensor:
    """In the order of ranks, in float32, rounded once."""
    total = torch.zeros_like(tensors[0], dtype=torch.float32)
    for tensor in tensors:
        total += tensor.float()
    return total.to(tensors[0].dtype)


def microseconds(link: Link, size: int, rounds: int = 200) -> float:
    x = data(0, size, torch.bfloat16)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        link.all_reduce(x, None, stream.cuda_stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            y = x
            for _ in range(20):
                y = link.all_reduce(y, None, stream.cuda_stream)
    torch.cuda.synchronize()
    best = []
    for _ in range(5):
        began = time.perf_counter()
        for _ in range(rounds // 20):
            graph.replay()
        torch.cuda.synchronize()
        best.append((time.perf_counter() - began) / rounds * 1e6)
    return round(sorted(best)[2], 2)


def host_microseconds(link: Link, rounds: int = 500) -> float:
    """Of this thread, for a call outside of a graph."""
    x, stream = data(0, 4096, torch.bfloat16), torch.cuda.current_stream().cuda_stream
    began = time.perf_counter()
    for _ in range(rounds):
        link.all_reduce(x, None, stream)
    seconds = time.perf_counter() - began
    torch.cuda.synchronize()
    return round(seconds / rounds * 1e6, 2)


def main() -> None:
    rank, ranks, carrier = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    alone = ranks <= torch.cuda.device_count()  # else several take turns on a GPU
    gpu = rank % torch.cuda.device_count()
    torch.cuda.set_device(gpu)
    result: dict[str, object] = {"rank": rank}
    link = Link(rank, ranks, torch.device("cuda", gpu), "test", nvlink=carrier == "nvlink")
    result["carrier"] = type(link._carrier).__name__
    result["checked"] = right(link, rank, ranks)

    x = data(rank, 1 << 20, torch.bfloat16)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = link.all_reduce(x, None, torch.cuda.current_stream().cuda_stream)
    for turn in range(3 if alone else 0):  # a graph must outlive the memory that it was captured with
        link.disconnect()
        assert link.all_reduce(x, None, 0) is None
        off_and_on()
        link.connect()
        graph.replay()
        torch.cuda.synchronize()
        expected = summed([data(each, 1 << 20, torch.bfloat16) for each in range(ranks)])
        assert torch.equal(y, expected), f"after {turn + 1} times"
        result["reconnected"] = turn + 1
    if alone:
        measure(link, result)
    link.disconnect()
    print(json.dumps(result), flush=True)


def measure(link: Link, result: dict[str, object]) -> None:
    result["microseconds"] = {size: microseconds(link, size) for size in (4096, 48 * 2048, 1 << 20, 16 << 20)}
    result["host_microseconds"] = host_microseconds(link)


def off_and_on() -> None:
    """The test takes this process off its GPU meanwhile, and puts it back, as a freeze does."""
    print("off", flush=True)
    assert sys.stdin.readline() == "on\n"


if __name__ == "__main__":
    ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL: a rank alone would wait for ever
    main()
