PYTHON ?= python3
VENV ?= .venv
DEMO_DATA ?= owl-data
# Each process loads models of its own, about 1.5 GB.
PARALLEL ?= -n logical --maxprocesses 4 --dist worksteal

.PHONY: demo test test-all check

demo: $(VENV)/.installed
	$(VENV)/bin/rag-owl demo --data $(DEMO_DATA)

test: $(VENV)/.installed-test
	$(VENV)/bin/python -m pytest -m "not slow" $(PARALLEL)

# With those that kill processes, fuzz a running service, and the like.
test-all: $(VENV)/.installed-test
	$(VENV)/bin/python -m pytest $(PARALLEL)

check: $(VENV)/.installed-test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

$(VENV)/bin/pip:
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'rag_owl needs Python 3.11 or newer; set PYTHON=…')"
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/pip
	$(VENV)/bin/pip install --quiet --editable .
	touch $@

$(VENV)/.installed-test: pyproject.toml | $(VENV)/bin/pip
	$(VENV)/bin/pip install --quiet --editable ".[test]"
	touch $@ $(VENV)/.installed
