"""The link between the ranks of a group: connected while the engine serves, disconnected while it is frozen."""

import functools
import logging
import os
import tempfile
from contextlib import suppress
from pathlib import Path

import torch

from vernal_worker.checkpoint.cuda import numbers
from vernal_worker.checkpoint.cuda.driver import DriverError
from vernal_worker.engine.collectives.carriers import Carrier, Hosted, Remote
from vernal_worker.engine.collectives.kernel import UNIT, Kernels, inbox_bytes, state_bytes
from vernal_worker.engine.collectives.rendezvous import Meeting

_TIMEOUT = 60.0
_UNKNOWN = 255
"""Instead of the number by which ranks know a GPU; the driver gives less than 32 (NV_MAX_DEVICES)."""

_logger = logging.getLogger("vernal_worker.engine")


class Link:
    """Between the ranks of one group. All make it, connect it and use it in the same order."""

    def __init__(self, rank: int, ranks: int, device: torch.device, name: str, *, nvlink: bool = True) -> None:
        """Connects.

        Args:
            ranks: how many there are; `rank` is one of 0 to `ranks` - 1.
            name: the same on all sides, and of no other link of this worker.
            nvlink: False to go through the host's memory even where the GPUs could reach each other.

        Raises: see `connect`; DriverError: the kernels cannot be compiled.
        """
        self._rank, self._ranks, self._device, self._nvlink = rank, ranks, device, nvlink
        self._path = Path(tempfile.gettempdir()) / f"vernal-{name}"
        self._inbox = inbox_bytes(ranks)
        self._state = torch.zeros(-(-state_bytes(ranks) // 8), dtype=torch.int64, device=device)
        self._kernels = _kernels(rank, ranks)
        self._kinds = {getattr(torch, kind): kind for kind in Kernels.TYPES}
        self._address = self._state.data_ptr()
        self._carrier: Carrier | None = None
        self.connect()

    def connect(self) -> None:
        """Make inboxes and exchange them. Nothing happens if that is done.

        Raises:
            MeetingError: another rank does not take part.
            DriverError, OSError: there is no memory for it.
        """
        if self._carrier is not None:
            return
        with Meeting(self._path, self._rank, self._ranks, _TIMEOUT) as meeting:
            found = self._over_nvlink(meeting) if self._nvlink else None
            carrier, theirs = found or self._through_host(meeting)
            addresses = [carrier.mine if each == self._rank else theirs[each] for each in range(self._ranks)]
            self._state.zero_()
            self._state[: self._ranks] = torch.tensor(addresses, dtype=torch.int64)
            torch.cuda.synchronize(self._device)
            meeting.agree(True)  # nobody begins before all are there
        self._carrier = carrier
        how = "over NVLink" if isinstance(carrier, Remote) else "through the host's memory"
        _logger.info("rank %d of %d: connected to the others %s", self._rank, self._ranks, how)

    def disconnect(self) -> None:
        """Let go of all memory that is shared. Raises: DriverError."""
        if self._carrier is not None:
            torch.cuda.synchronize(self._device)
            self._state.zero_()
            torch.cuda.synchronize(self._device)
            carrier, self._carrier = self._carrier, None
            carrier.close()

    def all_reduce(self, x: torch.Tensor, y: torch.Tensor | None, stream: int) -> torch.Tensor | None:
        """The sum of all ranks' `x`, in `y` if given; None if this is nothing for it."""
        kind = self._kinds.get(x.dtype)
        if kind is None or not self._takes(x):
            return None
        x, target = _aligned(x), torch.empty_like(x)
        self._kernels.reduce(kind, x.nbytes)(x.data_ptr(), target.data_ptr(), x.nbytes, self._address, stream)
        return target if y is None else y.copy_(target)

    def all_gather(self, x: torch.Tensor, y: torch.Tensor, stream: int) -> bool:
        """The ranks' `x` go to `y` in their order, which is so many times as large. False if this is nothing for it."""
        if not self._takes(x) or not y.is_contiguous():
            return False
        x, target = _aligned(x), _aligned(y)
        self._kernels.gather(x.data_ptr(), target.data_ptr(), x.nbytes, self._address, stream)
        if target is not y:
            y.copy_(target)
        return True

    def _takes(self, tensor: torch.Tensor) -> bool:
        """Looks at nothing in which ranks may differ, such as addresses: or one would wait for another for ever."""
        return self._carrier is not None and tensor.is_contiguous() and tensor.nbytes > 0 and tensor.nbytes % UNIT == 0

    def _over_nvlink(self, meeting: Meeting) -> tuple[Carrier, dict[int, int]] | None:
        """None: one of the ranks cannot."""
        carrier: Remote | None = None
        theirs: dict[int, int] = {}
        try:
            carrier = Remote(self._device.index, self._inbox)
        except DriverError as error:
            self._explain(error)
        try:
            theirs = self._trade(meeting, carrier)
        except DriverError as error:
            self._explain(error)
        if meeting.agree(len(theirs) == self._ranks - 1) and carrier is not None:
            return carrier, theirs
        if carrier is not None:
            with suppress(DriverError):
                carrier.close()
        return None

    def _through_host(self, meeting: Meeting) -> tuple[Carrier, dict[int, int]]:
        carrier = Hosted(self._inbox)
        return carrier, self._trade(meeting, carrier)

    def _trade(self, meeting: Meeting, carrier: Carrier | None) -> dict[int, int]:
        """Offer this rank's inbox to the others; returns the addresses of theirs, by rank, of all that have one.

        Raises: DriverError, OSError, MeetingError.
        """
        own = carrier.offer() if carrier is not None else None
        known = numbers.own(self._device.index)
        try:
            offered = meeting.trade(own, _UNKNOWN if known is None else known)
        finally:
            if own is not None:
                os.close(own)
        try:
            if carrier is None:
                return {}
            return {
                rank: carrier.accept(fd, None if number == _UNKNOWN else number)
                for rank, (fd, number) in offered.items()
            }
        finally:
            for fd, _ in offered.values():
                os.close(fd)

    def _explain(self, error: DriverError) -> None:
        _logger.warning(
            "rank %d: the GPUs cannot reach each other's memory (%s): going through the host's", self._rank, error
        )


@functools.cache
def _kernels(rank: int, ranks: int) -> Kernels:
    """A process works on one GPU."""
    return Kernels(rank, ranks)


def _aligned(tensor: torch.Tensor) -> torch.Tensor:
    return tensor if tensor.data_ptr() % UNIT == 0 else tensor.clone()
