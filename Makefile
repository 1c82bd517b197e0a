# The index of commands: `make help` lists them. All generated files are under var/, which may be deleted at any time.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

VAR ?= $(CURDIR)/var
override VAR := $(abspath $(VAR))
PYTHON ?= python3.11
SOURCE ?= sample
CONFIG ?= $(if $(filter-out sample,$(SOURCE)),configs/default.yaml,configs/sample.yaml)
MODEL ?=
VERSION ?=
REASON ?=
REFERENCE ?=
CURRENT ?=
HOURS ?= 168
WATCH ?=
DESTINATION ?= $(VAR)/catalogue
MODE ?= add
# Retention of outputs, cached features and checkpoints of local runs: days since the last use, and total size.
KEEP_DAYS ?= 30
KEEP_GB ?= 10
# Number of newest versions that `make prune` never deletes.
KEEP_VERSIONS ?= 10
FORGET ?=
# Recipes read these from the environment, so that quotes and spaces in the values are safe.
export SOURCE CONFIG MODEL VERSION REASON REFERENCE CURRENT HOURS DESTINATION MODE

# Docker, and extra options of its builds, as `--network host` or `--secret id=pip,src=pip.conf` for a mirror.
DOCKER ?= docker
COMPOSE ?= $(DOCKER) compose
BUILD_FLAGS ?=
# default: the value in the stack's .env
TORCH_INDEX ?= $(shell sed -n s/^TORCH_INDEX=//p .env 2>/dev/null)

# On a cluster. PROFILE=cpu: no pod requests a GPU. IMAGE= of the pods, without tag; TAG= its tag, empty: the commit.
# DRY_RUN=1 contacts no cluster.
PROFILE ?= gpu
IMAGE ?=
TAG ?=
DRY_RUN ?=
FLYTE_CONFIG ?= flyte.config
CLUSTER = $(BIN)/python -m rakuten_tasks.runtime.cluster
ON_CLUSTER = --config "$(FLYTE_CONFIG)" --profile "$(PROFILE)" --image "$(IMAGE)" --tag "$(TAG)"

BIN := $(VAR)/venv/bin
READY := $(VAR)/venv/ready
export RAKUTEN_VAR := $(VAR)
# No __pycache__ in the tree; pip compiled the installed packages.
export PYTHONDONTWRITEBYTECODE := 1
export MLFLOW_DISABLE_TELEMETRY := true
# Idle threads spin for some microseconds, then sleep. With libgomp's default of milliseconds two processes on two cores
# slow each other down a hundredfold; without spinning an LSTM trains three times slower.
export GOMP_SPINCOUNT ?= 1000
export HYPOTHESIS_STORAGE_DIRECTORY := $(VAR)/cache/hypothesis
# Flyte writes the outputs of local tasks under TMPDIR: each run gets a folder of its own, and old ones are deleted.
RUN = $(BIN)/python -m rakuten_tasks.runtime.housekeeping run --days $(or $(KEEP_DAYS),30) --gigabytes $(or $(KEEP_GB),10) --
PYFLYTE = $(RUN) $(BIN)/pyflyte run

.PHONY: help
help: ## list the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-18s %s\n", $$1, $$2}'
	@echo "SOURCE= folder or address of a catalogue, CONFIG= configuration file, MODEL= name of a registered model"

ifeq ($(wildcard $(BIN)/python),)  # the marker file exists without the installation
.PHONY: $(READY)
endif

.PHONY: setup
setup: $(READY) ## only install, into var/venv
$(READY): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) not found: install Python 3.11, or name it with PYTHON="; exit 1; }
	@mkdir -p $(VAR)
	@exec 9> $(VAR)/setup.lock; if command -v flock > /dev/null; then flock 9; fi; \
	if [ -x $(BIN)/python ] && [ $@ -nt pyproject.toml ] && [ $@ -nt constraints.txt ]; then exit; fi; \
	echo "installing into $(VAR)/venv: once, about four minutes"; \
	$(PYTHON) -m venv $(VAR)/venv; \
	$(BIN)/pip install -qq --constraint constraints.txt --editable '.[serve,task,dev]'; \
	touch $@

.PHONY: train
train: $(READY) ## train on a catalogue and register the model (SOURCE=, CONFIG=, MODEL=)
	@test -f "$$CONFIG" || { echo "CONFIG=$$CONFIG: no such file, see configs/"; exit 1; }
	@$(PYFLYTE) workflows/training.py train_classifier --source "$$SOURCE" --config "$$CONFIG" --model "$$MODEL" \
	  --report $(VAR)/reports/training.json

.PHONY: predict
predict: $(READY) ## predict the catalogue's unlabelled products with the champion (SOURCE=, MODEL=)
	@$(PYFLYTE) workflows/prediction.py predict_catalogue --source "$$SOURCE" --model "$$MODEL" \
	  --output $(VAR)/predictions

.PHONY: etl
etl: $(READY) ## publish SOURCE= as the next version at DESTINATION= (MODE=replace: without the current products)
	@$(PYFLYTE) workflows/etl.py publish_catalogue --source "$$SOURCE" --destination "$$DESTINATION" \
	  $(if $(filter-out configs/default.yaml configs/sample.yaml,$(CONFIG)),--config "$$CONFIG") \
	  --mode "$$MODE"

.PHONY: mlflow
mlflow: $(READY) ## MLflow's web interface on port 5001
	@MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false $(BIN)/mlflow server --port 5001 --workers 1 \
	  --backend-store-uri "$$($(BIN)/python -m rakuten_tasks.registry address)"

.PHONY: versions
versions: $(READY) ## list registered versions, their aliases and the audit trail (MODEL=)
	@$(BIN)/python -m rakuten_tasks.registry versions --model "$$MODEL"

.PHONY: lineage
lineage: $(READY) ## show the origin of VERSION=: run, Decks, configuration, catalogue, quarantine, code (MODEL=)
	@test -n "$$VERSION" || { echo "VERSION= is missing: \`make versions\` lists them"; exit 1; }
	@$(BIN)/python -m rakuten_tasks.registry lineage "$$VERSION" --model "$$MODEL"

.PHONY: reproduce
reproduce: $(READY) ## train VERSION= again from its lineage, and compare (MODEL=; SOURCE= if the catalogue was moved)
	@test -n "$$VERSION" || { echo "VERSION= is missing: \`make versions\` lists them"; exit 1; }
	@FLYTE_LOCAL_CACHE_ENABLED=false $(PYFLYTE) workflows/training.py reproduce_version --version "$$VERSION" \
	  --model "$$MODEL" $(if $(filter-out file,$(origin SOURCE)),--source "$$SOURCE") --report $(VAR)/reports/reproduction.json

.PHONY: deck
deck: $(READY) ## open the Decks of the last training
	@test -f $(VAR)/reports/decks/index.html || { echo "no Decks yet: \`make train\` writes them"; exit 1; }
	@echo $(VAR)/reports/decks/index.html
	@$(BIN)/python -m webbrowser -t "file://$(VAR)/reports/decks/index.html" > /dev/null 2>&1 || true

.PHONY: promote
promote: $(READY) ## promote VERSION= to champion by hand (MODEL=, REASON=)
	@test -n "$$VERSION" || { echo "VERSION= is missing: \`make versions\` lists them"; exit 1; }
	@$(BIN)/python -m rakuten_tasks.registry promote "$$VERSION" --model "$$MODEL" --reason "$$REASON"

.PHONY: rollback
rollback: $(READY) ## promote the previous champion again (MODEL=, REASON=)
	@$(BIN)/python -m rakuten_tasks.registry rollback --model "$$MODEL" --reason "$$REASON"

.PHONY: prune
prune: $(READY) ## delete old versions without alias (KEEP_VERSIONS=, MODEL=), versions without files (FORGET=1: all), old runs without version (KEEP_DAYS=)
	@$(BIN)/python -m rakuten_tasks.registry prune --model "$$MODEL" --keep $(or $(KEEP_VERSIONS),10) --days $(or $(KEEP_DAYS),30) \
	  $(if $(FORGET),--forget)

.PHONY: register
register: $(READY) ## register workflows and launch plans on the cluster (PROFILE=cpu|gpu, IMAGE=, TAG=, VERSION=, DRY_RUN=1)
	@$(CLUSTER) register $(ON_CLUSTER) --version "$$VERSION" $(if $(filter-out 0,$(DRY_RUN)),--dry-run)

.PHONY: remote
remote: $(READY) ## train on the cluster (SOURCE=, CONFIG=, MODEL=, PROFILE=cpu|gpu, IMAGE=, TAG=)
	@test -f "$$CONFIG" || { echo "CONFIG=$$CONFIG: no such file, see configs/"; exit 1; }
	@$(CLUSTER) train $(ON_CLUSTER) --source "$$SOURCE" --training "$$CONFIG" --model "$$MODEL"

.PHONY: activate
activate: $(READY) ## activate the schedules of a registered version (VERSION=, or PROFILE=, IMAGE=, TAG= as registered)
	@$(CLUSTER) activate $(ON_CLUSTER) --version "$$VERSION"

.PHONY: deactivate
deactivate: $(READY) ## stop the schedules of the launch plans; running executions go on
	@$(CLUSTER) deactivate --config "$(FLYTE_CONFIG)"

.PHONY: bench
bench: $(READY) ## measure speeds, as ratios within one run, and growth and cost
	@failed=0; for name in text_preparation text_training photo_features photo_training photo_limits; do \
	  $(BIN)/python -m benchmarks.$$name || failed=1; done; \
	$(MAKE) --no-print-directory --keep-going bench-growth bench-cost || failed=1; exit $$failed

.PHONY: bench-growth
bench-growth: $(READY) ## measure time and memory of a training on 1, 2, 4 and 8 times the products, and the overhead of Flyte
	@$(RUN) $(BIN)/python -m benchmarks.growth

.PHONY: bench-quality
bench-quality: $(READY) ## evaluate every member, the pool and the baselines on three seeds (SOURCE= one or several, CONFIG=)
	@$(RUN) $(BIN)/python -m benchmarks.quality $(foreach source,$(SOURCE),--source "$(source)") --config "$$CONFIG"

.PHONY: bench-vectors
bench-vectors: $(READY) ## measure time and memory of the text encoder, on texts as long as the challenge's (PRODUCTS=)
	@$(BIN)/python -m benchmarks.vectors $(if $(PRODUCTS),--products $(PRODUCTS))

.PHONY: bench-cost
bench-cost: $(READY) ## measure the cost of a thousand products by step, and extrapolate to other sizes (SOURCE=, PRODUCTS=)
	@$(BIN)/python -m benchmarks.cost --source "$$SOURCE" $(if $(PRODUCTS),--products $(PRODUCTS))

.PHONY: clean
clean: $(READY) ## delete outputs, cached results and checkpoints of local runs; models, reports and predictions stay
	@$(BIN)/python -m rakuten_tasks.runtime.housekeeping clean

.PHONY: test
test: $(READY) ## run the quick tests
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n auto --dist loadfile

.PHONY: test-all
test-all: test ## run all tests: after the quick ones those with pods, a browser, several processes and failing servers
	@$(BIN)/python -m pytest -m slow -n auto --dist loadfile

.PHONY: lint
lint: $(READY) ## run ruff, mypy and import-linter
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports --no-logo --cache-dir $(VAR)/cache/import-linter

.PHONY: hooks
hooks: $(READY) ## run the checks of `make lint` at every commit (pre-commit)
	@$(BIN)/pre-commit install

.PHONY: format
format: $(READY) ## format the code with ruff
	@$(BIN)/ruff check --fix . && $(BIN)/ruff format .

.PHONY: docs
docs: $(READY) ## write docs/reference from the code
	@$(BIN)/python -m docs.generate

.PHONY: api
api: $(READY) ## serve the champion on port 8000: demo page, /predict, /docs (MODEL=, SERVE_...: docs/reference/environment.md)
	@exec $(BIN)/python -m serving

.PHONY: bench-serving
bench-serving: $(READY) ## compare the app with the bare predictor and a plain FastAPI endpoint, on the same bundle
	@$(BIN)/python -m benchmarks.serving

.PHONY: monitor
monitor: $(READY) ## check for drift (REFERENCE=, CURRENT=: two catalogues or CSVs; HOURS= of the prediction log; MODEL=)
	@$(BIN)/python -m rakuten_tasks.monitoring --reference "$$REFERENCE" --current "$$CURRENT" --hours "$$HOURS" \
	  --model "$$MODEL"

.PHONY: bench-drift
bench-drift: $(READY) ## measure how often drift is reported, without drift and with simulated drifts, for the sample's champion
	@$(BIN)/python -m benchmarks.drift

.PHONY: bench-drift-report
bench-drift-report: $(READY) ## measure time and memory of the drift report, compared with Evidently's preset
	@$(BIN)/python -m benchmarks.drift_report

.PHONY: dashboard
dashboard: $(READY) ## show models, runs, drift, API, log and schedules (WATCH=1: refresh continuously)
	@$(BIN)/python -m rakuten_tasks.dashboard --model "$$MODEL" $(if $(WATCH),--watch)

# Their drift check reads the catalogue's unlabelled products: the prediction log exists only after a server has run.
.PHONY: full-run
full-run: train no-train-run ## train, predict, monitor, dashboard (SOURCE=, CONFIG=, MODEL=)

.PHONY: full-run-api
full-run-api: full-run api ## full-run, then api

.PHONY: no-train-run
no-train-run: $(READY) ## predict, monitor, dashboard with the current champion (SOURCE=, MODEL=)
	@$(MAKE) --no-print-directory predict
	@CURRENT="$${CURRENT:-$$SOURCE}" $(MAKE) --no-print-directory monitor
	@$(MAKE) --no-print-directory dashboard

GIT_COMMIT = $(shell git describe --always --dirty --abbrev=40 --exclude='*' 2>/dev/null || echo unknown)

.PHONY: image
image: ## build the images rakuten-task and rakuten-serve (TORCH_INDEX=, BUILD_FLAGS=)
	@for target in task serve; do DOCKER_BUILDKIT=1 $(DOCKER) build $(BUILD_FLAGS) --build-arg TORCH_INDEX="$(TORCH_INDEX)" \
	  --build-arg GIT_COMMIT=$(GIT_COMMIT) --target $$target --tag rakuten-$$target .; done

.PHONY: image-test
image-test: $(READY) image ## build and run both images: a pod without network, the API from start to stop
	@DOCKER="$(DOCKER)" $(BIN)/python -m tests.e2e.images

# The stack reads MODEL, CONFIG and others from .env, unless they are set on make's command line
COMPOSED = env $(foreach name,SOURCE CONFIG MODEL VERSION REASON REFERENCE CURRENT HOURS,$(if $(filter file,$(origin $(name))),-u $(name))) \
  $(COMPOSE)

.PHONY: up
up: .env ## start the stack of compose.yaml: MLflow, API, trainer, drift watcher, Prometheus, Grafana
	@GIT_COMMIT=$(GIT_COMMIT) $(COMPOSED) up --detach --build
	@echo "API http://127.0.0.1:8000, MLflow http://127.0.0.1:5001, Grafana http://127.0.0.1:3000 (admin, GRAFANA_PASSWORD of .env)"
	@echo "/ready returns 200 once \`$(COMPOSE) logs -f trainer\` has registered a champion"

.PHONY: down
down: ## stop the stack; its volumes stay
	@[ -e .env ] || export POSTGRES_PASSWORD=- S3_SECRET_KEY=- GRAFANA_PASSWORD=-; $(COMPOSED) down --remove-orphans

# Each time, empty passwords in .env are filled in; the others stay.
.PHONY: ALWAYS
.env: .env.example ALWAYS
	@[ -e $@ ] || { umask 077; cp $< $@; echo "wrote .env with random passwords: keep it, the volumes use them"; }
	@while name=$$(grep -m1 -oE '^[A-Z0-9_]*(PASSWORD|SECRET_KEY)=$$' $@); do \
	  sed -i "s/^$$name$$/$$name$$(od -An -N 24 -tx1 /dev/urandom | tr -d ' \n')/" $@; done
