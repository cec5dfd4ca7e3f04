"""From nothing to an engine that is ready to listen: thaw, or start cold and perhaps freeze."""

from vernal_contract.reasons import NEXT_STEP
from vernal_contract.state import FreezeOutcome, FreezeReport, Phase, StartMode

from vernal_worker.store.artifact import Artifact
from vernal_worker.supervisor import gpu, log, software
from vernal_worker.supervisor.choose import Cold, GiveUp, Thaw
from vernal_worker.supervisor.context import Context, StartError
from vernal_worker.supervisor.engine import Engine
from vernal_worker.supervisor.gpu import Gpu
from vernal_worker.supervisor.steps import Steps


class Start:
    """One start, as the checkpoint policy says: `run` is called once, `clean` again when the engine is gone."""

    def __init__(self, context: Context, steps: Steps | None = None) -> None:
        self._context, self._board = context, context.board
        self._steps = steps if steps is not None else Steps(context)
        self._published: Artifact | None = None

    def run(self) -> Engine:
        """Returns an engine that has taken on this pod's identity and has not listened yet.

        Raises:
            StartError, StoppedError: see there; no process of an engine is left.
        """
        with gpu.opened(self._context) as gpus:
            self._steps.prepare()
            choice: Thaw | Cold | GiveUp | Engine = self._steps.choose()
            software.forget()  # where this was decided without it
            if isinstance(choice, Thaw):
                choice = self._steps.thaw(choice, gpus)
            if isinstance(choice, Engine):
                return choice
            if isinstance(choice, GiveUp):
                self._board.update(start_reason=choice.reason, start_message=choice.message)
                raise StartError(choice.reason, choice.message, required=True)
            return self._cold(choice, gpus)

    def serving(self) -> None:
        """The worker serves: what would have kept it from that may be done now. Returns at once."""
        self._steps.came_through()
        self._steps.fill_node_cache(self._published)

    def clean(self) -> None:
        """Remove the files of an engine that is gone."""
        self._steps.clean()

    def _cold(self, cold: Cold, gpus: Gpu | None) -> Engine:
        self._board.update(
            start_mode=StartMode.COLD, start_reason=cold.reason, start_message=cold.message, artifact=None
        )
        self._board.phase(
            Phase.STARTING,
            mode=StartMode.COLD,
            reason=cold.reason,
            message=cold.message,
            next_step=NEXT_STEP.get(cold.reason),
        )
        if gpus is not None:
            gpus.let_go()  # a thaw's helper is in the way: vLLM measures what is free
        if not cold.freeze:
            self._board.update(
                freeze=FreezeReport(outcome=FreezeOutcome.SKIPPED, reason=cold.reason, message=cold.message)
            )
            return self._steps.resumed(self._steps.launch(gpus, freezable=False))
        from vernal_worker.supervisor.creation import Creation, EngineHarmedError  # here: no thaw needs it

        with Creation(self._context, self._steps.store, *self._steps.found, gpus) as creation:
            engine = self._steps.launch(gpus, freezable=True)
            try:
                creation.freeze(engine)
                self._published = creation.published
                return self._steps.resumed(engine)
            except EngineHarmedError:
                log.event("engine_replaced", message="the freeze harmed the engine; starting another one")
                self._steps.replace(engine, gpus)
            except BaseException:
                self._steps.discard(engine)
                raise
        return self._steps.resumed(self._steps.launch(gpus, freezable=False))
