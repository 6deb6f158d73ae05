# `make` lists what there is. Everything installs what it lacks first, so `make run` is enough on a bare machine.
PYTHON ?= python3
VENV   ?= .venv

BIN   := $(VENV)/bin
STAMP := $(VENV)/.installed
APT   := DEBIAN_FRONTEND=noninteractive apt-get -qq -o=Dpkg::Use-Pty=0
ARGS  ?=

# Dependency groups need pip 25.1.
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check

# Most of a test is waiting, so each processor has two at a time. ARGS="-n0" has them one after the other, as a
# debugger needs it.
# What pytest has made of a test file is kept for the next run, whatever the environment says.
PYTEST := PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --numprocesses=$$((2 * $$(nproc))) --maxprocesses=8 --dist=worksteal

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help run test interop coverage stress soak fuzz bench bench-compare vm lint format proto docs links build release-check clean python system others ready emulator

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: ready system ## see a container go through its whole life, step by step
	@$(BIN)/python -m shimpy.demo

test: ready system others ## every test, on the real runtime (ARGS="-k exec -x" goes to pytest)
	$(PYTEST) $(ARGS)

interop: ready system others ## what drives containerd, with the binaries of a directory: make interop CONTAINERD=/path/to/bin
	SHIMPY_CONTAINERD=$(CONTAINERD) $(PYTEST) tests/daemon/containerd $(ARGS)

coverage: ready system others ## what the tests run of shimpy, branches counted, its child processes included
	@mkdir -p build/coverage
	$(PYTEST) --cov --cov-report=term -m "not unmeasured" $(ARGS)

stress: ready system others ## the same tests with the big numbers
	SHIMPY_ROUNDS=full $(PYTEST) --timeout=3600 $(ARGS)

soak: ready system ## random containers against a model, for an hour (ARGS="--help")
	$(BIN)/python -m tests.soak $(ARGS)

fuzz: ready ## a long run of the fuzz tests
	SHIMPY_ROUNDS=full $(PYTEST) --timeout=3600 -m fuzz $(ARGS)

bench: ready system ## measure this machine: a table and a JSON file (ARGS="--help")
	$(BIN)/python -m tests.benchmarks $(ARGS)

bench-compare: ready ## compare two of those JSON files: make bench-compare A=old.json B=new.json
	$(BIN)/python -m tests.benchmarks compare $(A) $(B)

vm: ready emulator ## tests on Debian 12's kernel, systemd and cgroup v2, in QEMU (ARGS as for test, or "--help")
	$(BIN)/python -m tests.vm $(ARGS)

lint: ready ## ruff, its formatter, and mypy --strict
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy --strict

format: ready ## let ruff put right what it can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

proto: ready ## generate shimpy/api from the protos
	$(BIN)/python -m tests.support.proto

links: ready ## ask for each address that the documents link to
	$(BIN)/python -m tests.project.links

docs: ready ## the documentation, as a site in build/site
	@$(PIP) --group docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --config-file docs/mkdocs.yml

build: ready ## the wheel and the source archive, in dist/
	$(BIN)/python -m build --outdir dist

release-check: ready system ## the archives, installed into empty environments of each Python (ARGS="--help")
	$(BIN)/python -m tests.release $(ARGS)

clean: ## remove what was built and installed here
	rm -rf $(VENV) .vm build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find shimpy tests -name __pycache__ -type d -prune -exec rm -rf {} +

# PYTHONDONTWRITEBYTECODE does not hinder compileall, and a start that need not compile is three times as quick.
ready: $(STAMP)
	@$(BIN)/python -m compileall -q shimpy tests

$(STAMP): pyproject.toml | python
	@echo "installing shimpy, and what its tests need, into $(VENV) (a minute, once)"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) 'pip>=25.1'
	@$(PIP) --compile --editable '.[cli,metrics]' --group dev
	@touch $@

# The two that need root and Debian; anywhere else they say in one line what to install.
python:
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { $(call install,python3 python3-venv); }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "shimpy needs Python 3.11 or newer: make PYTHON=/path/to/python3.13 ..." >&2; exit 1; }

# A busybox that ldd accepts is linked dynamically and would not run in an empty root filesystem.
system:
	@missing=; \
	command -v runc >/dev/null || missing="$$missing runc"; \
	command -v tini-static >/dev/null || missing="$$missing tini"; \
	{ busybox=$$(command -v busybox) && ! ldd "$$busybox" >/dev/null 2>&1; } || missing="$$missing busybox-static"; \
	[ -z "$$missing" ] || { $(call install,$${missing# }); }

# The tests drive a second runtime too, and are driven by containerd, which checkpoints by CRIU.
others:
	@missing=; \
	for each in crun containerd criu; do command -v $$each >/dev/null || missing="$$missing $$each"; done; \
	[ -z "$$missing" ] || { $(call install,$${missing# }); }

emulator:
	@missing=; \
	command -v qemu-system-x86_64 >/dev/null || missing="$$missing qemu-system-x86"; \
	command -v mmdebstrap >/dev/null || missing="$$missing mmdebstrap"; \
	[ -z "$$missing" ] || { $(call install,$${missing# }); }

install = if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; \
	then echo "installing $(1)"; $(APT) update && $(APT) install --yes --no-install-recommends $(1) >/dev/null; \
	else echo "please install first: $(1)" >&2; exit 1; fi
