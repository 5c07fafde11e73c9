# RestMQ: `make run` starts a broker, `make test` proves it, `make lint` reads it.
#
# All targets work from any folder (`make -C .../restmq run`) and, once `make env` has run, with no
# network. Tools are called as `python -m TOOL`, so that a moved folder keeps working.

PYTHON ?= python3
UV ?= uv
VENV ?= .venv

RUN := $(VENV)/bin/python
STAMP := $(VENV)/.installed-from
LOCK := $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--override requirements-override.in --custom-compile-command "make lock" $(LOCK_FLAGS)

export PIP_DISABLE_PIP_VERSION_CHECK := 1

# The environment points at this folder; when the folder has moved, it is mended.
ifneq ($(shell cat $(STAMP) 2>/dev/null),$(CURDIR))
.PHONY: $(STAMP)
endif

.DEFAULT_GOAL := help
.PHONY: help run test lint format bench env lock deb installer clean

help: ## what there is
	@sed -n 's/^\([a-z]*\):.*## /  make \1	/p' Makefile

run: env ## start the broker on http://127.0.0.1:8888, data in ./data; ARGS="--port 9999" adds options
	@exec $(RUN) -m restmq --data-dir ./data $(ARGS)

test: env ## every test; TESTS="-k peek" picks some
	$(RUN) -m pytest -n auto --maxprocesses 4 --dist worksteal $(TESTS)

lint: env ## format, lint and types, as CI checks them
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(RUN) -m mypy restmq twisted/plugins/*.py

format: env ## put the code into its form
	$(RUN) -m ruff format .
	$(RUN) -m ruff check --fix .

bench: env ## measure; BENCH="--help" tells how to pick
	$(RUN) -m bench $(BENCH)

env: $(STAMP) ## the virtual environment, from requirements-dev.lock

$(STAMP): requirements-dev.lock pyproject.toml setup.py Makefile
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "RestMQ needs Python 3.11 or later: make PYTHON=python3.11 ..." >&2; exit 1; }
	@$(RUN) -m pip --version >/dev/null 2>&1 || { \
		echo "making $(VENV)"; $(PYTHON) -m venv --clear $(VENV); }
	@echo '*' > $(VENV)/.gitignore
	$(RUN) -m pip install --quiet --no-deps --require-hashes --only-binary :all: \
		-r requirements-dev.lock
	$(RUN) -m pip install --quiet --no-deps --no-index --no-build-isolation --editable .
	@# cyclone's own plug-in for twistd imports `imp`, which Python 3.12 has no more: each twistd
	@# would print a traceback. Nobody here needs it.
	@rm -f $(VENV)/lib/python3.*/site-packages/twisted/plugins/cyclone_plugin.py
	@# Twisted keeps a list of plug-ins; written now, it need not be writable for who runs it later.
	$(RUN) -c 'from twisted.plugin import IPlugin, getPlugins; list(getPlugins(IPlugin))'
	@echo "$(CURDIR)" > $@

lock: ## requirements*.lock anew from requirements*.in; LOCK_FLAGS=--upgrade for newer releases
	@command -v $(UV) >/dev/null \
		|| { echo "make lock needs uv: https://docs.astral.sh/uv/, or make UV=... lock" >&2; exit 1; }
	$(LOCK) requirements.in --output-file requirements.lock
	$(LOCK) requirements-dev.in --output-file requirements-dev.lock

deb: env ## a Debian package with its own environment, in ./dist
	@deploy/deb/build $(RUN) dist

installer: env ## one file that installs the server elsewhere, in ./dist
	@deploy/installer/build $(RUN) dist

clean: ## take away what can be made again; ./data stays
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .hypothesis .mypy_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
	rm -f twisted/plugins/dropin.cache
