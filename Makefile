# make run: the loan-approval pipeline on real data. make test: everything CI checks. make help: the rest.
SHELL := bash
PYTHON ?= $(shell command -v python3.11 || echo python3)
VENV := .venv
BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
# Under another name than MAKE: a line that has that in it runs under `make -n`, too.
AGAIN := $(MAKE) --no-print-directory
export DVC_NO_ANALYTICS := 1
export TRANSFORMERS_NO_ADVISORY_WARNINGS := 1

# What DVC tracks. It is fetched where it is missing or its pointer is newer: data that somebody changed on purpose stays.
DATA := $(basename $(shell find data -name '*.dvc' -type f))

.NOTPARALLEL:
.PHONY: on-cluster help run test lint unit browser bench compile lock clean install test-cluster cluster-up cluster-status cluster-down

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

run: $(VENV)/installed $(DATA) ## run the loan-approval pipeline on real data
	@countersign run loan_approval || { code=$$?; [ $$code = 3 ] || exit $$code; \
	  echo "A gate said no. That is a decision, too: it is sealed with its evidence, and countersign run ends with exit code 3." >&2; }

test: lint unit ## everything; what needs a cluster on one of its own, where root and programs that are built already allow; not with CLUSTER=no
	@if [ "$(CLUSTER)" = no ]; then echo "not run: what needs a cluster. To run it: make test-cluster"; \
	  else python infra/cluster around --unasked $(AGAIN) on-cluster; fi

lint: $(VENV)/installed ## style, types, layers, stale generated files
	ruff check .
	ruff format --check .
	mypy
	lint-imports
	countersign compile --check
	python infra/charts/generate.py --check infra/charts/model-server

unit: $(VENV)/installed $(DATA) ## the tests that need no cluster
	pytest -m "not cluster" -n 4 --dist loadfile --no-loadscope-reorder

test-cluster: $(VENV)/installed $(DATA) ## the tests that need a cluster, on yours or on one that is brought up for them and taken away
	@python infra/cluster around $(AGAIN) on-cluster

on-cluster: # what test-cluster runs once there is a cluster; first what can go side by side. One that fails does not hide the others
	@failed=0; part() { echo "pytest -m \"$$1\""; pytest -m "$$@" || failed=1; }; \
	part "cluster and not alone" -n 5 --dist loadfile --no-loadscope-reorder; \
	part "cluster and alone and not last"; \
	part "cluster and last"; \
	exit $$failed

bench: $(VENV)/installed ## measure, side by side with what one would use instead; writes docs/benchmarks.md
	python tests/bench/run.py $(if $(ONLY),--only $(ONLY))

compile: $(VENV)/installed ## write dvc.yaml and the Argo manifests from the declarations
	countersign compile

cluster-up: $(VENV)/installed ## a Kubernetes cluster with Argo and S3: yours (KUBECONFIG), kind, or one built here (docs/cluster.md)
	@python infra/cluster up

cluster-status: $(VENV)/installed ## what of the cluster is up and what is down
	@python infra/cluster status

cluster-down: $(VENV)/installed ## take the cluster away and leave nothing
	@python infra/cluster down

lock: ## resolve the requirements anew, with hashes and without addresses
	infra/lock/lock.sh

install: $(VENV)/installed ## the environment, from the locked requirements

$(VENV)/installed: requirements-dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys, venv; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null || \
	  { echo "error: Python 3.11 with venv is needed; on Debian 12: apt-get install python3.11-venv" >&2; exit 2; }
	@echo "Installing the locked requirements into $(VENV) (a few minutes, once)"
	@$(PYTHON) -m venv $(VENV)
	@infra/lock/openmp.sh $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

$(DATA): %: %.dvc | $(VENV)/installed
	@dvc pull $<
	@touch $@

clean: ## remove what runs and tests leave behind (not the environment, not the store)
	rm -rf artifacts .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
