"""Standing between a library and libc, with a library that is here: psutil asks the kernel by ioctl(2) for an
interface's MTU, as `libcuda` asks where memory is. What that changes on a GPU is in `gpu/test_two_gpus.py`."""

import ctypes
import errno
import importlib
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from vernal_worker.checkpoint.cuda.interpose import Interposer
from vernal_worker.checkpoint.cuda.numbers import Control, Info, info

library = importlib.import_module("psutil._psutil_linux")

SIOCGIFMTU = 0x8921
CONTROL = 0xC020462A

_IOCTL = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p, use_errno=True)


def address(function: Any) -> int:
    found = ctypes.cast(function, ctypes.c_void_p).value
    assert found is not None
    return found


_real = _IOCTL(address(ctypes.CDLL(None).ioctl))


def mtu(name: str = "lo") -> int:
    found: int = library.net_if_mtu(name)
    return found


@pytest.fixture
def interposer() -> Interposer:
    return Interposer(str(library.__file__), "ioctl")


def test_an_answer_is_another_one_for_a_moment(interposer: Interposer) -> None:
    def shorter(fd: int, request: int, argument: int) -> int:
        code = _real(fd, request, argument)
        if request == SIOCGIFMTU:
            ctypes.c_int32.from_address(argument + 16).value -= 1  # ifr_mtu, netdevice(7)
        return int(code)

    function, before = _IOCTL(shorter), mtu()
    for _ in range(3):
        with interposer.by(address(function)):
            assert mtu() == before - 1
            with ThreadPoolExecutor(1) as other:
                assert other.submit(mtu).result() == before - 1
        assert mtu() == before


def test_errno_comes_through(interposer: Interposer) -> None:
    function = _IOCTL(lambda fd, request, argument: _real(fd, request, argument))
    with interposer.by(address(function)), pytest.raises(OSError) as caught:
        mtu("no-such-one")
    assert caught.value.errno == errno.ENODEV


def test_all_is_as_before_if_the_block_fails(interposer: Interposer) -> None:
    function, before = _IOCTL(lambda fd, request, argument: -1), mtu()
    with pytest.raises(RuntimeError, match="in between"), interposer.by(address(function)):
        raise RuntimeError("in between")
    assert mtu() == before


def test_memory_is_as_protected_as_before(interposer: Interposer) -> None:
    def protections() -> list[str]:
        rows = Path("/proc/self/maps").read_text().splitlines()
        return [row.split()[1] for row in rows if row.endswith(Path(str(library.__file__)).name)]

    before = protections()
    with interposer.by(address(_real)):
        assert mtu()
    assert protections() == before


@pytest.mark.parametrize("name", ["no_such_function", "ioctl2"])
def test_a_library_that_does_not_call_it_is_an_error(name: str) -> None:
    with pytest.raises(LookupError, match=f"no place for the address of {name}"):
        Interposer(str(library.__file__), name)


def test_a_library_that_is_not_here_is_an_error() -> None:
    with pytest.raises(OSError, match="libno-such"):
        Interposer("libno-such.so.1", "ioctl")


@pytest.fixture
def asked() -> tuple[Control, Info]:
    answer = Info(fd=7, device=3, instance=0xFFFFFFFF, most=1)
    return Control(command=0x3D08, parameters=ctypes.addressof(answer), size=ctypes.sizeof(answer)), answer


def test_the_structures_are_the_kernel_modules(asked: tuple[Control, Info]) -> None:
    """As bytes on an H200 with driver 580.159.04: number 1, no MIG instance, one object, metadata beginning with 4."""
    control, _ = asked
    assert (ctypes.sizeof(Control), ctypes.sizeof(Info)) == (32, 80)
    seen = struct.pack("=iIIH", 7, 1, 0xFFFFFFFF, 1) + b"\x04" + bytes(63 + 2)
    held = ctypes.create_string_buffer(seen, len(seen))
    control.parameters = ctypes.addressof(held)
    found = info(CONTROL, ctypes.addressof(control))
    assert found is not None and (found.device, found.instance, found.most, found.metadata[0]) == (1, 0xFFFFFFFF, 1, 4)
    found.device = 5
    assert held.raw == struct.pack("=iIIH", 7, 5, 0xFFFFFFFF, 1) + seen[14:], "nothing else is changed"


CHANGES: dict[str, Callable[[Control], None]] = {
    "another command": lambda control: setattr(control, "command", 0x3D06),
    "of another size": lambda control: setattr(control, "size", 76),
    "which failed": lambda control: setattr(control, "status", 0x1F),
    "without an answer": lambda control: setattr(control, "parameters", 0),
}


@pytest.mark.parametrize("change", CHANGES)
def test_nothing_else_is_taken_for_that_question(asked: tuple[Control, Info], change: str) -> None:
    control, _ = asked
    assert info(CONTROL, ctypes.addressof(control)) is not None
    CHANGES[change](control)
    assert info(CONTROL, ctypes.addressof(control)) is None
    assert info(CONTROL + 1, 8) is None and info(CONTROL, 0) is None
