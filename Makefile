# Everything here works in a fresh clone with Python 3.11 or newer: each target first makes the virtual
# environment .venv in the checkout, once, and again when pyproject.toml changes or the checkout has moved.

PYTHON ?=
VENV := .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready

# The stamp holds the path of the checkout that it was made for. A moved or copied checkout, or one whose
# interpreter is gone, reads back something else and is set up anew: an editable install is an absolute path.
ifneq ($(shell $(RUN) -c 'print(open("$(READY)").read())' 2>/dev/null),$(CURDIR))
.PHONY: $(READY)
endif

.PHONY: help demo test lint format bench bench-snapshots compare coverage clean

help:
	@echo 'make demo      run the example cluster: three durable nodes, a live view, keys to kill them'
	@echo 'make test      run the tests'
	@echo 'make lint      ruff check, ruff format --check, mypy, pyright'
	@echo 'make format    let ruff sort imports and format'
	@echo 'make bench     measure writes per second with 1, 64 and 1024 callers'
	@echo 'make bench-snapshots  the figures of starting, catching up and installing snapshots, beside their goals'
	@echo 'make compare   the same beside other systems, as far as benchmarks/peers/install.sh has installed them'
	@echo 'make coverage  run the tests and report the branches that they miss'
	@echo 'make clean     remove .venv and every cache'
	@echo 'Each sets itself up on first use; PYTHON=/path/to/python chooses the interpreter.'

demo: $(READY)
	@$(RUN) examples/cluster.py

test: $(READY)
	$(RUN) -m pytest

# Every tool has its say before the target fails.
lint: $(READY)
	@status=0; \
	for tool in 'ruff check' 'ruff format --check' 'mypy' 'pyright --pythonpath $(RUN)'; do \
	    echo "$$tool"; $(RUN) -m $$tool || status=1; \
	done; \
	exit $$status

format: $(READY)
	$(RUN) -m ruff check --select I --fix
	$(RUN) -m ruff format

bench: $(READY)
	@$(RUN) benchmarks/throughput.py --callers 1,64,1024 --seconds 2

bench-snapshots: $(READY)
	@$(RUN) benchmarks/snapshots.py

compare: $(READY)
	@mkdir -p build
	@$(RUN) benchmarks/compare.py --plot build/compare.svg

coverage: $(READY)
	$(RUN) -m coverage run -m pytest
	$(RUN) -m coverage report

# A candidate is run, not looked up: a version manager may leave a command that only fails, and a distribution
# may leave out what makes a virtual environment.
$(READY): pyproject.toml
	@for candidate in $(PYTHON) python3.13 python3.12 python3.11 python3; do \
	    if "$$candidate" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; \
	    then found="$$candidate"; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
	    echo 'No Python >= 3.11 with venv and ensurepip was found (tried: $(PYTHON) python3.13 python3.12' \
	        'python3.11 python3). Install one (on Debian also python3-venv), or name it: make PYTHON=...' >&2; \
	    exit 1; \
	fi; \
	echo "Setting up $(VENV) with $$("$$found" --version): trio_raft, its example's display, the test and lint"; \
	echo 'tools. This takes about a minute and happens once.'; \
	"$$found" -m venv --clear $(VENV)
	@$(RUN) -m pip install --quiet --disable-pip-version-check --editable '.[demo,test,dev]'
	@printf '%s' '$(CURDIR)' > $@

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage .coverage.* build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
