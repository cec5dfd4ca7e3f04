"""Process 1: puts the parts together and turns the way it ended into an exit code."""

import os
import socket
from functools import partial

from vernal_contract.reasons import Reason
from vernal_contract.state import Phase, WorkerState

from vernal_worker import descriptors, threads
from vernal_worker.checkpoint import hostname
from vernal_worker.supervisor import log, watchdog
from vernal_worker.supervisor.board import Board, process_age
from vernal_worker.supervisor.context import ConfigError, Context, Settings, read_settings
from vernal_worker.supervisor.exits import ExitCode
from vernal_worker.supervisor.farewell import say_farewell
from vernal_worker.supervisor.listener import bind
from vernal_worker.supervisor.reaper import Reaper
from vernal_worker.supervisor.stop import Stop
from vernal_worker.supervisor.worker import Worker

_ADMIN_SECONDS = 0.5
"""When the admin port answers at the latest, however long the start has work to do; whoever connects before waits."""


def run() -> ExitCode:
    """Run a worker as the environment says, until it was told to stop or cannot go on."""
    stop = Stop()
    stop.install()
    descriptors.raise_limit()
    hostname.hide()  # before any thread is started: one that exists already keeps the pod's name
    reaper = Reaper()
    reaper.start()
    try:
        settings = read_settings(os.environ)
    except ConfigError as error:
        say_farewell(ExitCode.CONFIG_INVALID, str(error), Reason.CONFIG_INVALID)
        return ExitCode.CONFIG_INVALID
    watchdog.start(stop, settings.config.drain.grace_period_seconds, say_farewell)
    port = settings.config.admin_port
    try:
        listener = bind(port)
        listener.listen(128)
    except OSError as error:
        say_farewell(ExitCode.PORT_UNAVAILABLE, f"cannot listen on the admin port {port}: {error}")
        return ExitCode.PORT_UNAVAILABLE
    board = Board(_first_state(settings))
    worker = Worker(Context(settings, board, stop, reaper))
    serve = partial(_serve_admin, listener, worker, board, settings.admin_token)
    threads.keep_running("admin", serve, log.thread_failed)
    log.event("start", pod=settings.pod.name, pool=settings.config.pool, pid=os.getpid(), age=process_age())
    try:
        return worker.run()
    except Exception as error:
        log.failure("bug", traceback=log.trace(error))
        say_farewell(ExitCode.INTERNAL, f"{type(error).__name__}: {error}", Reason.INTERNAL)
        return ExitCode.INTERNAL


def _serve_admin(listener: socket.socket, worker: Worker, board: Board, token: str | None) -> None:
    board.at_leisure.wait(_ADMIN_SECONDS)
    from vernal_worker.supervisor import admin  # here: it takes 50 ms, and threads take turns

    admin.serve(listener, worker, token)


def _first_state(settings: Settings) -> WorkerState:
    config, pod = settings.config, settings.pod
    return WorkerState(
        pod=pod.name,
        namespace=pod.namespace,
        pool=config.pool,
        revision=config.revision,
        start_id=os.urandom(8).hex(),
        phase=Phase.STARTING,
    )
