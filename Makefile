# Two commands on a machine with only Python (3.11 or newer):
#   make demo    create .venv, install, and run the main job on the embedded world
#   make test    create .venv, install, and run the tests
# Your own PyTorch build instead of the tested one (anything that pip install takes, an index too):
#   make demo TORCH="torch>=2.6"

PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
JOBS ?= 2

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
DEPENDENCIES := pyproject.toml constraints.txt
# Small models run faster on one thread, and the tests run in several processes.
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: help demo install dev test check format readme clean
.DELETE_ON_ERROR:

help:  ## Say what there is
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' Makefile

demo: $(VENV)/.installed-report  ## Train, fit, score, select and report on the embedded world: runs/demo
	$(BIN)/prudent demo

install: $(VENV)/.installed-report  ## Create the environment for users

dev: $(VENV)/.installed-dev  ## Create the environment for developers

test: $(VENV)/.installed-dev  ## Run the tests and the examples in docstrings
	$(BIN)/python -m pytest -n $(JOBS)

check: $(VENV)/.installed-dev readme  ## Lint, format, types, direction of imports, README
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

readme: $(VENV)/.installed-dev  ## Execute the examples of README.md in an empty folder
	$(BIN)/python scripts/run_readme.py

format: $(VENV)/.installed-dev  ## Format and mend what ruff can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## Remove the environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist build

# An interrupted `python -m venv` leaves a folder without pip; creating it again mends that and keeps what is there.
$(VENV)/.torch:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "prudent needs Python 3.11 or newer; name one with make PYTHON=...")'
	@$(PIP) --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet $(TORCH)
	@touch $@

# The torch that is there stays: its line leaves the constraints, and what is installed takes its place.
$(VENV)/constraints.txt: $(VENV)/.torch constraints.txt
	@grep -v '^torch==' constraints.txt > $@
	@$(BIN)/python -c 'from importlib.metadata import version; print("torch==" + version("torch"))' >> $@

$(VENV)/.installed-report: $(VENV)/constraints.txt $(DEPENDENCIES)
	$(PIP) install --quiet -c $(VENV)/constraints.txt -e ".[report]"
	@touch $@

$(VENV)/.installed-dev: $(VENV)/constraints.txt $(DEPENDENCIES)
	$(PIP) install --quiet -c $(VENV)/constraints.txt -e ".[dev]"
	@touch $@ $(VENV)/.installed-report
