# Two commands: `make demo` shows the whole path on this machine, `make test` proves the code.
SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
PYTHON ?= python3
VENV ?= .venv
DEMO ?= demo
BIN := $(VENV)/bin
READY := $(VENV)/.stormbench-ready
HOROVOD := $(VENV)/.stormbench-horovod
# without this environment, whose MPI has wrappers of its compiler too, but no cluster has it
SYSTEM_PATH := $(subst $(CURDIR)/$(BIN):,,$(PATH))
# the longest first
SMALL := tests/e2e/test_bad_input.py tests/property tests/golden tests/unit

OLDER := .venv-tf215
.PHONY: help demo test lint horovod older bench readme golden apptainer clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /make \1\t/' | expand -t 14

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "$(PYTHON) is older than 3.10; give another one: make PYTHON=python3.11 ..." >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --upgrade pip -c constraints.txt
	# torch first and pinned: any other request for it would fetch another build
	$(BIN)/pip install -q -c constraints.txt torch
	$(BIN)/pip install -q -c constraints.txt -e '.[deepcam,cloudmask,report,dev]'
	touch $@

# Horovod has no wheels: it is built once for this TensorFlow and this MPI, and kept in ~/.cache/stormbench
$(HOROVOD): $(READY) docker/horovod-wheel.sh
	@{ command -v mpicxx && command -v g++; } >/dev/null || { echo "Horovod needs a C++ compiler and MPI's headers; on Debian: apt-get install g++ openmpi-bin libopenmpi-dev" >&2; exit 2; }
	wheel=$$(PATH="$(SYSTEM_PATH)" docker/horovod-wheel.sh $(BIN)/python | tail -n 1) && $(BIN)/pip install -q -c constraints.txt "$$wheel"
	touch $@

horovod: $(HOROVOD)  ## build Horovod for CloudMask on several ranks, about 7 minutes on 2 cores

demo: $(READY)  ## make data, train both workloads until their targets, show the results
	PATH="$(CURDIR)/$(BIN):$$PATH" bash benchmarks/demo.sh "$(DEMO)"

lint: $(READY)  ## ruff, mypy, shellcheck
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/shellcheck -x run_and_time.sh run.sub init_datasets.sub benchmarks/demo.sh tests/cluster/apptainer.sh docker/horovod-wheel.sh docker/steps/*.sh docker/steps/entry .ci/run

apptainer:
	@command -v apptainer >/dev/null || { told=$$(bash tests/cluster/apptainer.sh .apptainer 2>&1) || echo "no apptainer here ($$(tail -n 1 <<<"$$told")): the tests that need one are skipped, or fail where CI is set"; }

# thousands of processes start from this code, which each would compile anew where the caller forbids Python to keep it
test: export PYTHONDONTWRITEBYTECODE =
# several processes share the cores: threads of one that spin while they wait would take them from the others
test: export OMP_WAIT_POLICY = passive
# without a compiler or an MPI the tests that need Horovod are skipped, or fail where CI is set
test: lint apptainer  ## lint and every test
	@$(MAKE) --no-print-directory horovod || [ -z "$$CI" ]
	# small tests share the cores; of the others, one process has clusters and images, and one starts trainings
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest -q -n auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder $(SMALL)
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations 20 $(addprefix --ignore=,$(SMALL)) tests

older: docker/horovod-wheel.sh  ## CloudMask's tests with TensorFlow 2.15, Keras 2 and Horovod as it is, in an environment of their own
	$(PYTHON) -m venv $(OLDER)
	$(OLDER)/bin/pip install -q -c constraints-tf215.txt -e '.[cloudmask,report]' 'pytest>=8' 'pytest-xdist>=3.5' 'hypothesis>=6.100' mpi4py netCDF4 satpy
	wheel=$$(PATH="$(SYSTEM_PATH)" docker/horovod-wheel.sh $(OLDER)/bin/python | tail -n 1) && $(OLDER)/bin/pip install -q -c constraints-tf215.txt "$$wheel"
	PATH="$(CURDIR)/$(OLDER)/bin:$$PATH" $(OLDER)/bin/python -m pytest -q $(wildcard tests/*/test_cloudmask_*.py)

bench: $(READY)  ## the figures of the README, each from its script
	# what the usual way of converting a product needs, to be compared with
	$(BIN)/pip install -q -c constraints.txt -e '.[bench]'
	$(BIN)/python benchmarks/start_up.py
	$(BIN)/python benchmarks/loader.py
	$(BIN)/python benchmarks/train_step.py
	$(BIN)/python benchmarks/convert_slstr.py
	$(BIN)/python benchmarks/cloudmask_train.py
	$(BIN)/python benchmarks/cloudmask_infer.py
	$(BIN)/python benchmarks/check_mutations.py
	$(BIN)/python benchmarks/trial_overhead.py

golden: $(READY)  ## renew run.sub, init_datasets.sub and the kept jobs of all configs
	$(BIN)/python -m tests.golden.renderings
	$(BIN)/python -m tests.container.train_recipe

readme: $(READY)  ## renew the README's table of variables
	$(BIN)/python -c 'import re, subprocess, pathlib; p = pathlib.Path("README.md"); t = subprocess.run(["$(BIN)/stormbench", "variables", "--markdown"], capture_output=True, text=True, check=True).stdout; p.write_text(re.sub(r"(<!-- variables -->\n).*?(<!-- end)", lambda m: m[1] + t + m[2], p.read_text(), flags=re.S))'

clean:  ## remove the environment and the demo
	rm -rf $(VENV) $(OLDER) $(DEMO) .apptainer
