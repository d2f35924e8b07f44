# The two commands of the README are `make run` and `make test`; all of it lives in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
SOURCES := $(shell find __init__.py __main__.py py.typed models telemetry uplink runtime \
	board_configs -type f -not -path '*/__pycache__/*')

.NOTPARALLEL:
.PHONY: run test check bench format clean
.DELETE_ON_ERROR:

run: $(VENV)/.demo $(VENV)/.installed
	$(BIN)/hedge demo

test: check
	sh tests/install_mosquitto.sh
	$(BIN)/pytest

check: $(VENV)/.dev $(VENV)/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy --package hedge
	$(BIN)/mypy tests

bench: $(VENV)/.dev $(VENV)/.installed
	$(BIN)/python tests/bench/loop.py --keep

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "hedge needs Python 3.10 or newer; try: make PYTHON=python3.12 …")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install 'setuptools>=77' wheel
	touch $@

# What an extra needs is installed with it; the package itself comes from $(VENV)/.installed.
$(VENV)/.demo $(VENV)/.dev: $(VENV)/.%: $(VENV)/.made setup.py constraints.txt
	$(PIP) install --constraint constraints.txt '.[$*]'
	touch $@

# The wheel is built anew from the sources: what is tested is what a user installs.
$(VENV)/.installed: $(VENV)/.made $(SOURCES) setup.py pyproject.toml README.md | $(VENV)/.made
	rm -rf build
	$(PIP) install --no-deps --no-build-isolation --force-reinstall .
	touch $@
