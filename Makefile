# `make run` trains on synthesised sounds, `make test` runs the tests. Both set up what they need the first time.

VENV ?= .venv
PYTHON ?= python3

.PHONY: run test lint clean

run: $(VENV)/.installed
	$(VENV)/bin/python -m esc_jax.main --config=configs/quickstart.py --workdir=runs/quickstart

test: $(VENV)/.installed-test
	$(VENV)/bin/python -m pytest

lint: $(VENV)/.installed-test
	$(VENV)/bin/python -m pip install -q ruff
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

clean:
	rm -rf $(VENV) runs/quickstart

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit("esc_jax needs Python 3.11 or newer; this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install -q --upgrade pip

$(VENV)/.installed: requirements.txt | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install -q -r requirements.txt
	touch $@

$(VENV)/.installed-test: requirements-test.txt $(VENV)/.installed
	$(VENV)/bin/python -m pip install -q -r requirements-test.txt
	touch $@
