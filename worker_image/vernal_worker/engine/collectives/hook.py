"""Lets vLLM's NCCL communicators use a `Link`. Written for vLLM 0.26 to 0.32."""

import functools
import itertools
import os
from typing import Any

VARIABLE = "VERNAL_COLLECTIVES"
"""Environment variable: "nvlink", "host", or anything else for NCCL alone."""

_links: list[Any] = []
_numbers = itertools.count()


def install() -> None:
    """Before vLLM makes its communicators, in each process that may have some."""
    if (wanted := os.environ.get(VARIABLE)) not in ("nvlink", "host"):
        return
    from vllm.distributed.device_communicators.pynccl import PyNcclCommunicator

    if "vernal_link" not in PyNcclCommunicator.__dict__:
        PyNcclCommunicator.vernal_link = None
        _wrap(PyNcclCommunicator, nvlink=wanted == "nvlink")


def disconnect() -> None:
    """Before a freeze, on all ranks. Raises: DriverError."""
    for link in _links:
        link.disconnect()


def connect() -> None:
    """After it, on all ranks at the same time. Raises: see `Link.connect`."""
    for link in _links:
        link.connect()


def _wrap(communicator: Any, *, nvlink: bool) -> None:
    make, all_reduce, all_gather = communicator.__init__, communicator.all_reduce, communicator.all_gather

    @functools.wraps(make)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        make(self, *args, **kwargs)
        number = next(_numbers)  # communicators are made in the same order everywhere
        if self.world_size > 1 and not self.disabled:
            import torch

            from vernal_worker.engine.collectives.link import Link

            with torch.cuda.device(self.device):
                name = f"link-{number}-{_first(args[0] if args else kwargs['group'])}"
                self.vernal_link = Link(self.rank, self.world_size, self.device, name, nvlink=nvlink)
            _links.append(self.vernal_link)

    @functools.wraps(all_reduce)
    def reduce(self: Any, in_tensor: Any, out_tensor: Any = None, op: Any = None, stream: Any = None) -> Any:
        from torch.distributed import ReduceOp

        op = ReduceOp.SUM if op is None else op
        if self.vernal_link is not None and op == ReduceOp.SUM:
            result = self.vernal_link.all_reduce(in_tensor, out_tensor, _stream(stream))
            if result is not None:
                return result
        return all_reduce(self, in_tensor, out_tensor, op, stream)

    @functools.wraps(all_gather)
    def gather(self: Any, output_tensor: Any, input_tensor: Any, stream: Any = None) -> None:
        if self.vernal_link is None or not self.vernal_link.all_gather(input_tensor, output_tensor, _stream(stream)):
            all_gather(self, output_tensor, input_tensor, stream)

    communicator.__init__, communicator.all_reduce, communicator.all_gather = init, reduce, gather


def _first(group: Any) -> int:
    """The lowest rank of a group: tells the groups of one worker apart, such as the stages of a pipeline."""
    from torch.distributed import ProcessGroup, get_process_group_ranks

    return min(get_process_group_ranks(group)) if isinstance(group, ProcessGroup) else 0


def _stream(stream: Any) -> int:
    if stream is None:
        from vllm.utils.torch_utils import current_stream

        stream = current_stream()
    return int(stream.cuda_stream)
