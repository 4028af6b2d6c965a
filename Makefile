# Set-up, demo, tests and checks. Needs Python 3.11 or newer and make; all else is installed.
#   PYTHON=python3.12 make test    another interpreter
#   make demo VENV=/some/folder    another virtual environment
#   make test PROCESSES=1          one test at a time; 4 keep two cores busy, for many tests wait

PYTHON ?= python3
VENV ?= .venv
PROCESSES ?= 4
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test check bench format docs clean
.DELETE_ON_ERROR:

demo: $(VENV)/.installed-worker
	$(BIN)/dgq submit examples/jobs.jsonl --output results.jsonl --overwrite
	@echo "The jobs: examples/jobs.jsonl  The results: $(CURDIR)/results.jsonl"

test: $(VENV)/.installed-dev
	$(BIN)/pytest --numprocesses=$(PROCESSES) --dist=worksteal

check: $(VENV)/.installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: $(VENV)/.installed-dev
	$(BIN)/python -m training.evaluate --jobs 200
	$(BIN)/python -m benchmarks.against_transformers --jobs 300

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: $(VENV)/.installed-dev
	$(BIN)/python docs/generate.py

clean:
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis results.jsonl

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "dgq needs Python 3.11 or newer; '$(PYTHON)' is missing or older." \
	         "Name another: make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# The stamps are redone when what they installed from has changed.
$(VENV)/.installed-worker: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable '.[worker]'
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable '.[worker,dev]'
	@touch $@ $(VENV)/.installed-worker
