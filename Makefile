# Every target does its own set-up: the first run makes .venv from the locked requirements, later ones find it ready.
#
#   PYTHON=python3.12     the interpreter of .venv (3.11 to 3.13)
#   TORCH=cpu             take torch from TORCH_INDEX instead: a 200 MB wheel without CUDA
#   TORCH_INDEX=URL       the index that PyTorch's install page names for CPU wheels

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
LOCK := requirements/all.txt
TORCH ?=
TORCH_INDEX ?=

# The repository root stays off sys.path: its folder operator/ bears the name of a standard module.
export PYTHONSAFEPATH := 1
# deepspeed compiles nothing ahead of time.
export DS_BUILD_OPS := 0

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(READY): pyproject.toml $(LOCK) .ci/setup
	@PYTHON="$(PYTHON)" TORCH="$(TORCH)" TORCH_INDEX="$(TORCH_INDEX)" bash .ci/setup $(VENV) $(LOCK)
	@touch $@

.PHONY: setup
setup: $(READY) ## Make .venv with everything that the other targets need

.PHONY: demo
demo: $(READY) ## Train, judge, sign and serve two adapters on this machine, then say how to ask them
	$(BIN)/socadapter demo

.PHONY: test
test: test-unit test-slow test-alone ## Run every test: units, what trains, serves and starts clusters, what needs all cores

.PHONY: test-unit
test-unit: $(READY) ## Run the unit layer only: what needs neither torch, nor Ray, nor a server (a minute)
	bash .ci/layer unit $(BIN)/python -m pytest -n 3 --dist loadfile -m "not slow"

# Here, unlike in a bare pytest, a control plane that cannot be started is a failure.
.PHONY: test-slow
test-slow: kube checkov ## Run the slow layer only: real training, real serving, a real Kubernetes API server
	SOCADAPTER_TEST_CLUSTER_REQUIRED=1 bash .ci/layer slow $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder \
	  -m "slow and not alone" --durations 15

.PHONY: test-alone
test-alone: kube ## Run what takes both cores or holds to limits of time, one after the other
	SOCADAPTER_TEST_CLUSTER_REQUIRED=1 bash .ci/layer alone $(BIN)/python -m pytest -m alone --durations 5

.PHONY: test-crash
test-crash: kube ## Stop the operator before and after each write of a whole life cycle; prints the number of kill points
	SOCADAPTER_TEST_CLUSTER_REQUIRED=1 SOCADAPTER_TEST_CRASHES=whole $(BIN)/python -m pytest -q -m slow \
	  tests/life_cycle/test_crashes.py

# FAULTS_S is how long; the seed of a run is printed, and SOCADAPTER_TEST_FAULTS_SEED repeats it.
FAULTS_S ?= 900

.PHONY: test-faults
test-faults: kube ## Break the operator's requests and watches at random for a quarter of an hour, while users change things
	SOCADAPTER_TEST_CLUSTER_REQUIRED=1 SOCADAPTER_TEST_FAULTS_S=$(FAULTS_S) $(BIN)/python -m pytest -q -m slow \
	  tests/faults/test_soak.py

.PHONY: kube
kube: $(READY) ## Build the Kubernetes programs that tests run, where they are missing (once: 15 minutes of two cores)
	@$(BIN)/python tests/controlplane/binaries.py >&2

.PHONY: checkov
checkov: $(READY) ## Install the scanner of the chart into an environment of its own, where it is missing (once)
	@$(BIN)/python tests/chart/scanner.py >&2

.PHONY: cluster
cluster: kube ## Start a Kubernetes API server with the CRDs in the background; prints its KUBECONFIG
	@$(BIN)/python tests/controlplane/background.py up

.PHONY: cluster-down
cluster-down: $(READY) ## Stop what `make cluster` started
	@$(BIN)/python tests/controlplane/background.py down

.PHONY: check
check: $(READY) ## Lint, format, types, import contracts, spelling, drift of CRDs and chart, rules of the tree
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/codespell
	$(BIN)/python -m socadapter_api.crd --out manifests/crds --check
	$(BIN)/python charts/generate.py --check
	$(BIN)/python -m pytest -q tests/layout

.PHONY: format
format: $(READY) ## Format the code and mend what the linter can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: crds
crds: $(READY) ## Write manifests/crds from the models
	$(BIN)/python -m socadapter_api.crd --out manifests/crds
	$(BIN)/python charts/generate.py

.PHONY: chart
chart: $(READY) ## Write the chart's README and definitions, and manifests/operator, from what they are made of
	$(BIN)/python charts/generate.py

# ARGS goes to the benchmark, such as `make bench-rank ARGS="--variants 4,16"`.
ARGS ?=

.PHONY: bench
bench: $(READY) ## Run the quick benchmarks beside their peers (minutes); figures go to build/bench/
	@for name in rollouts engine head; do echo "== $$name"; $(BIN)/python tests/benchmarks/bench_$$name.py $(ARGS); done

.PHONY: bench-operator
bench-operator: kube ## Measure the operator with 5,000 adapters, beside a bare kopf operator: build/bench/operator.json
	$(BIN)/python tests/benchmarks/bench_operator.py $(ARGS)

.PHONY: bench-learning
bench-learning: $(READY) ## Measure what GRPO adds, over three seeds (hours; resumable): build/bench/learning.json
	$(BIN)/python tests/benchmarks/learning.py $(ARGS)

.PHONY: bench-rank
bench-rank: $(READY) ## Measure what an adapter's rank costs and gains (an hour; resumable): build/bench/rank.json
	$(BIN)/python tests/benchmarks/rank.py $(ARGS)

.PHONY: bench-real-alerts
bench-real-alerts: $(READY) ## Measure on real alerts that you provide (hours; resumable): build/bench/real_alerts.json
	$(BIN)/python tests/benchmarks/real_alerts.py $(ARGS)

.PHONY: lock
lock: $(READY) ## Resolve the dependencies anew into requirements/*.txt
	PATH="$(PWD)/$(BIN):$$PATH" bash .ci/lock

.PHONY: clean
clean: ## End the demo and the trial cluster, then delete build/, with what they learned, and caches; keeps .venv
	@! test -d build/demo -a -x $(BIN)/socadapter || $(BIN)/socadapter down --state build/demo
	@! test -d build/cluster -a -x $(BIN)/python || $(BIN)/python tests/controlplane/background.py down
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
