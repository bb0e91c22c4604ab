# Each target installs what it needs, and reuses it the next time.

# Go and Python need HOME, which some containers do not set.
HOME ?= $(shell getent passwd $$(id -u) | cut -d: -f6)
export HOME
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/tfrun
ifneq ($(words $(CACHE)),1)
$(error make takes a path with a space for two: set XDG_CACHE_HOME to a folder without; got $(CACHE))
endif
# TensorFlow has wheels for Python 3.10 to 3.13. We take the first of this list that has its venv
# module, else the first without it. PYTHON=... names another.
ifndef PYTHON
PYTHON := $(shell for module in ensurepip sys; do \
	for name in python3.13 python3.12 python3.11 python3.10 python3 python; do \
		$$name -c "import $$module, sys; (3, 10) <= sys.version_info[:2] <= (3, 13) or sys.exit(1); print(sys.executable)" 2>/dev/null && exit; \
	done; done)
endif
# Each use has its own virtual environment. Its name contains a checksum of its dependency groups
# and of the Python, so that a change creates a new environment.
environment = $(CACHE)/$(1)-$(shell { sed -n $(foreach group,$(2),-e '/^$(group) = \[/,/^]/p') pyproject.toml; echo '$(PYTHON)'; } | cksum | cut -d' ' -f1)
TRY := $(call environment,try,local try)
BOX := $(call environment,cluster,local cluster)
VENV := $(call environment,venv,local try cluster dev)
RUN := $(VENV)/bin/python
READY := $(VENV)/ready
KILL ?=
CONTEXT ?=
DIST ?= dist
# We allow bytecode files even if the environment forbids them, because pytest's processes then
# compile each module only once.
PYTEST := PYTHONDONTWRITEBYTECODE= $(RUN) -m pytest
# The targets build tools before they start pytest, because the first build takes minutes and pytest
# would hide its progress.
CLUSTER := $(BOX)/bin/python -m tests.cluster
REPORTS := .pytest_cache/reports
SOURCES := launcher tests examples

.DEFAULT_GOAL := help
.NOTPARALLEL: # lint comes first, because it fails fast; also with -j
.PHONY: help try demo test unit chart e2e lint format docs bench cluster-up cluster-down package

help: ## show this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'
	@echo "make try KILL=worker-1 kills that task's program while it trains."
	@echo "With CONTEXT=name, demo, test, e2e and cluster-up use that context of your kubeconfig."

try: $(TRY)/ready ## train on this machine, without Kubernetes: one ps, two workers, real data
	@$(TRY)/bin/python -m tests.try_local $(if $(KILL),--kill '$(KILL)')

demo: $(BOX)/ready ## train on a real Kubernetes: one ps, two workers, real data
	@$(CLUSTER).demo $(if $(CONTEXT),--context $(CONTEXT))

test: lint unit chart e2e ## run the four targets below; all must pass
	@$(RUN) -m tests.counts $(REPORTS)/unit.xml $(REPORTS)/chart.xml $(REPORTS)/e2e.xml

lint: $(READY) ## check style, types and generated documents
	$(RUN) -m ruff check $(SOURCES)
	$(RUN) -m ruff format --check $(SOURCES)
	$(RUN) -m mypy
	$(RUN) -m tests.chart.generate --check

unit: $(READY) ## run the fast tests
	$(PYTEST) -n 6 --dist worksteal tests/unit --junitxml=$(REPORTS)/unit.xml

chart: $(READY) $(BOX)/ready ## render the chart and check it against the Kubernetes schemas
	@$(CLUSTER) tool helm helm3 >/dev/null && $(CLUSTER) openapi >/dev/null
	$(PYTEST) -n 2 tests/chart --junitxml=$(REPORTS)/chart.xml

e2e: $(READY) cluster-up ## run the tests with real TensorFlow and a real Kubernetes
	@$(CLUSTER) tool helm3 >/dev/null
	@$(CLUSTER) argocd >/dev/null
	TFRUN_CONTEXT=$(CONTEXT) $(PYTEST) tests/e2e --timeout=1800 --junitxml=$(REPORTS)/e2e.xml

format: $(READY) ## format the sources
	$(RUN) -m ruff format $(SOURCES)
	$(RUN) -m ruff check --fix $(SOURCES)

docs: $(READY) ## generate the values schema and the chart's table of values
	$(RUN) -m tests.chart.generate

bench: $(READY) cluster-up ## measure what tfrun costs, compared with the same work by hand
	$(RUN) -m tests.bench
	$(RUN) -m tests.bench.scale

cluster-up: $(BOX)/ready ## start the Kubernetes that demo and e2e use
	@$(CLUSTER) up $(if $(CONTEXT),--context $(CONTEXT))

cluster-down: $(BOX)/ready ## stop that Kubernetes; keep what was built
	$(CLUSTER) down

package: $(READY) $(BOX)/ready ## build the chart archive and the Python package in dist/
	@rm -f $(DIST)/tfrun-*
	helm=$$($(CLUSTER) tool helm) && "$$helm" package charts/tfrun --destination $(DIST)
	$(RUN) -m build --outdir $(DIST)

$(TRY)/ready: GROUP := try
$(BOX)/ready: GROUP := cluster
$(READY): GROUP := dev
$(TRY)/ready $(BOX)/ready $(READY):
	@test -n "$(PYTHON)" || { echo 'The make targets need Python 3.10 to 3.13, and PATH has none. As root, on Debian or Ubuntu: apt-get update && apt-get install --yes python3 python3-venv. Without root: uv (https://docs.astral.sh/uv) can install it: uv python install 3.12, then make PYTHON="$$(uv python find --managed-python 3.12)" ...'; exit 1; }
	@$(PYTHON) tests/environment.py $(@D) $(GROUP)
