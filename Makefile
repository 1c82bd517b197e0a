# The index of commands: `make help` lists them. All generated files are under var/, which may be deleted at any time.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

# A value from outside is taken as it is: make would expand `$` in it.
NAMED := VAR SOURCE CONFIG MODEL VERSION REASON REFERENCE CURRENT HOURS DESTINATION MODE PROFILE IMAGE TAG FLYTE_CONFIG PYTHON
$(foreach name,$(NAMED),$(if $(filter-out undefined file,$(origin $(name))),$(eval override $(name) := $$(value $(name)))))

define newline


endef
# not $(abspath): it splits at blanks
override VAR := $(if $(findstring $(newline)/,$(newline)$(VAR)),$(VAR),$(CURDIR)/$(or $(VAR),var))
# Scripts of a venv cannot start from a path with the first four, MLflow's database not with %, and Flyte reads `::` as a
# chain of addresses.
$(foreach text,$$ " ` \ % ::,$(if $(findstring $(text),$(VAR)),$(error VAR=$(VAR): $(text) cannot be in its path: set VAR= to another folder)))
$(if $(findstring $(newline),$(VAR)),$(error VAR=$(subst $(newline), ,$(VAR)): a line break cannot be in its path: set VAR= to another folder))
PYTHON ?= python3.11
SOURCE ?= sample
CONFIG ?= $(if $(findstring |$(SOURCE)|,|sample|),configs/sample.yaml,configs/default.yaml)
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
# On a cluster. PROFILE=cpu: no pod requests a GPU. IMAGE= of the pods, without tag; TAG= its tag, empty: the commit.
# DRY_RUN=1 contacts no cluster.
PROFILE ?= gpu
IMAGE ?=
TAG ?=
DRY_RUN ?=
FLYTE_CONFIG ?= flyte.config
# Recipes read these from the environment, so that quotes and spaces in the values are safe.
export SOURCE CONFIG MODEL VERSION REASON REFERENCE CURRENT HOURS DESTINATION MODE PROFILE IMAGE TAG FLYTE_CONFIG PYTHON

# Docker, and extra options of its builds, as `--network host` or `--secret id=pip,src=pip.conf` for a mirror.
DOCKER ?= docker
COMPOSE ?= $(DOCKER) compose
BUILD_FLAGS ?=
# default: the value in the stack's .env
TORCH_INDEX ?= $(shell sed -n s/^TORCH_INDEX=//p .env 2>/dev/null)

CLUSTER = $(BIN)/python -m rakuten_tasks.runtime.cluster
ON_CLUSTER = --config "$$FLYTE_CONFIG" --profile "$$PROFILE" --image "$$IMAGE" --tag "$$TAG"

# The shell reads the folder, which may have blanks, from the environment; make itself has no name with it.
export RAKUTEN_VAR := $(VAR)
FOLDER := "$$RAKUTEN_VAR"
BIN := $(FOLDER)/venv/bin
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

# A lock, as two commands may begin at once. Read what is there first: the folder may be for reading only.
INSTALLED = [ -x $(BIN)/python ] && [ $(FOLDER)/venv/ready -nt pyproject.toml ] && [ $(FOLDER)/venv/ready -nt constraints.txt ]
.PHONY: setup
setup: ## only install, into var/venv
	@if $(INSTALLED); then exit; fi; \
	command -v "$$PYTHON" > /dev/null || { echo "$$PYTHON not found: install Python 3.11, or name it with PYTHON="; exit 1; }; \
	mkdir -p $(FOLDER); exec 9> $(FOLDER)/setup.lock; if command -v flock > /dev/null; then flock 9; fi; \
	if $(INSTALLED); then exit; fi; \
	echo "installing into $$RAKUTEN_VAR/venv: once, about four minutes"; \
	"$$PYTHON" -m venv $(FOLDER)/venv; \
	$(BIN)/pip install -qq --constraint constraints.txt --editable '.[serve,task,dev]'; \
	touch $(FOLDER)/venv/ready

.PHONY: train
train: setup ## train on a catalogue and register the model (SOURCE=, CONFIG=, MODEL=)
	@test -f "$$CONFIG" || { echo "CONFIG=$$CONFIG: no such file, see configs/"; exit 1; }
	@$(PYFLYTE) workflows/training.py train_classifier --source "$$SOURCE" --config "$$CONFIG" --model "$$MODEL" \
	  --report $(FOLDER)/reports/training.json

.PHONY: predict
predict: setup ## predict the catalogue's unlabelled products with the champion (SOURCE=, MODEL=)
	@$(PYFLYTE) workflows/prediction.py predict_catalogue --source "$$SOURCE" --model "$$MODEL" \
	  --output $(FOLDER)/predictions

.PHONY: etl
etl: setup ## publish SOURCE= as the next version at DESTINATION= (MODE=replace: without the current products)
	@$(PYFLYTE) workflows/etl.py publish_catalogue --source "$$SOURCE" --destination "$$DESTINATION" \
	  $(if $(filter-out configs/default.yaml configs/sample.yaml,$(CONFIG)),--config "$$CONFIG") \
	  --mode "$$MODE"

.PHONY: mlflow
mlflow: setup ## MLflow's web interface on port 5001
	@MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false $(BIN)/mlflow server --port 5001 --workers 1 \
	  --backend-store-uri "$$($(BIN)/python -m rakuten_tasks.registry address)"

.PHONY: versions
versions: setup ## list registered versions, their aliases and the audit trail (MODEL=)
	@$(BIN)/python -m rakuten_tasks.registry versions --model "$$MODEL"

.PHONY: lineage
lineage: setup ## show the origin of VERSION=: run, Decks, configuration, catalogue, quarantine, code (MODEL=)
	@test -n "$$VERSION" || { echo "VERSION= is missing: \`make versions\` lists them"; exit 1; }
	@$(BIN)/python -m rakuten_tasks.registry lineage --model "$$MODEL" -- "$$VERSION"

.PHONY: reproduce
reproduce: setup ## train VERSION= again from its lineage, and compare (MODEL=; SOURCE= if the catalogue was moved)
	@test -n "$$VERSION" || { echo "VERSION= is missing: \`make versions\` lists them"; exit 1; }
	@FLYTE_LOCAL_CACHE_ENABLED=false $(PYFLYTE) workflows/training.py reproduce_version --version "$$VERSION" \
	  --model "$$MODEL" $(if $(filter-out file,$(origin SOURCE)),--source "$$SOURCE") --report $(FOLDER)/reports/reproduction.json

.PHONY: deck
deck: setup ## open the Decks of the last training
	@test -f $(FOLDER)/reports/decks/index.html || { echo "no Decks yet: \`make train\` writes them"; exit 1; }
	@echo $(FOLDER)/reports/decks/index.html
	@$(BIN)/python -c 'import os, pathlib, webbrowser; webbrowser.open_new_tab(pathlib.Path(os.environ["RAKUTEN_VAR"], "reports/decks/index.html").as_uri())' > /dev/null 2>&1 || true

.PHONY: promote
promote: setup ## promote VERSION= to champion by hand (MODEL=, REASON=)
	@test -n "$$VERSION" || { echo "VERSION= is missing: \`make versions\` lists them"; exit 1; }
	@$(BIN)/python -m rakuten_tasks.registry promote --model "$$MODEL" --reason "$$REASON" -- "$$VERSION"

.PHONY: rollback
rollback: setup ## promote the previous champion again (MODEL=, REASON=)
	@$(BIN)/python -m rakuten_tasks.registry rollback --model "$$MODEL" --reason "$$REASON"

.PHONY: prune
prune: setup ## close runs of lost trainings; delete old versions without alias (KEEP_VERSIONS=, MODEL=), versions without files (FORGET=1: all), old runs without version (KEEP_DAYS=)
	@$(CLUSTER) close-lost --config "$$FLYTE_CONFIG"
	@$(BIN)/python -m rakuten_tasks.registry prune --model "$$MODEL" --keep $(or $(KEEP_VERSIONS),10) --days $(or $(KEEP_DAYS),30) \
	  $(if $(FORGET),--forget)

.PHONY: register
register: setup ## register workflows and launch plans on the cluster (PROFILE=cpu|gpu, IMAGE=, TAG=, VERSION=, DRY_RUN=1)
	@$(CLUSTER) register $(ON_CLUSTER) --version "$$VERSION" $(if $(filter-out 0,$(DRY_RUN)),--dry-run)

.PHONY: remote
remote: setup ## train on the cluster (SOURCE=, CONFIG=, MODEL=, PROFILE=cpu|gpu, IMAGE=, TAG=)
	@test -f "$$CONFIG" || { echo "CONFIG=$$CONFIG: no such file, see configs/"; exit 1; }
	@$(CLUSTER) train $(ON_CLUSTER) --source "$$SOURCE" --training "$$CONFIG" --model "$$MODEL"

.PHONY: activate
activate: setup ## activate the schedules of a registered version (VERSION=, or PROFILE=, IMAGE=, TAG= as registered)
	@$(CLUSTER) activate $(ON_CLUSTER) --version "$$VERSION"

.PHONY: deactivate
deactivate: setup ## stop the schedules of the launch plans; running executions go on
	@$(CLUSTER) deactivate --config "$$FLYTE_CONFIG"

.PHONY: bench
bench: setup ## measure speeds, as ratios within one run
	@failed=0; for name in imports text_preparation text_training photo_features photo_training photo_limits; do \
	  $(BIN)/python -m benchmarks.$$name || failed=1; done; exit $$failed

.PHONY: bench-scale
bench-scale: setup ## measure memory, time, files and literals of every step on made-up catalogues; fails if they grow too much (ROWS=)
	@$(BIN)/python -m benchmarks.scale $(if $(ROWS),--rows $(ROWS))

.PHONY: bench-quality
bench-quality: setup ## evaluate every member, the pool and the baselines on three seeds (SOURCE= one or several, CONFIG=)
	@$(RUN) $(BIN)/python -m benchmarks.quality $(foreach source,$(SOURCE),--source "$(source)") --config "$$CONFIG"

.PHONY: bench-vectors
bench-vectors: setup ## measure time and memory of the text encoder, on texts as long as the challenge's (PRODUCTS=)
	@$(BIN)/python -m benchmarks.vectors $(if $(PRODUCTS),--products $(PRODUCTS))

.PHONY: clean
clean: setup ## delete outputs, cached results and checkpoints of local runs; models, reports and predictions stay
	@$(BIN)/python -m rakuten_tasks.runtime.housekeeping clean

.PHONY: test
test: setup ## run the quick tests
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n auto --dist loadfile

.PHONY: test-all
test-all: test ## run all tests: after the quick ones those with pods, a browser, several processes and failing servers
	@$(BIN)/python -m pytest -m "slow and not stack" -n auto --dist loadfile

.PHONY: lint
lint: setup ## run ruff, mypy and import-linter
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports --no-logo --cache-dir $(FOLDER)/cache/import-linter

.PHONY: hooks
hooks: setup ## run the checks of `make lint` at every commit (pre-commit)
	@$(BIN)/pre-commit install

.PHONY: format
format: setup ## format the code with ruff
	@$(BIN)/ruff check --fix . && $(BIN)/ruff format .

.PHONY: docs
docs: setup ## write docs/reference from the code
	@$(BIN)/python -m docs.generate

.PHONY: api
api: setup ## serve the champion on port 8000: demo page, /predict, /docs (MODEL=, SERVE_...: docs/reference/environment.md)
	@exec $(BIN)/python -m serving

.PHONY: bench-serving
bench-serving: setup ## compare the app with the bare predictor and a plain FastAPI endpoint on a catalogue (SOURCE=, CONFIG=)
	@$(BIN)/python -m benchmarks.serving --source "$$SOURCE" --config "$$CONFIG"

.PHONY: monitor
monitor: setup ## check for drift (REFERENCE=, CURRENT=: two catalogues or CSVs; HOURS= of the prediction log; MODEL=)
	@$(BIN)/python -m rakuten_tasks.monitoring --reference "$$REFERENCE" --current "$$CURRENT" --hours "$$HOURS" \
	  --model "$$MODEL"

.PHONY: bench-drift
bench-drift: setup ## measure how often drift is reported, without drift and with simulated drifts, for the sample's champion
	@$(BIN)/python -m benchmarks.drift

.PHONY: bench-drift-report
bench-drift-report: setup ## measure time and memory of the drift report, compared with Evidently's preset
	@$(BIN)/python -m benchmarks.drift_report

.PHONY: dashboard
dashboard: setup ## show models, runs, drift, API, log and schedules (WATCH=1: refresh continuously)
	@$(BIN)/python -m rakuten_tasks.dashboard --model "$$MODEL" $(if $(WATCH),--watch)

# Their drift check reads the catalogue's unlabelled products: the prediction log exists only after a server has run.
.PHONY: full-run
full-run: train no-train-run ## train, predict, monitor, dashboard (SOURCE=, CONFIG=, MODEL=)

.PHONY: full-run-api
full-run-api: full-run api ## full-run, then api

.PHONY: no-train-run
no-train-run: setup ## predict, monitor, dashboard with the current champion (SOURCE=, MODEL=)
	@$(MAKE) --no-print-directory predict
	@CURRENT="$${CURRENT:-$$SOURCE}" $(MAKE) --no-print-directory monitor
	@$(MAKE) --no-print-directory dashboard

GIT_COMMIT = $(shell git describe --always --dirty --abbrev=40 --exclude='*' 2>/dev/null || echo unknown)

.PHONY: image
image: ## build the images rakuten-task and rakuten-serve (TORCH_INDEX=, BUILD_FLAGS=)
	@for target in task serve; do DOCKER_BUILDKIT=1 $(DOCKER) build $(BUILD_FLAGS) --build-arg TORCH_INDEX="$(TORCH_INDEX)" \
	  --build-arg GIT_COMMIT=$(GIT_COMMIT) --target $$target --tag rakuten-$$target .; done

.PHONY: image-test
image-test: setup image ## build and run both images: a pod without network, the API from start to stop
	@DOCKER="$(DOCKER)" $(BIN)/python -m tests.e2e.images

.PHONY: test-stack
test-stack: setup ## test all services of compose.yaml in containers, and kill each in turn (BUILD_FLAGS=; needs Docker)
	@DOCKER="$(DOCKER)" BUILD_FLAGS="$(BUILD_FLAGS)" TORCH_INDEX="$(TORCH_INDEX)" $(BIN)/python -m pytest -v tests/e2e/test_stack.py

# The stack reads MODEL, CONFIG and others from .env, unless they are set on make's command line
COMPOSED = env $(foreach name,SOURCE CONFIG MODEL VERSION REASON REFERENCE CURRENT HOURS,$(if $(filter file,$(origin $(name))),-u $(name))) \
  $(COMPOSE)

.PHONY: up
up: .env $(if $(BUILD_FLAGS),image) ## start the stack of compose.yaml: MLflow, API, trainer, drift watcher, Prometheus, Grafana (BUILD_FLAGS=)
	@DOCKER_BUILDKIT=1 GIT_COMMIT=$(GIT_COMMIT) $(COMPOSED) up --detach $(if $(BUILD_FLAGS),--no-build,--build)
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
