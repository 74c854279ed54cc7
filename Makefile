# `make` lists the targets. All of them run in .venv, which is made when it is missing or when the pins have changed.
# PYTHON=python3.12 chooses the interpreter; without it the newest of 3.13, 3.12 and 3.11 that runs is taken.

.DEFAULT_GOAL := help
.ONESHELL:
.PHONY: help demo test quick check bench peers

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
PYTHON ?= $(firstword $(foreach p,python3.13 python3.12 python3.11,$(shell $(p) -c "print('$(p)')" 2>/dev/null)) python3)
PIP_INSTALL := -m pip --disable-pip-version-check --no-input -qq install
SUITES = $(filter-out __init__ cluster load machine measure served,$(basename $(notdir $(wildcard benchmarks/*.py))))
# One thread for each process: the tests start several on few cores.
PYTEST := OMP_NUM_THREADS=1 .venv/bin/python -m pytest
# Two at a time, since most of these wait for nothing; the others start many processes of their own.
QUICK := $(PYTEST) -n 2 --dist worksteal -m "not heavy and not slow"

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /  make \1: /p' $(firstword $(MAKEFILE_LIST)) | sed 's/: /\t/' | expand -t 16

demo: .venv/.installed ## images to demonstrations on the shipped data, CPU, some minutes; OUT=folder of the run
	.venv/bin/viewfold demo $(if $(OUT),--out $(OUT))

test: .venv/.installed ## every test, with those that start ray, deepspeed and mlflow
	$(QUICK)
	$(PYTEST) -m "heavy or slow"

quick: .venv/.installed ## the tests without the markers heavy and slow
	$(QUICK)

check: .venv/.installed ## format, lint, types and the quick tests: what a change must pass first
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	$(QUICK)

ifneq ($(filter $(SUITE),$(SUITES)),)
bench: .venv/.installed
	.venv/bin/python -m benchmarks.$(SUITE)
else
bench: ## SUITE=name: one benchmark, its last line is JSON; without SUITE the names
	@echo "make bench SUITE=name: $(if $(SUITES),one of $(SUITES),benchmarks/ holds no suite yet)"$(if $(SUITE), >&2; exit 2)
endif

ifneq ($(wildcard benchmarks/peers.txt),)
peers: .venv-peers/.installed
else
peers: ## .venv-peers: the other libraries that benchmarks compare with
	@echo "make peers: no suite compares with another library yet; benchmarks/peers.txt would name them"
endif

# Two makes at once: the second waits for the lock, then finds the work done. The stamp is the last thing written,
# so an installation that was cut off is taken up again.
.venv/.installed: pyproject.toml constraints.txt
	@exec 9< pyproject.toml; if command -v flock > /dev/null; then flock 9; fi
	if [ $@ -nt pyproject.toml ] && [ $@ -nt constraints.txt ]; then exit 0; fi
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
	  || { echo "$(PYTHON) is not Python 3.11, 3.12 or 3.13, for which constraints.txt holds: make PYTHON=..." >&2; exit 2; }
	echo "Installing viewfold and its dependencies into .venv: 4 to 8 minutes the first time"
	if [ ! -x .venv/bin/python ]; then $(PYTHON) -m venv .venv; fi
	.venv/bin/python $(PIP_INSTALL) -c constraints.txt -e '.[all,dev]'
	touch $@

.venv-peers/.installed: benchmarks/peers.txt constraints.txt
	@echo "Installing the compared libraries into .venv-peers: some minutes the first time"
	if [ ! -x .venv-peers/bin/python ]; then $(PYTHON) -m venv .venv-peers; fi
	.venv-peers/bin/python $(PIP_INSTALL) -c constraints.txt -r benchmarks/peers.txt
	touch $@
