# Everything runs in a virtual environment of its own, made on first use.
# `make` alone lists the targets.

SHELL := /bin/sh
VENV ?= .venv
PYTHON ?=
SEED ?= 0
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready

.PHONY: help setup demo test proofs test-parallel test-kills test-cluster lint format docs clean
.DEFAULT_GOAL := help

help: ## List the targets
	@echo "usage: make TARGET"
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 18

setup: $(READY) ## Install the pinned versions into .venv, once (PYTHON=python3.11 chooses the Python)
	@echo "$(VENV) is ready; to use it: source $(VENV)/bin/activate"

demo: $(READY) ## Run the whole method on a small scale, minutes on a laptop (SEED=n)
	$(RUN) -m imdm_dist demo --seed $(SEED)

# The cluster's tests take all cores, so they run after the others, by themselves. What the tests start as processes of
# their own is not in the coverage.
test: lint ## Check style and types, then run the tests; prints the coverage
	@failed=0; \
	$(RUN) -m pytest -q -n 2 --dist loadfile -m 'not slurm and not thorough' --cov --cov-report= || failed=1; \
	echo "files under 80 % of lines, and all:"; \
	$(RUN) -m coverage report --sort=cover | awk '$$1 == "TOTAL" || /%$$/ && $$NF + 0 < 80'; \
	$(RUN) -m pytest -q -m 'slurm and not thorough' tests/cluster || failed=1; \
	exit $$failed

PROOFS := tests/draws tests/diffusion tests/model tests/objectives tests/parallel tests/training/test_engine.py

proofs: $(READY) ## Run the proofs alone, in a minute: laws by enumeration, losses in dense form, parity of divisions
	$(RUN) -m pytest -q -n 2 --dist loadfile -m proof $(PROOFS)

test-parallel: $(READY) ## Compare every division of the work over ranks; writes docs/results/parallel.md
	$(RUN) -m tests.parallel_matrix --write docs/results/parallel.md

test-kills: $(READY) ## Kill training at a hundred random instants (SEED=n)
	$(RUN) -m tests.kill_fuzz --kills 100 --seed $(SEED)

test-cluster: $(READY) ## Run every test on a SLURM cluster brought up on this host (Debian, root); writes docs/results/cluster.md
	IMDM_REQUIRE_SLURM=1 $(RUN) -m pytest -q -m slurm tests/cluster --cluster-table docs/results/cluster.md

lint: $(READY) ## Check style, types and that no room imports a room above it
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	$(VENV)/bin/lint-imports

format: $(READY) ## Put the code into the house style
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

docs: $(READY) ## Build the documentation site, docs/_build/index.html
	$(RUN) -m pip install -q -c constraints.txt -e '.[docs]'
	$(RUN) -m sphinx -W --keep-going -b html docs docs/_build

clean: ## Remove the virtual environment and all caches; runs/ stays
	rm -rf $(VENV) build dist *.egg-info .coverage .mypy_cache .pytest_cache .ruff_cache .import_linter_cache docs/_build docs/api
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A name such as python3.12 may exist and still not run (pyenv), or lack venv (Debian): each is tried.
# Without PYTHON=, only the versions that are tested are taken.
$(READY): setup.cfg pyproject.toml constraints.txt
	@set -e; \
	if ! $(RUN) -m pip --version >/dev/null 2>&1; then \
	    found=; below=$(if $(PYTHON),99,13); \
	    for name in $(or $(PYTHON),python3.12 python3.11 python3); do \
	        if $$name -c "import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, $$below))" \
	                >/dev/null 2>&1; then found=$$name; break; fi; \
	    done; \
	    if [ -z "$$found" ]; then \
	        echo "error: no Python 3.11 or 3.12 with the venv module among: $(or $(PYTHON),python3.12 python3.11 python3)." \
	            "Install one, or name one: make setup PYTHON=/path/to/python3.12" >&2; exit 1; \
	    fi; \
	    echo "making $(VENV) with $$found ($$($$found --version))"; \
	    $$found -m venv --clear $(VENV); \
	fi
	$(RUN) -m pip install -c constraints.txt -e '.[dev,wandb]'
	@touch $@
