"""What must be done in every process of the engine's tree: the API process, EngineCore and each worker.

Imports neither vllm nor torch, so that the first lines of a process can use it.
"""

import asyncio
import atexit
import contextlib
import ctypes
import gc
import multiprocessing
import multiprocessing.util
import os
import random
import signal
import ssl
import sys
import tempfile
import threading
from collections.abc import Callable
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess
from types import ModuleType
from typing import Any, ClassVar, NoReturn

SHIELDED = frozenset({signal.SIGTERM, signal.SIGINT})
"""Signals that mean "the container stops". Only process 1 acts on them."""
EXIT_SECONDS = 10.0
"""For the exit handlers of a process that has failed."""


def shield() -> None:
    """Block `SHIELDED` in this thread, and so in each thread and process that it starts from here on.

    Blocked rather than ignored: vLLM's processes install handlers of their own, and a handler does not run
    while its signal is blocked. multiprocessing unblocks both signals when it starts its resource tracker,
    hence that goes first, and is undone when it starts another one.
    """
    tracker = resource_tracker._resource_tracker
    tracker.ensure_running()
    if not hasattr(tracker, "vernal_ensure_running"):
        tracker.vernal_ensure_running = tracker.ensure_running  # type: ignore[attr-defined]
        tracker.ensure_running = _ensure_tracker  # type: ignore[method-assign]
    signal.pthread_sigmask(signal.SIG_BLOCK, SHIELDED)


def _ensure_tracker() -> None:
    """multiprocessing's way to start the tracker if there is none, with this thread's signals as they were."""
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    tracker = resource_tracker._resource_tracker
    before = tracker._pid  # type: ignore[attr-defined]
    try:
        tracker.vernal_ensure_running()  # type: ignore[attr-defined]
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    if tracker._pid != before and _Watch.current is not None:  # type: ignore[attr-defined]
        _Watch.current.begin_soon()


class _Watch:
    """Of the resource tracker that there is, and of each that replaces it."""

    current: "ClassVar[_Watch | None]" = None

    def __init__(self, loop: asyncio.AbstractEventLoop, died: Callable[[], None]) -> None:
        self._loop, self._died = loop, died
        self._pid: int | None = None
        self._handle: int | None = None

    def begin(self) -> None:
        """Belongs to the event loop's thread, as does `end`."""
        pid = resource_tracker._resource_tracker._pid  # type: ignore[attr-defined]
        if pid is None or pid == self._pid or _Watch.current is not self:
            return
        self.end()
        try:
            self._handle, self._pid = os.pidfd_open(pid), pid
        except ProcessLookupError:
            return  # whoever needs it next starts another one
        self._loop.add_reader(self._handle, self._ended)

    def begin_soon(self) -> None:
        """From any thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self.begin)

    def end(self) -> None:
        if self._handle is not None:
            self._loop.remove_reader(self._handle)
            os.close(self._handle)
            self._handle = None

    def _ended(self) -> None:
        self.end()
        self._died()


def watch_tracker(loop: asyncio.AbstractEventLoop, died: Callable[[], None]) -> None:
    """Call `died` once for each resource tracker of this tree that ends, until `unwatch_tracker`. Nothing else would
    say so: nobody waits for it, and whoever needs it next starts another one. Asked again, it goes on with this
    `died`."""
    unwatch_tracker()
    _Watch.current = _Watch(loop, died)
    _Watch.current.begin()


def unwatch_tracker() -> None:
    """Leave no descriptor of it: CRIU cannot dump a pidfd."""
    if _Watch.current is not None:
        _Watch.current.end()
        _Watch.current = None


def unshield() -> None:
    """Let this thread receive `SHIELDED` again, forgetting those that came meanwhile."""
    while signal.sigtimedwait(SHIELDED, 0) is not None:
        pass
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SHIELDED)


def leave(code: int) -> NoReturn:
    """End this process with its exit handlers run, its output written and nothing else; if `code` is not 0, its
    children first (`end_children`), and no handler may keep it for longer than `EXIT_SECONDS`.

    What Python does beyond that is to free every object and module. With torch loaded it takes seconds of a core, in
    each process, and the kernel frees the memory anyway.
    """
    if code != 0:
        end_children()
        # vLLM's may write for ever into a socket that nobody reads, where two threads have shut one executor down.
        bound = threading.Timer(EXIT_SECONDS, os._exit, [code])
        bound.daemon = True
        bound.start()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


def end_children() -> None:
    """Kill what multiprocessing started here. Before it exits, a process waits for its children, to which it has sent
    SIGTERM: shielded as they are, it would wait for ever. In an orderly end there are none any more."""
    for child in multiprocessing.active_children():
        child.kill()


def leave_when_done() -> None:
    """Let this child of multiprocessing `leave` when its function has ended; when it has failed, without waiting for
    children of its own."""
    bootstrap = BaseProcess._bootstrap  # type: ignore[attr-defined]
    wait_for_children = multiprocessing.util._exit_function  # type: ignore[attr-defined]

    def exit_function() -> None:
        if isinstance(sys.exc_info()[1], Exception):  # it is called while that passes through
            end_children()
        wait_for_children()

    multiprocessing.util._exit_function = exit_function  # type: ignore[attr-defined]

    def run_and_leave(self: BaseProcess, *args: Any, **kwargs: Any) -> NoReturn:
        leave(bootstrap(self, *args, **kwargs))

    BaseProcess._bootstrap = run_and_leave  # type: ignore[attr-defined]


def trim() -> None:
    """Collect garbage and hand free memory back to the kernel: what is not resident is not in the
    checkpoint."""
    gc.collect()
    torch = _loaded("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
        torch._C._host_emptyCache()
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):  # glibc
        libc.malloc_trim(0)


def become(environment: dict[str, str], seed: int) -> None:
    """Take on the identity of this pod, and random numbers that no other thawed clone draws.

    Args:
        environment: variables to set.
        seed: the same in every process of one tree, because tensor-parallel ranks must sample alike.
    """
    os.environ.update(environment)
    random.seed(seed)
    if (numpy := _loaded("numpy")) is not None:
        numpy.random.seed(seed % 2**32)
    if (torch := _loaded("torch")) is not None:
        torch.manual_seed(seed % 2**63)
    # Generators that seed themselves when they are made, which was before the freeze.
    ssl.RAND_add(os.urandom(32), 32.0)
    tempfile._name_sequence = None  # type: ignore[attr-defined]  # made anew, from the kernel's randomness, when needed


def _loaded(name: str) -> ModuleType | None:
    """A module that this process already uses; a process that does not use it needs no seed for it."""
    return sys.modules.get(name)
