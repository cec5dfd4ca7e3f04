"""Prints what an engine exports: vLLM's own metrics, for the configuration of a real model, and the KV connector's."""

import sys
import tempfile

from models import tiny
from prometheus_client import Counter, Gauge, Histogram, generate_latest
from vernal_worker.kv.counters import SEPARATOR
from vernal_worker.kv.metrics import METRICS, VernalKVPromMetrics
from vllm.engine.arg_utils import EngineArgs
from vllm.v1.metrics.loggers import PrometheusStatLogger

with tempfile.TemporaryDirectory() as name:
    tiny.make_tiny_model(name)
    config = EngineArgs(model=name, dtype="float32", max_model_len=256).create_engine_config()
PrometheusStatLogger(config).log_engine_initialized()
types = {Gauge: Gauge, Counter: Counter, Histogram: Histogram}
connector = VernalKVPromMetrics(config, types, ["model_name", "engine"], {0: ["m", "0"]})
connector.observe({metric.name + (f"{SEPARATOR}any" if metric.label else ""): 1.0 for metric in METRICS})
sys.stdout.write(generate_latest().decode())
