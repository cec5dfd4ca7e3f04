"""The link between two ranks: connected while the engine serves, disconnected while it is frozen."""

import functools
import logging
import os
import tempfile
from contextlib import suppress
from pathlib import Path

import torch

from vernal_worker.checkpoint.cuda.driver import DriverError
from vernal_worker.engine.collectives.carriers import Carrier, Hosted, Remote
from vernal_worker.engine.collectives.kernel import INBOX, STATE, UNIT, Kernels
from vernal_worker.engine.collectives.rendezvous import Meeting

_TIMEOUT = 60.0
_logger = logging.getLogger("vernal_worker.engine")


class Link:
    """Between rank 0 and rank 1 of one group. Both make it, connect it and use it in the same order."""

    def __init__(self, rank: int, device: torch.device, name: str, *, nvlink: bool = True) -> None:
        """Connects.

        Args:
            name: the same on both sides, and of no other link of this worker.
            nvlink: False to go through the host's memory even where the GPUs could reach each other.

        Raises: see `connect`; DriverError: the kernels cannot be compiled.
        """
        self._rank, self._device, self._nvlink = rank, device, nvlink
        self._path = Path(tempfile.gettempdir()) / f"vernal-{name}.sock"
        self._state = torch.zeros(-(-STATE // 8), dtype=torch.int64, device=device)
        kernels = _kernels(rank)
        self._gather = kernels.gather
        self._reduce = {getattr(torch, name): kernel for name, kernel in kernels.reduce.items()}
        self._address = self._state.data_ptr()
        self._carrier: Carrier | None = None
        self.connect()

    def connect(self) -> None:
        """Make inboxes and exchange them. Nothing happens if that is done.

        Raises:
            MeetingError: the other rank does not take part.
            DriverError, OSError: there is no memory for it.
        """
        if self._carrier is not None:
            return
        with Meeting(self._path, self._rank, _TIMEOUT) as meeting:
            found = self._over_nvlink(meeting) if self._nvlink else None
            carrier, theirs = found or self._through_host(meeting)
            self._state.zero_()
            self._state[:2] = torch.tensor([theirs, carrier.mine], dtype=torch.int64)
            torch.cuda.synchronize(self._device)
            meeting.trade(b"=")  # nobody begins before both are there
        self._carrier = carrier
        how = "over NVLink" if isinstance(carrier, Remote) else "through the host's memory"
        _logger.info("rank %d: connected to rank %d %s", self._rank, 1 - self._rank, how)

    def disconnect(self) -> None:
        """Let go of all memory that is shared. Raises: DriverError."""
        if self._carrier is not None:
            torch.cuda.synchronize(self._device)
            self._state.zero_()
            torch.cuda.synchronize(self._device)
            carrier, self._carrier = self._carrier, None
            carrier.close()

    def all_reduce(self, x: torch.Tensor, y: torch.Tensor | None, stream: int) -> torch.Tensor | None:
        """The sum of both ranks' `x`, in `y` if given; None if this is nothing for it."""
        kernel = self._reduce.get(x.dtype)
        if kernel is None or not self._takes(x):
            return None
        x, target = _aligned(x), torch.empty_like(x)
        kernel(x.data_ptr(), target.data_ptr(), x.nbytes, self._address, stream)
        return target if y is None else y.copy_(target)

    def all_gather(self, x: torch.Tensor, y: torch.Tensor, stream: int) -> bool:
        """Rank 0's and then rank 1's `x` go to `y`, which is twice as large. False if this is nothing for it."""
        if not self._takes(x) or not y.is_contiguous():
            return False
        x, target = _aligned(x), _aligned(y)
        self._gather(x.data_ptr(), target.data_ptr(), x.nbytes, self._address, stream)
        if target is not y:
            y.copy_(target)
        return True

    def _takes(self, tensor: torch.Tensor) -> bool:
        """Looks at nothing in which ranks may differ, such as addresses: or one would wait for the other for ever."""
        return self._carrier is not None and tensor.is_contiguous() and tensor.nbytes > 0 and tensor.nbytes % UNIT == 0

    def _over_nvlink(self, meeting: Meeting) -> tuple[Carrier, int] | None:
        """None: one of the ranks cannot. That is so if they came back on GPUs that they did not know: the driver lets
        them import no memory there (seen with driver 580)."""
        carrier: Remote | None = None
        theirs = 0
        try:
            carrier = Remote(self._device.index, INBOX)
            own = carrier.offer()
        except DriverError as error:
            self._explain(error)
            own = None
        _, fd = meeting.trade(b"m", own)
        if own is not None:
            os.close(own)
        if fd is not None:
            try:
                theirs = carrier.accept(fd) if carrier is not None else 0
            except DriverError as error:
                self._explain(error)
            os.close(fd)
        if meeting.agree(theirs != 0) and carrier is not None:
            return carrier, theirs
        if carrier is not None:
            with suppress(DriverError):
                carrier.close()
        return None

    def _through_host(self, meeting: Meeting) -> tuple[Carrier, int]:
        carrier = Hosted(INBOX)
        own = carrier.offer()
        _, fd = meeting.trade(b"m", own)
        os.close(own)
        assert fd is not None
        theirs = carrier.accept(fd)
        os.close(fd)
        return carrier, theirs

    def _explain(self, error: DriverError) -> None:
        _logger.warning(
            "rank %d: the GPUs cannot reach each other's memory (%s): going through the host's", self._rank, error
        )


@functools.cache
def _kernels(rank: int) -> Kernels:
    """A process works on one GPU."""
    return Kernels(rank)


def _aligned(tensor: torch.Tensor) -> torch.Tensor:
    return tensor if tensor.data_ptr() % UNIT == 0 else tensor.clone()
