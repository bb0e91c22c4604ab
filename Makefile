# Every verb sets up what it needs, and reuses it the next time.

CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/tfrun
# TensorFlow has wheels for these; the first that is there is taken. PYTHON=... names another.
PYTHON ?= $(firstword $(foreach v,3.13 3.12 3.11 3.10,$(shell python$(v) -c 'import sys; print(sys.executable)' 2>/dev/null)))
VENV := $(CACHE)/venv-$(shell { sed -n '/^\[dependency-groups/,/^]/p' pyproject.toml; echo '$(PYTHON)'; } | sha256sum | cut -c1-12)
RUN := $(VENV)/bin/python
CONTEXT ?=
PYTEST := $(RUN) -m pytest
SOURCES := launcher tests examples

.DEFAULT_GOAL := help
.PHONY: help demo test unit chart e2e lint format docs bench cluster-up cluster-down package

help: ## show this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'
	@echo "CONTEXT=name runs demo, e2e and cluster-up on that context of your kubeconfig."

demo: $(RUN) ## train on a real Kubernetes: one ps, two workers, real data
	$(RUN) -m tests.cluster.demo $(if $(CONTEXT),--context $(CONTEXT))

test: lint unit e2e ## everything that must pass: lint, unit, charts, end to end

unit: $(RUN) ## fast tests, under a minute
	$(PYTEST) tests/unit

chart: $(RUN) ## render the chart and hold it against the Kubernetes schemas
	$(PYTEST) tests/chart

e2e: $(RUN) chart ## real TensorFlow and a real Kubernetes
	TFRUN_CONTEXT=$(CONTEXT) $(PYTEST) tests/e2e

lint: $(RUN) ## style, types, generated documents
	$(RUN) -m ruff check $(SOURCES)
	$(RUN) -m ruff format --check $(SOURCES)
	$(RUN) -m mypy
	$(RUN) -m tests.chart.generate --check

format: $(RUN) ## format the sources
	$(RUN) -m ruff format $(SOURCES)
	$(RUN) -m ruff check --fix $(SOURCES)

docs: $(RUN) ## write the generated documents anew
	$(RUN) -m tests.chart.generate

cluster-up: $(RUN) ## start the Kubernetes that demo and e2e use
	$(RUN) -m tests.cluster up $(if $(CONTEXT),--context $(CONTEXT))

cluster-down: $(RUN) ## stop it; nothing of it stays
	$(RUN) -m tests.cluster down

package: $(RUN) ## the chart and the Python package, in dist/
	$(RUN) -m tests.cluster package dist

# The virtual environment, named by what is in it. Written aside and moved, so that a build that
# was interrupted is not taken for a whole one.
$(RUN):
	@test -n "$(PYTHON)" || { echo "Python 3.10 to 3.13 is needed (TensorFlow has no wheels for others). On Debian or Ubuntu: apt-get install python3 python3-venv; or name one: make PYTHON=/path/to/python3.12 ..."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "Python's venv module is missing. On Debian or Ubuntu: apt-get install python3-venv"; exit 1; }
	@echo "making $(VENV), once"
	@rm -rf $(VENV)
	@$(PYTHON) -m venv $(VENV).new
	@$(VENV).new/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
	@$(VENV).new/bin/python -m pip install --quiet --group dev
	@mv $(VENV).new $(VENV)
