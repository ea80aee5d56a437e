# Two commands: `make demo` shows the whole path on this machine, `make test` proves the code.
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
DEMO ?= demo
BIN := $(VENV)/bin
READY := $(VENV)/.stormbench-ready
SMALL := tests/unit tests/property tests/golden tests/e2e/test_bad_input.py

.PHONY: help demo test lint bench readme golden apptainer clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /make \1\t/' | expand -t 14

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "$(PYTHON) is older than 3.10; give another one: make PYTHON=python3.11 ..." >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --upgrade pip -c constraints.txt
	# torch first and pinned: any other request for it would fetch another build
	$(BIN)/pip install -q -c constraints.txt torch
	$(BIN)/pip install -q -c constraints.txt -e '.[deepcam,cloudmask-data,dev]'
	touch $@

demo: $(READY)  ## make data, train DeepCAM until its target, show the result
	PATH="$(CURDIR)/$(BIN):$$PATH" bash benchmarks/demo.sh "$(DEMO)"

lint: $(READY)  ## ruff, mypy, shellcheck
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/shellcheck -x run_and_time.sh run.sub init_datasets.sub benchmarks/demo.sh tests/cluster/apptainer.sh .ci/run

apptainer:
	@command -v apptainer >/dev/null || { told=$$(bash tests/cluster/apptainer.sh .apptainer 2>&1) || echo "no apptainer here ($$(tail -n 1 <<<"$$told")): the tests that need one are skipped, or fail where CI is set"; }

test: lint apptainer  ## lint and every test
	# small tests share the cores; those that start clusters and trainings need them for themselves
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest -q -n auto --maxprocesses 8 $(SMALL)
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest $(addprefix --ignore=,$(SMALL)) tests

bench: $(READY)  ## the figures of the README, each from its script
	$(BIN)/python benchmarks/loader.py
	$(BIN)/python benchmarks/train_step.py
	$(BIN)/python benchmarks/check_mutations.py
	$(BIN)/python benchmarks/trial_overhead.py

golden: $(READY)  ## renew run.sub, init_datasets.sub and the kept jobs of all configs
	$(BIN)/python -m tests.golden.renderings

readme: $(READY)  ## renew the README's table of variables
	$(BIN)/python -c 'import re, subprocess, pathlib; p = pathlib.Path("README.md"); t = subprocess.run(["$(BIN)/stormbench", "variables", "--markdown"], capture_output=True, text=True, check=True).stdout; p.write_text(re.sub(r"(<!-- variables -->\n).*?(<!-- end)", lambda m: m[1] + t + m[2], p.read_text(), flags=re.S))'

clean:  ## remove the environment and the demo
	rm -rf $(VENV) $(DEMO) .apptainer
