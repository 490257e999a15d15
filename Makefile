# Every target sets itself up: it needs Python 3.10 or newer, make and a C compiler, and puts the rest into $(VENV).

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := pyproject.toml setup.py $(wildcard trtkit/*/*.c)
INSTALL := $(BIN)/pip --disable-pip-version-check install -qq --constraint constraints.txt

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test lint bench constraints clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.demo ## Deploy a pretrained EfficientNet-Lite0 to several targets and classify photographs
	@$(BIN)/python demo/run.py

test: lint ## Check style, types and imports, then run the tests; TESTS="tests/graph -x" for a part
	@echo "pytest"
	@$(BIN)/python -m pytest $(TESTS)

lint: $(VENV)/.dev ## Check style, types and imports
	@echo "ruff check"
	@$(BIN)/ruff check .
	@echo "mypy"
	@$(BIN)/mypy
	@echo "lint-imports"
	@$(BIN)/lint-imports

bench: $(if $(RUN),$(VENV)/.dev) ## List the benchmarks, or run one: make bench RUN=benchmarks/calibration.py
	@$(if $(RUN),$(BIN)/python $(RUN),awk 'FNR == 1 {gsub(/"""/, ""); printf "%-36s %s\n", FILENAME, $$0}' benchmarks/*.py)

constraints: ## Renew constraints.txt with the newest versions that fit together; torch keeps its pin
	@echo "Installing the newest versions into .venv-constraints"
	@$(PYTHON) -m venv --clear .venv-constraints
	@.venv-constraints/bin/pip install -qq "$$(grep -o '^torch==[0-9.]*' constraints.txt)"
	@.venv-constraints/bin/pip install -qq -e '.[dev]'
	@.venv-constraints/bin/python .ci/constraints.py > constraints.new
	@mv constraints.new constraints.txt
	@echo "Wrote constraints.txt. Run: make test"

clean: ## Remove the environment, caches and what the demo wrote
	@rm -rf $(VENV) .venv-constraints build dist demo/out *.egg-info trtkit/*/*.so .cache .hypothesis .mypy_cache \
		.ruff_cache .pytest_cache .import_linter_cache

$(BIN)/pip:
	@echo "Creating $(VENV)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "trtkit needs Python 3.10 or newer. Run: make PYTHON=python3.11")'
	@$(PYTHON) -m venv $(VENV)

# torch comes first and by its exact pin: a range would let pip take the far larger CUDA build.
$(VENV)/.torch: constraints.txt | $(BIN)/pip
	@echo "Installing torch into $(VENV)"
	@$(INSTALL) "$$(grep -o '^torch==[0-9.]*' constraints.txt)"
	@touch $@

$(VENV)/.demo: $(INSTALLED) constraints.txt $(VENV)/.torch
	@echo "Installing what the demo needs into $(VENV)"
	@$(INSTALL) --editable '.[demo]'
	@touch $@

$(VENV)/.dev: $(INSTALLED) constraints.txt $(VENV)/.torch
	@echo "Installing what the tests need into $(VENV)"
	@$(INSTALL) --editable '.[dev]'
	@touch $@ $(VENV)/.demo
