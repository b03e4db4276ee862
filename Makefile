# Needs Python 3.11 or later and make; everything else goes into .venv.
PYTHON ?= python3
VENV ?= .venv
DEMO ?= demo
BIN = $(VENV)/bin

.PHONY: demo test lint clean

demo: $(VENV)/.installed
	$(BIN)/cutaway demo -o $(DEMO) --force

test: $(VENV)/.installed-all
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto

lint: $(VENV)/.installed-all
	$(BIN)/ruff check .
	$(BIN)/mypy

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("cutaway needs Python 3.11 or later")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/.installed-all: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test,browser,lint]'
	touch $@ $(VENV)/.installed

# Beside TransformerLens, nnsight and plain hooks, each in its own environment. Quick: make bench BENCH=--quick
.PHONY: bench
bench: $(VENV)/.installed
	$(BIN)/python benchmarks/compare.py $(BENCH)

# Screened sweeps beside exact ones. Quick: make bench-screening BENCH="--models pocket --cases 8"
.PHONY: bench-screening
bench-screening: $(VENV)/.installed
	$(BIN)/python benchmarks/screening.py $(BENCH)

# What versions promise (docs/versions.md), written anew.
.PHONY: api
api: $(VENV)/.installed-all
	$(BIN)/python tests/public_api.py

clean:
	rm -rf $(VENV) $(DEMO)

# The picture of the README, by the tool itself.
docs/poland.svg: $(VENV)/.installed src/cutaway/pocket/model.safetensors
	$(BIN)/cutaway attribute "The capital of Poland is" --answer " Warsaw" --foil " Berlin" -o $@ --force
