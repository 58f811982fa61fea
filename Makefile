# Two commands do everything on a machine with Python 3.11 to 3.13 and make:
#   make demo    simulate a small dataset, run the app on it, say where the report is
#   make test    the tests (make lint: style, types, layers)
# The first use makes .venv and installs into it; later uses start at once.

PYTHON ?= python3
VENV ?= .venv
# PyTorch's own index of builds without CUDA, which are several GB smaller. Where it cannot be
# reached, the configured package index is used. For CUDA: make TORCH_INDEX= demo
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
TORCH ?= torch==2.13.0
EXTRAS ?= app,lab,test,dev,docs
DEMO ?= demo
IMAGE ?= drope-bidsapp
# One process a core, files as wholes (their fixtures run the app once), the longest first.
PYTEST_ARGS ?= -n auto --dist loadfile --no-loadscope-reorder

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# nipype asks the network for its newest version unless told not to; no test opens a window.
export NO_ET := 1
export MPLBACKEND := Agg
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Tests run side by side: more threads than cores only get into each other's way.
test test-all: export OMP_NUM_THREADS := 1

.PHONY: help install demo test test-all lint format docs lock image clean
.DEFAULT_GOAL := help

help:  ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 20

install: $(STAMP)  ## Make .venv and install everything into it

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' || \
	  { echo "Python 3.11, 3.12 or 3.13 is needed; $(PYTHON) is $$($(PYTHON) --version 2>&1)." \
	    "Name another one: make PYTHON=python3.11 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(STAMP): pyproject.toml | $(BIN)/python
	@if $(BIN)/python -c 'import torch' 2>/dev/null; then :; \
	elif [ -n "$(TORCH_INDEX)" ] && $(BIN)/python -m pip install --quiet --retries 0 --timeout 20 \
	    --index-url "$(TORCH_INDEX)" "$(TORCH)" 2>/dev/null; then \
	  echo "Installed $(TORCH), looking at $(TORCH_INDEX) first"; \
	else \
	  echo "Installing $(TORCH) from the configured package index"; \
	  $(BIN)/python -m pip install --quiet "$(TORCH)"; \
	fi
	$(BIN)/python -m pip install --quiet --editable '.$(if $(EXTRAS),[$(EXTRAS)])'
	@touch $@

$(DEMO)/.simulated: | $(STAMP)
	rm -rf $(DEMO)/bids
	$(BIN)/dmri-fm simulate $(DEMO)/bids --participants 2
	@touch $@

demo: $(DEMO)/.simulated  ## Simulate two participants, run the app on them, show where the report is
	$(BIN)/drope-bidsapp $(DEMO)/bids $(DEMO)/out participant --sloppy
	$(BIN)/drope-bidsapp $(DEMO)/bids $(DEMO)/out group
	@echo
	@echo "Reports:  $(abspath $(DEMO))/out/sub-01.html"
	@echo "          $(abspath $(DEMO))/out/group/report.html"

test: $(STAMP)  ## Run the tests that a change must pass (under 10 minutes on 2 cores)
	$(BIN)/python -m pytest -m "not slow and not gpu and not container" $(PYTEST_ARGS)

test-all: $(STAMP)  ## Run every test that this machine can run
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(STAMP)  ## Check style, types, spelling and the direction of imports
	$(BIN)/ruff check --no-cache .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: $(STAMP)  ## Rewrite the code in the project's style
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

docs: $(STAMP)  ## Write the generated pages and descriptor.json, and the documentation as a site
	$(BIN)/python -m dmri_fm_workflows.outputs docs/outputs.md
	$(BIN)/python -m dmri_fm_workflows.descriptor descriptor.json
	$(BIN)/python -m dmri_fm_lab.usage docs/usage.md
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict
	@echo "Documentation:  $(abspath site)/index.html"

lock:  ## Pin the containers' packages (base and app): a fresh environment, frozen
	rm -rf build/lock
	$(MAKE) install VENV=build/lock EXTRAS=app
	{ echo "# Exact versions of the containers' packages. Written by: make lock"; \
	  build/lock/bin/python -m pip list --format=freeze --exclude-editable \
	    --exclude pip | sed 's/+cpu$$//'; } > requirements.lock
	version="$$(sed -n 's/^torch==//p' requirements.lock)" && build/lock/bin/python -m pip install \
	  --dry-run --ignore-installed --quiet --report build/lock/torch.json "torch===$$version"
	build/lock/bin/python .ci/cuda_lock.py build/lock/torch.json

image:  ## Build the container image
	docker build --tag $(IMAGE) $(DOCKER_ARGS) .

clean:  ## Remove everything that make made
	rm -rf $(VENV) build dist site $(DEMO) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
