# The index of commands: `make help` lists them. What they generate lies under var/, deletable at any time.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

VAR ?= $(CURDIR)/var
PYTHON ?= python3.11
SOURCE ?= sample
CONFIG ?= configs/default.yaml
MODEL ?=
VERSION ?=
REASON ?=
# Read by the recipes from their environment, so that quotes and spaces in them do no harm.
export SOURCE CONFIG MODEL VERSION REASON

BIN := $(VAR)/venv/bin
READY := $(VAR)/venv/ready
export RAKUTEN_VAR := $(VAR)
# No __pycache__ in the tree; what is installed was compiled by pip.
export PYTHONDONTWRITEBYTECODE := 1
export MLFLOW_DISABLE_TELEMETRY := true
export HYPOTHESIS_STORAGE_DIRECTORY := $(VAR)/cache/hypothesis
# Flyte keeps the outputs of local tasks under TMPDIR: a folder for each run, of which the last five stay.
PYFLYTE = mkdir -p $(VAR)/flyte && { ls -dt $(VAR)/flyte/*/ 2>/dev/null || true; } | tail -n +5 | xargs -r rm -rf \
  && TMPDIR=$$(mktemp -d $(VAR)/flyte/XXXXXX) $(BIN)/pyflyte run

.PHONY: help
help: ## list the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'
	@echo "SOURCE= a catalogue's folder or address, CONFIG= a configuration, MODEL= a registered model's name"

.PHONY: setup
setup: $(READY) ## install into var/venv, alone
$(READY): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) not found: install Python 3.11, or name it with PYTHON="; exit 1; }
	@echo "installing into $(VAR)/venv: once, about four minutes"
	@$(PYTHON) -m venv $(VAR)/venv
	@$(BIN)/pip install -qq --constraint constraints.txt --editable '.[dev]'
	@touch $@

.PHONY: train
train: $(READY) ## from catalogue to registered champion (SOURCE=, CONFIG=, MODEL=)
	@test -f "$$CONFIG" || { echo "CONFIG=$$CONFIG: no such file, see configs/"; exit 1; }
	@$(PYFLYTE) workflows/training.py train_classifier --source "$$SOURCE" --config "$$CONFIG" --model "$$MODEL" \
	  --report $(VAR)/reports/training.json

.PHONY: predict
predict: $(READY) ## label the catalogue's unlabelled products with the champion (SOURCE=, MODEL=)
	@$(PYFLYTE) workflows/prediction.py predict_catalogue --source "$$SOURCE" --model "$$MODEL" \
	  --output $(VAR)/predictions

.PHONY: mlflow
mlflow: $(READY) ## MLflow's pages on port 5001
	@MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false $(BIN)/mlflow server --port 5001 --workers 1 \
	  --backend-store-uri "$$($(BIN)/python -m rakuten_tasks.registry address)"

.PHONY: versions
versions: $(READY) ## registered versions, their aliases and the audit trail (MODEL=)
	@$(BIN)/python -m rakuten_tasks.registry versions --model "$$MODEL"

.PHONY: promote
promote: $(READY) ## make VERSION= the champion by hand (MODEL=, REASON=)
	@test -n "$$VERSION" || { echo "VERSION= is missing: \`make versions\` lists them"; exit 1; }
	@$(BIN)/python -m rakuten_tasks.registry promote "$$VERSION" --model "$$MODEL" --reason "$$REASON"

.PHONY: rollback
rollback: $(READY) ## back to the champion before this one (MODEL=, REASON=)
	@$(BIN)/python -m rakuten_tasks.registry rollback --model "$$MODEL" --reason "$$REASON"

.PHONY: bench
bench: $(READY) ## speeds, each as a ratio to something measured in the same run
	@for name in fusion_search text_preparation photo_features; do $(BIN)/python -m benchmarks.$$name; done

.PHONY: bench-seeds
bench-seeds: $(READY) ## three seeds on a catalogue that holds Y_test.csv (SOURCE=)
	@mkdir -p $(VAR)/flyte && TMPDIR=$(VAR)/flyte $(BIN)/python -m benchmarks.seeds --source "$$SOURCE"

.PHONY: test
test: $(READY) ## the quick tests
	@$(BIN)/python -m pytest -m "not slow"

.PHONY: test-all
test-all: $(READY) ## all tests
	@$(BIN)/python -m pytest

.PHONY: lint
lint: $(READY) ## ruff and mypy
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

.PHONY: format
format: $(READY) ## ruff's formatter
	@$(BIN)/ruff check --fix . && $(BIN)/ruff format .

.PHONY: api
api: $(READY) ## serve the champion on port 8000: page, /predict, /docs (MODEL=, and SERVE_... of the README)
	@exec $(BIN)/python -m serving

.PHONY: bench-serving
bench-serving: $(READY) ## the app beside the bare predictor and an ordinary endpoint, same bundle, same run
	@$(BIN)/python -m benchmarks.serving
