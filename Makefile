# `make` lists the targets. All of them run in .venv, which is made when it is missing or when the pins have changed.
# PYTHON=python3.12 chooses the interpreter; without it the newest of 3.13, 3.12 and 3.11 that runs is taken.

.DEFAULT_GOAL := help
.ONESHELL:
.PHONY: help demo test quick check docs bench peers

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
PYTHON ?= $(firstword $(foreach p,python3.13 python3.12 python3.11,$(shell $(p) -c "print('$(p)')" 2>/dev/null)) python3)
PIP_INSTALL := -m pip --disable-pip-version-check --no-input -qq install
# The newest Python that the compared libraries have wheels for.
PEERS_BASE ?= $(firstword $(foreach p,python3.12 python3.11,$(shell $(p) -c "print('$(p)')" 2>/dev/null)) python3.12)
# Suites with rows that need the peers' environment.
PEERED := endtoend retrieval serve
# One thread for each process: the tests start several on few cores.
PYTEST := OMP_NUM_THREADS=1 .venv/bin/python -m pytest
# Two at a time. Those that start Ray and servers share them in a file, so that a file stays with one process.
QUICK := $(PYTEST) -n 2 --dist worksteal -m "not heavy and not slow"
HEAVY := $(PYTEST) -n 2 --dist loadfile -m "heavy or slow"

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /  make \1: /p' $(firstword $(MAKEFILE_LIST)) | sed 's/: /\t/' | expand -t 16

demo: .venv/.installed ## images to demonstrations on the shipped data, CPU, some minutes; OUT=folder of the run
	.venv/bin/viewfold demo $(if $(OUT),--out $(OUT))

test: .venv/.installed ## every test, with those that start ray, deepspeed and mlflow
	$(QUICK)
	$(HEAVY)

quick: .venv/.installed ## the tests without the markers heavy and slow
	$(QUICK)

check: .venv/.installed ## format, lint, types and the quick tests: what a change must pass first
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	$(QUICK)

docs: .venv/.installed ## the documentation as a site, in build/site
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict

# The peers' environment is not made for a suite that needs none, nor where another one is named.
bench: .venv/.installed $(if $(or $(PEERS_PYTHON),$(filter-out $(PEERED),$(SUITE))),,.venv-peers/.installed) ## measures beside other libraries and renders docs/benchmarks.md, hours; SUITE=name: one suite
	.venv/bin/python -m benchmarks $(SUITE)

peers: .venv-peers/.installed ## .venv-peers: compared libraries that cannot live beside ours

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

.venv-peers/.installed: benchmarks/peers.txt benchmarks/peers-constraints.txt
	@echo "Installing the compared libraries into .venv-peers: some minutes the first time"
	if [ ! -x .venv-peers/bin/python ]; then $(PEERS_BASE) -m venv .venv-peers; fi
	.venv-peers/bin/python $(PIP_INSTALL) -r benchmarks/peers.txt
	touch $@
