# Two commands: `make quickstart` trains the bundled model, `make test` runs the tests.
# Both set up a virtual environment first when there is none. Needs Python 3.11 or 3.12 and make.
PYTHON ?= python3.11
VENV ?= .venv
# Overrides for `mgsrl train`, e.g. make quickstart ARGS="strategy=mixed seed=1"
ARGS ?=
# Options for pip, e.g. --extra-index-url with PyTorch's CPU wheel index (see README)
PIP_ARGS ?=
# One file at a time in each of two processes: the machine has at least two cores
PYTEST_ARGS ?= -n 2 --dist loadfile
BIN = $(VENV)/bin

DOCS_VENV ?= $(VENV)-docs

# Where it is set, each of a test's many processes compiles the package anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup quickstart test test-slow lint image-lock reference capabilities docs clean

help:
	@echo "make quickstart   set up if needed, train the bundled model, write report.html"
	@echo "make test         set up if needed, lint, type-check, default tests"
	@echo "make test-slow    the tests marked slow"
	@echo "make docs         build the docs site into site/ (a small virtual environment of its own)"
	@echo "make reference    write docs/keys.md from the configuration's dataclasses"
	@echo "make image-lock   write docker/requirements-cpu.txt: the lock files with hashes"
	@echo "make setup        only the virtual environment ($(VENV)) from requirements.lock"

setup: $(VENV)/.ready

$(VENV)/.ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; assert sys.version_info[:2] in ((3, 11), (3, 12))' 2>/dev/null \
	  || { echo "Python 3.11 or 3.12 is needed: expected it as '$(PYTHON)'; set PYTHON=/path/to/python3.11"; exit 2; }
	@$(PYTHON) -c 'import ctypes; ctypes.CDLL("libnuma.so.1")' 2>/dev/null \
	  || { echo "libnuma is needed by vLLM's CPU kernels: install libnuma1 (Debian, Ubuntu) or numactl-libs (Fedora)"; exit 2; }
	@echo "Setting up $(VENV) from requirements.lock (about 2 minutes, 4 GB)..."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps $(PIP_ARGS) -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

quickstart: setup
	$(BIN)/mgsrl train $(ARGS)

test: setup lint
	$(BIN)/pytest $(PYTEST_ARGS)

test-slow: setup
	$(BIN)/pytest $(PYTEST_ARGS) -m slow -rs

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/shellcheck .ci/run scripts/slurm/train.sbatch $(wildcard scripts/*.sh)
	$(BIN)/hadolint docker/Dockerfile docker/Dockerfile.gpu

# The marked tests, slow ones too, in one process, whose order is the page's (minutes)
capabilities: setup
	rm -f tests/capabilities.jsonl
	$(BIN)/pytest -n 0 -m capability --capabilities tests/capabilities.jsonl
	$(BIN)/python scripts/capability_table.py

# The lock files with hashes, for docker/Dockerfile: downloads what it does not know (minutes)
image-lock: setup
	$(BIN)/pip install --quiet --dry-run --ignore-installed --no-deps $(PIP_ARGS) --report - \
	  -r requirements.lock -r docker/requirements-ray.lock \
	  | $(BIN)/python docker/hash_lock.py > docker/requirements-cpu.txt

reference: setup
	$(BIN)/python scripts/reference.py

docs: $(DOCS_VENV)/.ready
	NO_MKDOCS_2_WARNING=1 $(DOCS_VENV)/bin/mkdocs build --strict --quiet
	@echo "site/index.html"

$(DOCS_VENV)/.ready: requirements-docs.lock
	$(PYTHON) -m venv $(DOCS_VENV)
	$(DOCS_VENV)/bin/pip install --quiet --disable-pip-version-check --no-deps -r requirements-docs.lock
	@touch $@

clean:
	rm -rf build dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis
