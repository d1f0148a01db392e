# Everything from a bare checkout: each target makes the virtual environment first if need be.
#
#   make train                          trains on FreeSolv and compares with GINE and the mean
#   make test                           lint and the tests
#   make BASE_PYTHON=python3.12 test    with another Python (3.11 or newer)
#   make TORCH_BUILD=default test       torch: auto, default, cpu; see tools/install_torch.py

BASE_PYTHON ?= python3
TORCH_BUILD ?= auto

VENV := .venv
PYTHON := $(VENV)/bin/python
READY := $(VENV)/.ready
SCATTER_READY := $(VENV)/.scatter-ready
DOCS_READY := $(VENV)/.docs-ready
TRAIN_COMMAND := train.py compare freesolv freesolv_gine

.DEFAULT_GOAL := help
.PHONY: help train test browser quick test-all gpu-kernels test-bounds test-lowest trust audit notebooks lint format table bench gpu roofline scatter test-scatter docs wheel clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile

$(READY): pyproject.toml constraints.txt tools/setup_venv.py tools/install_torch.py
	@$(BASE_PYTHON) tools/setup_venv.py $(VENV) $(READY) $(TORCH_BUILD)

train: $(READY) ## train on FreeSolv, compare with GINE and the mean
	$(PYTHON) $(TRAIN_COMMAND)

# Side by side, as most of the tests' time goes into processes that they start and wait for. A worker takes 1.5 GB.
PARALLEL := --numprocesses auto --maxprocesses 4 --dist worksteal

test: lint ## lint, then every test but the slow ones and the notebooks
	$(PYTHON) -m pytest $(PARALLEL) -m "not slow and not notebook"

browser: ## install Chromium, in which a test looks at HTML reports; without it that test is skipped (Debian, root)
	@command -v chromium >/dev/null || { apt-get -qq update && apt-get -qq install --yes chromium >/dev/null; }

QUICK := chem docstrings drop_in fingerprint line_graph orientation plstm_conv public_api results state_tracking task

quick: lint ## lint, then the tests that need under a minute together
	$(PYTHON) -m pytest -q -m "not slow" $(QUICK:%=tests/test_%.py)

test-bounds: $(READY) ## the kernels' tests, with every index of compiled code checked
	NUMBA_BOUNDSCHECK=1 NUMBA_CACHE_DIR=.numba-bounds $(PYTHON) -m pytest $(PARALLEL) -m "not slow" \
		tests/test_stm.py tests/test_state_tracking.py tests/test_bad_tensors.py

TRUST_TESTS := tests/test_bad_molecules.py tests/test_bad_tensors.py tests/test_faults.py tests/test_distribution.py \
	tests/test_strangers.py tests/test_numerics.py tests/test_stability.py tests/test_public_api.py

trust: $(READY) ## attack the package: 100,000 molecules, kills, full disks, rounding; ten minutes
	TRUST=full $(PYTHON) -m pytest $(TRUST_TESTS)
	$(PYTHON) -m mypy

# What an index of advisories is asked for is on the network: without it, the licences are still listed.
audit: $(READY) ## licences of everything that is installed, and known vulnerabilities
	@$(PYTHON) -m venv $(VENV)-audit
	@$(VENV)-audit/bin/pip --disable-pip-version-check install -qq pip-licenses pip-audit
	$(VENV)-audit/bin/pip-licenses --python $(PYTHON) --order license --partial-match --fail-on GPL
	$(VENV)-audit/bin/pip-audit --path $(VENV)/lib/python3.*/site-packages --progress-spinner off

test-lowest: $(READY) ## the tests with the lowest releases that pyproject.toml admits; downloads gigabytes
	$(BASE_PYTHON) -m venv --clear $(VENV)-lowest
	$(PYTHON) tools/lowest_versions.py train dev > $(VENV)-lowest/constraints.txt
	$(VENV)-lowest/bin/pip install -q --constraint $(VENV)-lowest/constraints.txt torch
	$(VENV)-lowest/bin/pip install -q --constraint $(VENV)-lowest/constraints.txt --editable '.[train,dev]'
	$(VENV)-lowest/bin/python -m pytest $(PARALLEL) -m "not slow and not notebook"

gpu-kernels: $(READY) ## compile the GPU kernels for all targets; no GPU needed
	$(PYTHON) -m pytest $(PARALLEL) tests/test_triton.py -m slow

notebooks: $(READY) ## run every notebook from top to bottom
	$(PYTHON) -m pytest -m notebook

test-all: lint ## lint, then every test
	$(PYTHON) -m pytest $(PARALLEL)

lint: $(READY) ## ruff (lint and format) and mypy
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy

format: $(READY) ## let ruff format and fix
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

SUITE := tdc

table: $(READY) ## what is kept of a suite of data sets: make table SUITE=tdc, moleculeace, tu, ogb, ...
	@$(PYTHON) -m benchmarks.accuracy.table --suite $(SUITE) --print

bench: $(READY) ## time the layers, see benchmarks/speed/conv.py for flags
	$(PYTHON) -m benchmarks.speed.conv

gpu: $(READY) ## check and time the GPU kernels; needs CUDA
	$(PYTHON) -m benchmarks.speed.gpu

roofline: $(READY) ## count what the GPU kernels move and compute; no GPU needed
	$(PYTHON) -m benchmarks.speed.roofline

# A wheel in pip's cache may have been compiled against another torch, which shows when it is
# imported; then it is compiled again. DIST_EXTRA_CONFIG has its four extensions compiled at once.
SCATTER_INSTALL := DIST_EXTRA_CONFIG=$(CURDIR)/tools/build_ext.cfg \
	$(PYTHON) -m pip --disable-pip-version-check install -qq \
	--no-build-isolation --constraint constraints.txt

$(SCATTER_READY): $(READY)
	@echo "[setup] torch-scatter is compiled, which takes minutes the first time"
	@$(SCATTER_INSTALL) --editable '.[scatter]'
	@$(PYTHON) -c 'import torch_scatter' 2>/dev/null || \
		$(SCATTER_INSTALL) --no-cache-dir --no-deps --force-reinstall torch-scatter
	@$(PYTHON) -c 'import torch_scatter'
	@touch $@

scatter: $(SCATTER_READY) ## install the scatter extra (compiles for minutes)

test-scatter: $(SCATTER_READY) ## the level-path tests with torch_scatter installed
	$(PYTHON) -m pytest $(PARALLEL) -m "level_path and not slow"

$(DOCS_READY): $(READY)
	@echo "[setup] what the site is made with"
	@$(PYTHON) -m pip --disable-pip-version-check install -qq --constraint constraints.txt --editable '.[docs]'
	@touch $@

# The theme's notice of its end of life in 2027 stands in the way of warnings worth reading.
docs: $(DOCS_READY) ## build the site into site/; warnings are errors
	@NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs build --strict

# What an earlier build left in build/ would go into the wheel.
wheel: $(READY) ## build the wheel into dist/
	@rm -rf build dist
	$(PYTHON) -m pip --disable-pip-version-check wheel -q --no-deps --no-build-isolation --wheel-dir dist .
	@ls dist/*.whl

clean: ## remove the environment, caches and built files; runs stay
	rm -rf $(VENV) $(VENV)-unfinished $(VENV)-audit $(VENV)-lowest .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -rf build dist site *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
