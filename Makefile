# Tandem's commands. `make` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
SOURCES := driver kubeletplugin controller cni cli deploy tests bench
STAMP := .venv/.setup

.PHONY: help setup programs lint format test test-unit test-cluster test-vm demo image cluster-up cluster-down kind \
	proto lock bench bench-attach bench-prepare bench-plugin bench-inventory bench-allocator bench-tenants bench-schedule clean

help: ## list the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: $(STAMP) ## make .venv and install what tests and demo need
	@$(BIN)/python -m tests.controlplane packages

$(STAMP): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  if [ "$$(id -u)" = 0 ]; then apt-get update -q && apt-get install -qy python3-venv; \
	  else echo "python3-venv is missing: sudo apt-get install python3-venv" >&2; exit 1; fi; }
	@echo "setup: .venv from requirements.lock" >&2
	@$(PYTHON) -m venv --clear .venv
	@$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps -e .
	@touch $@

programs: setup ## build the Kubernetes that tests and demo run on, once; or TANDEM_KUBE_BIN=folder
	@$(BIN)/python -m tests.controlplane build

lint: $(STAMP) ## ruff, mypy --strict, import-linter
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP) ## let ruff format and fix
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

test: programs ## every test that this machine can run; says which it cannot
	@$(BIN)/python -m tests.vm packages || echo "test: going on without the virtual machine" >&2
	$(BIN)/pytest tests

test-unit: $(STAMP) ## seconds, no cluster
	$(BIN)/pytest tests/unit

test-cluster: programs ## stories on a real two-node Kubernetes
	$(BIN)/pytest tests/cluster

test-vm: $(STAMP) ## probes and attach with real SR-IOV, in a virtual machine
	@$(BIN)/python -m tests.vm packages
	$(BIN)/pytest tests/vm

demo: programs ## pods with GPU+NIC pairs on a real Kubernetes, then everything away again
	@$(BIN)/python -m deploy.demo

image: setup ## the container image, as an OCI archive
	@$(BIN)/python -m deploy.image

NODES ?= 2
cluster-up: programs ## a cluster of NODES=2 nodes that stays; prints its kubeconfig
	@$(BIN)/python -m tests.controlplane up --nodes $(NODES)

cluster-down: $(STAMP) ## end it
	@$(BIN)/python -m tests.controlplane down

kind: ## the same on a laptop with Docker and kind
	@deploy/kind/up.sh

bench: bench-attach bench-prepare bench-plugin bench-inventory bench-allocator bench-tenants bench-schedule ## every benchmark; each ends with one JSON line

bench-attach: programs ## CNI ADD and DEL against the stock host-device plugin
	@$(BIN)/python -m bench.attach

bench-prepare: programs ## NodePrepareResources over the real socket
	@$(BIN)/python -m bench.prepare

bench-plugin: programs ## memory at rest, start to slices, slices restored
	@$(BIN)/python -m bench.plugin

proto: $(STAMP) ## generate the gRPC code anew
	PATH=$(CURDIR)/$(BIN):$$PATH $(BIN)/python -m grpc_tools.protoc -I. --python_out=. --grpc_python_out=. \
	  --mypy_out=. --mypy_grpc_out=. kubeletplugin/proto/*.proto

bench-inventory: setup ## probing a node of 8 GPUs and 256 VFs, its slices, an unchanged poll
	@$(BIN)/python -m bench.inventory

bench-allocator: $(STAMP) ## decisions, the adversarial ones beside Kubernetes' own allocator
	@$(BIN)/python -m bench.allocator
	@$(BIN)/python -m bench.scale
	@$(BIN)/python -m bench.fragmentation

bench-tenants: $(STAMP) ## how long a pod waits behind a thousand hopeless ones of another tenant
	@$(BIN)/python -m bench.tenants

bench-schedule: programs ## pods with pairs bound a second, beside kube-scheduler alone; about ten minutes
	@$(BIN)/python -m bench.schedule

lock: $(STAMP) ## renew requirements.lock
	$(BIN)/python -m pip install -q uv
	$(BIN)/uv pip compile -q --upgrade --no-header --no-annotate --generate-hashes --extra dev \
	  --python-version 3.11 pyproject.toml -o requirements.lock

clean: ## remove .venv and caches of the checkout
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
