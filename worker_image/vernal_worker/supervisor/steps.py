"""The steps of a start, each of them once: what a worker and a program's engine both take."""

import time
from contextlib import nullcontext

from vernal_contract.config import CheckpointPolicy
from vernal_contract.identity import HostTuple, IdentityInputs, digest
from vernal_contract.reasons import NEXT_STEP, About, Reason, about
from vernal_contract.state import RestoreFailure

from vernal_worker.checkpoint import doctor, host
from vernal_worker.checkpoint.errors import CheckpointError
from vernal_worker.control.client import ControlError
from vernal_worker.store.artifact import Artifact
from vernal_worker.store.errors import StoreError
from vernal_worker.store.lease import Owner
from vernal_worker.store.quarantine import Quarantine
from vernal_worker.supervisor import caching, choose, identity, log, pace, recovery, software, stores, unfinished
from vernal_worker.supervisor.choose import Cold, GiveUp, Thaw
from vernal_worker.supervisor.contents import ContentError, SourceError
from vernal_worker.supervisor.context import CALL_TIMEOUT, Context, Settings, StartError, StoppedError
from vernal_worker.supervisor.engine import Engine
from vernal_worker.supervisor.gpu import Gpu
from vernal_worker.supervisor.gpu_memory import RoomWait
from vernal_worker.supervisor.hub import HubError
from vernal_worker.supervisor.thawing import ThawError, Thawing
from vernal_worker.supervisor.workspace import Workspace


class Steps:
    """What is done for one start. Which steps are taken, and in which order, is the caller's."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._settings, self._board, self._stop = context.settings, context.board, context.stop
        checkpoint = self._settings.config.checkpoint
        self._policy = checkpoint.policy
        self._caching = caching.opened(self._settings.node_cache, self._board, self._stop.signalled)
        self.store = stores.opened(
            checkpoint,
            self._settings.object_store_keys,
            cancel=self._stop.signalled,
            signing_key=self._settings.signing_key,
            renew=self._settings.renew,
            cached=self._caching.look,
            fetched=self._caching.fetch,
            timing=self._board.timing,
        )
        self._identity: IdentityInputs | None = None
        self._host: HostTuple | None = None
        self._read: Artifact | None = None
        """What was thawed and is not from the node cache."""
        self._workspace = Workspace(context)
        self._thawing = Thawing(context, self._workspace)
        self._wait = RoomWait(context)

    @property
    def settings(self) -> Settings:
        """With what was found out about them meanwhile."""
        return self._settings

    @property
    def found(self) -> tuple[IdentityInputs, HostTuple]:
        """What a checkpoint must fit; once `choose` has looked for one."""
        assert self._identity is not None and self._host is not None
        return self._identity, self._host

    def prepare(self) -> None:
        """Make the directories of an engine."""
        self._workspace.prepare()

    def clean(self) -> None:
        """Remove the files of an engine that is gone."""
        self._workspace.clean()

    def discard(self, engine: Engine) -> None:
        """End an engine, and remove its files."""
        self._workspace.discard(engine)

    # --- deciding ---

    def choose(self) -> Thaw | Cold | GiveUp:
        """Whether there is a checkpoint that fits.

        Raises: StartError: the model cannot be read; StoppedError.
        """
        if self._policy is CheckpointPolicy.DISABLED:
            return choose.disabled()
        supported, problem = doctor.supported(criu=self._settings.criu)
        if not supported:
            return choose.unsupported(self._policy, problem)
        if self._settings.unfreezable is not None:
            return choose.unsupported(self._policy, self._settings.unfreezable)
        try:
            self._settings, wanted = identity.find_out(self._context, self.store)
        except SourceError as error:
            return choose.unreadable(self._policy, f"what the engine loads cannot be read: {error}")
        except ContentError as error:
            raise StartError(Reason.CONFIG_INVALID, f"what the engine loads cannot be read: {error}") from error
        except HubError as error:
            return choose.unresolved(self._policy, str(error))
        except StoreError as error:
            return choose.from_store_error(self._policy, error)
        here = host.host_tuple(self._settings.mounts, software.devices())
        self._identity, self._host = wanted, here
        return self._look()

    def _look(self) -> Thaw | Cold | GiveUp:
        """What the store has. Raises: StoppedError."""
        wanted, here = self.found
        self._board.update(identity=digest(wanted), identity_inputs=wanted, host_tuple=digest(here), host=here)
        try:
            with self._board.timed("find"):
                owner = Owner(pod=self._settings.pod.name, node=self._settings.pod.node)
                choice = choose.from_lookup(self.store.open(wanted, here, owner))
        except StoreError as error:
            if self._stop.signalled.is_set():
                raise StoppedError from error
            if error.generation is not None:
                failure = ThawError("find", error.reason, error.message)
                return self._after_failure(error.generation, failure, error.host)
            return choose.from_store_error(self._policy, error)
        if isinstance(choice, Thaw) and unfinished.taken(self._settings.paths.thawing) == choice.artifact.generation:
            return self._killed(choice)
        return choice

    def _killed(self, choice: Thaw) -> Cold | GiveUp:
        """By the same thaw, as far as anybody can tell."""
        message = "the pod's container before was killed while it thawed this checkpoint"
        with choice.view or nullcontext(), choice.reading or nullcontext():
            return self._instead(choice.artifact, ThawError("thaw", Reason.CONTAINER_KILLED, message))

    def _after_failure(self, generation: str, failure: ThawError, host: HostTuple | str | None = None) -> Cold | GiveUp:
        """Write the failure down: on the board, in the log, in the store. `host`: the artifact's, if it is not ours."""
        self._board.failed_restore(
            RestoreFailure(generation=generation, stage=failure.stage, reason=failure.reason, message=failure.message)
        )
        log.failure(
            "thaw_failed",
            generation=generation,
            stage=failure.stage,
            reason=failure.reason,
            message=failure.message,
            next_step=NEXT_STEP.get(failure.reason),
        )
        if about(failure.reason) not in (About.ARTIFACT, About.NODE):
            return choose.after_failed_thaw(self._policy, failure.reason, failure.message, None)
        assert self._identity is not None and self._host is not None
        given_up: Quarantine | None = None
        try:
            given_up = self.store.record_failure(
                self._identity,
                host or self._host,
                generation,
                stage=failure.stage,
                reason=failure.reason,
                message=failure.message,
                worker=self._settings.pod.name,
                node=self._settings.pod.node,
            )
        except StoreError as error:
            log.failure("failure_not_recorded", reason=error.reason, message=error.message)
        if given_up is not None:
            log.event("quarantined", message=given_up.message, seconds_left=given_up.seconds_left)
        return choose.after_failed_thaw(self._policy, failure.reason, failure.message, given_up)

    def _forgive(self, artifact: Artifact) -> None:
        """It works: what failed before was not its fault."""
        assert self._identity is not None
        try:
            self.store.forgive(self._identity, artifact.manifest.host, artifact.generation)
        except StoreError as error:
            log.failure("failures_not_forgiven", reason=error.reason, message=error.message)

    # --- thawing ---

    def thaw(self, choice: Thaw, gpus: Gpu | None) -> Engine | Cold | GiveUp:
        """An engine, or what to do instead.

        Raises: StoppedError.
        """
        seconds = pace.allowance(choice.artifact.bytes, self._settings.config.checkpoint.thaw_timeout_seconds)
        thawed: Engine | Cold | GiveUp | None = None
        if choice.view is not None:
            began = time.monotonic()
            with choice.view, choice.reading or nullcontext():
                thawed = self._from_cache(choice.artifact, gpus, seconds / 2)
            if thawed is None:
                again = self._look()
                if not isinstance(again, Thaw):
                    return again
                choice, seconds = again, max(seconds / 2, seconds - (time.monotonic() - began))
        if thawed is None:
            with choice.reading or nullcontext():
                thawed = self._thaw(choice.artifact, gpus, seconds)
            if isinstance(thawed, Engine):
                self._read = choice.artifact
        if isinstance(thawed, Engine) and choice.doubted:
            self._forgive(choice.artifact)
        return thawed

    def _from_cache(self, artifact: Artifact, gpus: Gpu | None, seconds: float) -> Engine | Cold | GiveUp | None:
        """As `_thaw`, of what the node cache has; None: it may be the cache's fault that there is no engine."""
        try:
            engine = self._run(artifact, gpus, seconds, cached=True)
        except ThawError as failure:
            if self._stop.signalled.is_set():
                raise StoppedError from failure
            if failure.reason not in caching.SUSPECT:
                return self._instead(artifact, failure)
            self._caching.distrust(artifact, failure.reason, failure.message)
            return None
        self._caching.thawed(artifact)
        return engine

    def _thaw(self, artifact: Artifact, gpus: Gpu | None, seconds: float) -> Engine | Cold | GiveUp:
        try:
            return self._run(artifact, gpus, seconds)
        except ThawError as failure:
            if self._stop.signalled.is_set():
                raise StoppedError from failure
            return self._instead(artifact, failure)

    def _run(self, artifact: Artifact, gpus: Gpu | None, seconds: float, *, cached: bool = False) -> Engine:
        """Raises: ThawError, StoppedError."""
        with unfinished.marked(self._settings.paths.thawing, artifact.generation):
            try:
                return self._thawing.run(artifact, gpus, seconds=seconds, cached=cached)
            except ThawError as failure:
                if failure.reason is not Reason.GPU_MEMORY_INSUFFICIENT or gpus is None:
                    raise
                self._wait_for_room(gpus, failure)
                return self._thawing.run(artifact, gpus, seconds=seconds, cached=cached)

    def came_through(self) -> None:
        """The worker serves: what a container before was killed in says nothing of the next."""
        for mark in (self._settings.paths.thawing, self._settings.paths.freezing):
            unfinished.taken(mark)

    def fill_node_cache(self, published: Artifact | None = None) -> None:
        """Let the node's next worker read from there what this one has read, or `published`. Returns at once."""
        if (artifact := published or self._read) is not None:
            self._caching.fill(artifact)

    def _wait_for_room(self, gpus: Gpu, failure: ThawError) -> None:
        """Until there is room for what failed for want of it. Raises: ThawError: there is none; StoppedError."""
        try:
            self._wait.until(gpus.room, lambda _: failure.wanted)
        except CheckpointError as error:
            raise ThawError(failure.stage, error.reason, error.message) from failure

    def _instead(self, artifact: Artifact, failure: ThawError) -> Cold | GiveUp:
        choice = self._after_failure(artifact.generation, failure, artifact.manifest.host)
        if isinstance(choice, Cold):
            recovery.keep_compiled(self._context, artifact, failure.reason)
        return choice

    # --- an engine ---

    def replace(self, engine: Engine, gpus: Gpu | None) -> None:
        """Make room for another engine: on the GPUs too, where the helper may hold what the freeze stored."""
        self._workspace.discard(engine)
        if gpus is not None:
            gpus.let_go()

    def launch(self, gpus: Gpu | None, *, freezable: bool) -> Engine:
        """vLLM, started. Raises: StartError, StoppedError."""
        from vernal_worker.supervisor.launching import Launcher  # here: no thaw needs it

        launcher = Launcher(self._context, self._workspace)
        return launcher.launch(self._settings, gpus, self._wait, freezable=freezable)

    def resumed(self, engine: Engine) -> Engine:
        """The engine, once it has taken on this pod's identity. Raises: StartError, StoppedError: it is gone."""
        try:
            with self._board.timed("resume"):
                engine.client.resume(self._settings.pod, self._settings.resume_variables, CALL_TIMEOUT)
            return engine
        except BaseException as error:
            self._workspace.discard(engine)
            if self._stop.signalled.is_set():
                raise StoppedError from error
            if isinstance(error, ControlError):
                raise StartError(Reason.ENGINE_UNRESPONSIVE, str(error)) from error
            raise
