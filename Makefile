# make quickstart   the whole loop on this machine: install, sweep, fit, plan, launch, verify, report
# make test         the test suite
# make lint         ruff and mypy
# make docs         the documentation as a site, in build/site
#
# The first call makes a virtual environment in .venv with the newest supported Python it finds
# (or: make quickstart PYTHON=/path/to/python3.12) and installs the locked versions of requirements/.
# A second call installs nothing until pyproject.toml or requirements/ change.

# What the tests are given; `make test EXTRAS=dev,export` adds transformers and torch, a gigabyte.
EXTRAS ?= dev
# Two processes, a file of tests to each: the suite takes twice as long in one.
PYTEST ?= -n 2 --dist loadfile
VENV ?= .venv
PYTHON ?=
OUT ?= quickstart

BIN := $(VENV)/bin
LOCKS := $(wildcard requirements/*.txt)
# A python counts when it runs (a version manager's stub may not), is supported, and can make environments.
USABLE := import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
# $(call install,WHAT): this project, editable, in the versions locked for the environment's Python.
install = { $(BIN)/python -c pass 2>/dev/null || \
	{ echo "error: $(BIN)/python does not run; remove $(VENV) and repeat" >&2; exit 1; }; } && \
	echo "installing $(1) into $(VENV)" && \
	lock=requirements/py`$(BIN)/python -c 'import sys; print("%d%d" % sys.version_info[:2])'`.txt && \
	$(BIN)/python -m pip install -qq --disable-pip-version-check -c $$lock -c requirements/export.txt -e '$(1)'

.PHONY: help quickstart test lint docs lock clean

help:
	@sed -n '/^# /s/^# //p;/^$$/q' Makefile

quickstart: $(VENV)/.installed
	@$(BIN)/scaling quickstart --out $(OUT)

test: $(VENV)/.installed-$(EXTRAS)
	@$(BIN)/python -m pytest $(PYTEST)

lint: $(VENV)/.installed-$(EXTRAS)
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

docs: $(VENV)/.installed-docs
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet && echo build/site/index.html

# Resolve the newest versions for the environment's Python and write them down; run the tests before committing them.
lock: $(BIN)/pip
	@$(BIN)/python -m pip install -qq --dry-run --ignore-installed --report - '.[dev]' | \
		$(BIN)/python requirements/lock.py

clean:
	rm -rf $(VENV) build dist *.egg-info

$(BIN)/pip:
	@for python in $(or $(PYTHON),python3.13 python3.12 python3.11 python3); do \
		if "$$python" -c '$(USABLE)' >/dev/null 2>&1; then \
			echo "creating $(VENV) with $$("$$python" --version)" && exec "$$python" -m venv $(VENV); \
		fi; \
	done; \
	echo "error: no Python 3.11 to 3.13 with venv and ensurepip was found$(if $(PYTHON), at $(PYTHON));" \
		"install one (on Debian also python3-venv), or name it: make PYTHON=/path/to/python3.12" >&2; exit 1

$(VENV)/.installed: $(BIN)/pip pyproject.toml $(LOCKS)
	@$(call install,.)
	@touch $@

$(VENV)/.installed-docs: $(BIN)/pip pyproject.toml $(LOCKS)
	@$(call install,.[docs])
	@touch $@

$(VENV)/.installed-$(EXTRAS): $(BIN)/pip pyproject.toml $(LOCKS)
	@$(call install,.[$(EXTRAS)])
	@touch $@ $(VENV)/.installed
