# `make run` trains on synthesised sounds; `make test` runs the tests. Each installs what it needs the first time.
# `make test ARGS=--slow` (or ESC_JAX_SLOW=1) runs every test. ESC_JAX_SHARED=DIR runs those on real clips and weights, and
# the slow ones that are not marked `extended`.

VENV ?= .venv
PYTHON ?= python3
ARGS ?=
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install -q --no-compile

export NO_MKDOCS_2_WARNING := 1

.PHONY: run test lint docs reliability clean

run: $(VENV)/.installed
	$(BIN)/python -m esc_jax.main --config=configs/quickstart.py --workdir=runs/quickstart

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest $(ARGS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(if $(wildcard results/tables.py),$(BIN)/python results/tables.py)
	$(if $(wildcard mkdocs.yml),$(BIN)/mkdocs build -q --strict)

# What damage, kills and hostile files do: docs/reliability.md. `make reliability ARGS=--scale=full` takes hours.
reliability: $(VENV)/.installed-dev
	$(BIN)/python -m tests.reliability $(ARGS)

docs: $(VENV)/.installed-dev
	$(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) runs/quickstart site dist build

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit("esc_jax needs Python 3.11 or newer; this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip

# What `pip install esc-jax` installs: no TensorFlow.
$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(PIP) -e .
	touch $@

$(VENV)/.installed-dev: pyproject.toml requirements.txt | $(BIN)/python
	$(PIP) -r requirements.txt -e ".[dev]"
	touch $@ $(VENV)/.installed
