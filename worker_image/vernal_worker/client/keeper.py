"""Process 1 of the engine's namespaces: starts, thaws and freezes the engine for a program, and ends with it.

Run by `vernal_worker.client.host` as `python -m vernal_worker.client.keeper FD PIDFD DIRECTORY`: the socket to the
program, a pidfd of the program, and the program's private directory. What the engine is comes in VERNAL_CONFIG, as for
a worker; starting, thawing and freezing are the worker's too (`vernal_worker.supervisor`).

A frozen tree needs its old PIDs, its old loopback ports and its old /dev/shm to be free. A program shares these with
others, so the keeper lives in namespaces of its own; with its end the kernel ends every process in them.
"""

import fcntl
import os
import select
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

from msgspec.structs import replace
from vernal_contract.identity import differences, digest
from vernal_contract.reasons import Reason
from vernal_contract.state import FreezeOutcome, FreezeReport, Phase, StartMode, WorkerState

from vernal_worker import threads
from vernal_worker.checkpoint import host, hostname
from vernal_worker.client.messages import Answer, Done, End, Freeze, How, Lines, Refused, Request
from vernal_worker.client.messages import Start as StartRequest
from vernal_worker.client.next_steps import NEXT_STEP
from vernal_worker.client.settings import make_directory
from vernal_worker.control.client import ControlError
from vernal_worker.store.contents import Contents
from vernal_worker.store.errors import StoreError
from vernal_worker.store.store import STORAGE_SECONDS, Store
from vernal_worker.supervisor import gpu, hub, identity, log
from vernal_worker.supervisor.board import Board
from vernal_worker.supervisor.choose import Cold, GiveUp, Thaw
from vernal_worker.supervisor.contents import ContentError, SourceError
from vernal_worker.supervisor.context import CALL_TIMEOUT, ConfigError, Context, StartError, StoppedError, read_settings
from vernal_worker.supervisor.creation import Creation, EngineHarmedError
from vernal_worker.supervisor.engine import Engine
from vernal_worker.supervisor.gpu import Gpu
from vernal_worker.supervisor.hub import HubError
from vernal_worker.supervisor.reaper import Reaper
from vernal_worker.supervisor.start import Start
from vernal_worker.supervisor.steps import Steps
from vernal_worker.supervisor.stop import Stop

GIVE_UP_SECONDS = 10.0
"""How long a freeze that nobody waits for any more may take to clean up behind itself."""

_POLL_SECONDS = 0.05
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1  # netdevice(7)


class LibraryStart:
    """The worker's steps with the choices of a program."""

    def __init__(self, context: Context) -> None:
        self._context, self._board = context, context.board
        self._steps = Steps(context)

    def engine(self, how: How) -> Engine:
        """Raises: StartError, StoppedError."""
        if how is How.AUTO:
            return Start(self._context, self._steps).run()
        self._steps.prepare()
        if how is How.COLD:
            return self.cold()
        with gpu.opened(self._context) as gpus:
            return self._thaw_or_fail(gpus)

    def cold(self) -> Engine:
        """An engine that can be frozen later."""
        self._board.update(start_mode=StartMode.COLD, start_reason=Reason.POLICY_DISABLED)
        with gpu.opened(self._context) as gpus:
            return self._steps.resumed(self._steps.launch(gpus, freezable=True))

    def _thaw_or_fail(self, gpus: Gpu | None) -> Engine:
        choice: Thaw | Cold | GiveUp | Engine = self._steps.choose()
        if isinstance(choice, Thaw):
            choice = self._steps.thaw(choice, gpus)
        if isinstance(choice, Engine):
            return choice
        message = choice.message
        if isinstance(choice, Cold) and choice.reason is Reason.NO_ARTIFACT:
            message = f"{message}; {self._nearest()}"
        raise StartError(choice.reason, message, required=True)

    def _nearest(self) -> str:
        wanted, _ = self._steps.found
        store = self._steps.store
        artifacts = store.artifacts()
        if not artifacts:
            return f"there is none at all in {store.root}"
        newest = max(artifacts, key=lambda artifact: artifact.generation)
        return "; ".join(differences(newest.manifest.identity_inputs, wanted))

    def freeze(self, engine: Engine, store: Store) -> None:
        """Freeze into `store`; the outcome is on the board. The engine has no identity afterwards (`resume`).

        Raises: StoppedError, EngineHarmedError, ContentError, HubError (the model cannot be read).
        """
        settings = self._steps.settings
        placement = gpu.placement(settings.config)
        inputs = identity.gather(hub.pin(settings), placement, contents=Contents(store.root))
        here = host.host_tuple(settings.mounts)
        self._board.update(identity=digest(inputs), identity_inputs=inputs, host_tuple=digest(here), host=here)
        with gpu.opened(self._context) as gpus, Creation(self._context, store, inputs, here, gpus) as creation:
            creation.freeze(engine)

    def resume(self, engine: Engine) -> Engine:
        return self._steps.resumed(engine)

    def clean(self) -> None:
        self._steps.clean()


class Keeper:
    """Carries the program's requests out, one at a time."""

    def __init__(self, lines: Lines, context: Context) -> None:
        self._lines, self._context = lines, context
        self._start = LibraryStart(context)
        self._engine: Engine | None = None

    def run(self) -> None:
        """Until the program is gone or the engine is."""
        while (request := self._next()) is not None:
            match request:
                case StartRequest():
                    self._lines.send(self._start_engine(request))
                case Freeze():
                    self._lines.send(self._freeze(request))
                case End():
                    self._stop_engine(request.seconds)
                    return

    def end(self) -> None:
        if self._engine is not None:
            self._engine.destroy()

    def _stop_engine(self, seconds: float) -> None:
        """Let vLLM stop in order, and its KV connector finish its transfers."""
        if self._engine is None:
            return
        began = time.monotonic()
        try:
            self._engine.client.shutdown(seconds)
        except ControlError as error:
            log.failure("engine_call", message=str(error))
            return
        while self._engine.tree.wait(_POLL_SECONDS) is None and time.monotonic() < began + seconds:
            if self._context.stop.signalled.is_set():
                break
        log.event("engine_stopped", exit_code=self._engine.tree.poll(), seconds=time.monotonic() - began)

    def _next(self) -> Request | None:
        poll = select.poll()
        poll.register(self._lines.connection, select.POLLIN)
        if self._engine is not None:
            poll.register(self._engine.tree.pidfd, select.POLLIN)
        ready = [fd for fd, _ in poll.poll()]
        if self._engine is not None and self._engine.tree.pidfd in ready:
            log.failure("engine_died", message=f"the engine {self._engine.exit_message()}")
            return None
        return self._lines.request()

    def _start_engine(self, request: StartRequest) -> Answer:
        try:
            self._engine = self._start.engine(request.how)
            self._engine.client.open_api(request.api, CALL_TIMEOUT)
        except StartError as failure:
            return Refused(failure.reason, failure.message)
        except ControlError as error:
            return Refused(Reason.ENGINE_UNRESPONSIVE, str(error))
        return self._done()

    def _freeze(self, request: Freeze) -> Answer:
        if (why := self._context.settings.unfreezable) is not None:
            return Refused(Reason.HOST_UNSUPPORTED, why)
        if self._engine is None:
            return Refused(Reason.INTERNAL, "there is no engine")
        place = Path(request.store)
        try:
            make_directory(place)
        except StoreError as error:
            return Refused(error.reason, error.message)
        problem: Answer | None = None
        try:
            self._engine.client.close_api(CALL_TIMEOUT)
            try:
                self._start.freeze(
                    self._engine,
                    Store(
                        place,
                        patience=STORAGE_SECONDS,
                        cancel=self._context.stop.signalled,
                        signing_key=self._context.settings.signing_key,
                    ),
                )
            except (ContentError, HubError) as error:
                code = Reason.CONTENT_UNREADABLE if isinstance(error, SourceError) else Reason.CONFIG_INVALID
                problem = Refused(code, f"what the engine loads cannot be read: {error}")
            except EngineHarmedError:
                self._engine.destroy()
                self._start.clean()
                self._engine = self._start.cold()
            else:
                self._start.resume(self._engine)
            self._engine.client.open_api(request.api, CALL_TIMEOUT)
        except StartError as failure:
            return Refused(failure.reason, failure.message)
        except ControlError as error:
            return Refused(Reason.ENGINE_UNRESPONSIVE, str(error))
        report = self._context.board.snapshot().freeze
        if problem is None and (report is None or not _is_there(report)):
            reason, message = (report.reason, report.message) if report else (None, "")
            problem = Refused(reason or Reason.INTERNAL, message)
        return problem or self._done()

    def _done(self) -> Answer:
        self._context.board.phase(Phase.READY)
        return Done(self._context.board.snapshot())


def _is_there(report: FreezeReport) -> bool:
    """Whether a checkpoint is in the store, ours or an earlier one."""
    return report.outcome is FreezeOutcome.PUBLISHED or Reason.PUBLISHED_BY_OTHER in (report.outcome, report.reason)


def _make_private() -> None:
    """Mounts and network that a tree may use freely. We are in namespaces of our own already."""
    for place in ("/dev/shm", "/run"):  # noqa: S108
        options = ("-t", "tmpfs", "-o", "mode=1777" if place != "/run" else "mode=755", "tmpfs", place)
        subprocess.run(["mount", *options], check=True)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        flags = struct.unpack("16sh22x", fcntl.ioctl(control, _SIOCGIFFLAGS, struct.pack("16sh22x", b"lo", 0)))[1]
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", flags | _IFF_UP))
    hostname.hide()


def _watch(lines: Lines, program: int, stop: Stop, ended: threading.Event, directory: Path) -> None:
    """When the program is gone, give up whatever is going on; the main thread then ends by itself, or is ended."""
    poll = select.poll()
    poll.register(program, select.POLLIN)
    poll.register(lines.connection, select.POLLRDHUP | select.POLLHUP)
    poll.poll()
    stop.signalled.set()
    ended.wait(GIVE_UP_SECONDS)
    shutil.rmtree(directory, ignore_errors=True)
    os._exit(0)


def main() -> None:
    fd, program, directory = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    lines = Lines(socket.socket(fileno=fd))
    for inherited in (fd, program):
        os.set_inheritable(inherited, False)
    stop, ended = Stop(), threading.Event()
    threads.keep_running("program", partial(_watch, lines, program, stop, ended, directory), log.thread_failed)
    keeper: Keeper | None = None
    try:
        _make_private()
        reaper = Reaper()
        reaper.start()
        settings = replace(read_settings(os.environ), mounts=(), node_cache=None)
        state = WorkerState(pod="", namespace="", pool="", revision="", phase=Phase.STARTING)
        keeper = Keeper(lines, Context(settings, Board(state), stop, reaper))
        keeper.run()
    except StoppedError:
        pass
    except ConfigError as error:
        lines.send(Refused(Reason.CONFIG_INVALID, str(error)))
    except (OSError, subprocess.SubprocessError, StoreError) as error:
        log.failure("keeper", message=f"{type(error).__name__}: {error}", next_step=NEXT_STEP[Reason.HOST_UNSUPPORTED])
    finally:
        if keeper is not None:
            keeper.end()
        shutil.rmtree(directory, ignore_errors=True)
        ended.set()


if __name__ == "__main__":
    main()
