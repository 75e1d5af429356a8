# Two commands: `make export` sets up and exports, `make test` sets up and tests.
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin

export: $(VENV)/export.stamp
	$(BIN)/python -m export coreml --quant int4 --overwrite

test: $(VENV)/test.stamp
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m ruff check .
	$(BIN)/python -m mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto

# Measure every figure of the README again and write its tables.
figures: $(VENV)/test.stamp
	$(BIN)/python -m benchmarks.palettize --json benchmarks/results/palettize.json
	for quant in none int8 int4; do \
	  bundle=$$($(BIN)/python -m export coreml --quant $$quant --overwrite --quiet) && \
	  $(BIN)/python -m validation parity $$bundle \
	    --output benchmarks/results/parity-$$quant.json || exit 1; \
	done
	$(BIN)/python -m benchmarks.readme

$(VENV)/export.stamp: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[export,coreml]'
	touch $@

$(VENV)/test.stamp: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[export,coreml,validation,video,dev]'
	touch $@ $(VENV)/export.stamp

.PHONY: export test figures
