"""The connector's fault-injecting twin, for tests: `{"kv_connector": "FaultyVernalConnector",
"kv_connector_module_path": "vernal_worker.kv.faulty"}`.

Two more entries of `kv_connector_extra_config` say what goes wrong: `fault`, the fields of a
`vernal_worker.kv.faults.Fault`; or `fault_file`, the path of a JSON file with such fields, which is read again
for each request.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from vernal_contract import decoding

from vernal_worker.kv.connector import VernalSharedStorageConnector
from vernal_worker.kv.faults import Fault, Faults
from vernal_worker.kv.faulty_sides import FaultySchedulerSide, FaultyWorkerSide
from vernal_worker.kv.scheduler_side import SchedulerSide
from vernal_worker.kv.worker_side import WorkerSide


class FaultyVernalConnector(VernalSharedStorageConnector):
    """As its parent, with faults in what storage says."""

    def _own_settings(self) -> Mapping[str, Any]:
        config = dict(super()._own_settings())
        file = config.pop("fault_file", None)
        fault = decoding.convert(config.pop("fault", {}), Fault)
        self._faults = Faults(fault, Path(file) if file else None)
        return config

    def _make_scheduler_side(self, make: Callable[..., SchedulerSide] = SchedulerSide) -> SchedulerSide:
        return super()._make_scheduler_side(partial(FaultySchedulerSide, self._faults))

    def _make_worker_side(self, make: Callable[..., WorkerSide] = WorkerSide) -> WorkerSide:
        return super()._make_worker_side(partial(FaultyWorkerSide, self._faults))
