# The two commands of the README are `make run` and `make test`; all of it lives in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
SOURCES := $(shell find __init__.py __main__.py py.typed models telemetry uplink runtime \
	board_configs -type f -not -path '*/__pycache__/*')

.NOTPARALLEL:
.PHONY: run test check modelserver bench bench-filters examples study live faults fuzz soak test-arm64 service-test format clean
.DELETE_ON_ERROR:

run: $(VENV)/.demo $(VENV)/.installed
	$(BIN)/hedge demo

test: check
	sh tests/install_peers.sh
	$(BIN)/pytest --numprocesses 2 --dist loadfile

check: $(VENV)/.dev $(VENV)/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy --package hedge
	$(BIN)/mypy tests

bench: $(VENV)/.dev $(VENV)/.installed
	$(BIN)/python tests/bench/loop.py --keep
	$(BIN)/python tests/bench/backends.py --keep
	$(BIN)/python tests/bench/energy.py --keep
	$(BIN)/python tests/bench/inputs.py --keep
	cd tests && $(CURDIR)/$(BIN)/python -m bench.uncertainty --json bench/uncertainty.json
	$(BIN)/python tests/bench/gate.py --keep
	sh tests/install_peers.sh
	$(BIN)/python tests/bench/uplink.py --keep

# What a filter's decision costs beside the authors' nets: TFLite too with the extra train-tflite.
bench-filters: $(VENV)/.study $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python tests/bench/filters.py tests/bench/filters.json

# The worked examples on real recordings (HEDGE_DATA), as docs/examples tells of them.
examples: $(VENV)/.dev $(VENV)/.installed
	sh tests/install_peers.sh
	cd tests && $(CURDIR)/$(BIN)/python -m examples

# What evidence and cooperation are worth on real tasks (HEDGE_DATA): trains, calibrates, tests.
study: $(VENV)/.study $(VENV)/.installed
	cd tests && $(CURDIR)/$(BIN)/python -m study

# Eight live sources, each taken away from a running device and given back; an hour of film.
live: $(VENV)/.dev $(VENV)/.installed
	sh tests/install_peers.sh
	cd tests && $(CURDIR)/$(BIN)/python -m live
	cd tests && $(CURDIR)/$(BIN)/python -m video

# An hour of faults, which goes on where it was; the figures are kept beside the harness.
faults: $(VENV)/.dev $(VENV)/.installed
	sh tests/install_peers.sh
	cd tests && $(CURDIR)/$(BIN)/python -m faults.outbox
	cd tests && $(CURDIR)/$(BIN)/python -m faults.device
	cd tests && $(CURDIR)/$(BIN)/python -m faults.page

# A million changed messages, packets and files; --guided needs atheris (Python 3.11).
fuzz: $(VENV)/.dev $(VENV)/.installed
	cd tests && $(CURDIR)/$(BIN)/python -m fuzz --inputs 1200000

# Twenty minutes: five million samples, with the far end away again and again.
soak: $(VENV)/.dev $(VENV)/.installed
	sh tests/install_peers.sh
	cd tests && $(CURDIR)/$(BIN)/python -m soak

# The suite on aarch64 binaries under emulation: root, qemu-user-static and debootstrap.
test-arm64: $(VENV)/.dev $(VENV)/.installed
	cd tests && $(CURDIR)/$(BIN)/python -m arm64

# The device as a service on a systemd that is booted for it: root, systemd-nspawn, debootstrap.
service-test: $(VENV)/.dev $(VENV)/.installed
	cd tests && $(CURDIR)/$(BIN)/python -m service

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
$(VENV)/.demo $(VENV)/.dev $(VENV)/.study: $(VENV)/.%: $(VENV)/.made setup.py constraints.txt
	$(PIP) install --constraint constraints.txt '.[$*]'
	touch $@

# A real model server for tests/test_open_inference.py, which is skipped without: 300 MB, and
# apart, since it pins what the other extras want newer.
modelserver: $(VENV)/.modelserver

$(VENV)/.modelserver: $(VENV)/.made
	$(PYTHON) -m venv $(VENV)/mlserver
	$(VENV)/mlserver/bin/python -m pip --quiet --disable-pip-version-check install \
		'mlserver>=1.7,<2' 'onnxruntime>=1.20'
	touch $@

# The wheel is built anew from the sources: what is tested is what a user installs.
$(VENV)/.installed: $(VENV)/.made $(SOURCES) setup.py pyproject.toml README.md | $(VENV)/.made
	rm -rf build
	$(PIP) install --no-deps --no-build-isolation --force-reinstall .
	touch $@
