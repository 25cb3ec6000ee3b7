# The commands of this repository. `make` alone lists them; CI calls the same targets.

PYTHON ?= python3
MODEL ?= ViT-B-32
PRETRAINED ?=
PRECISION ?=

VENV := .venv
BIN := $(VENV)/bin
DEMO := .venv-demo
BENCH_MODEL := models/ViT-B-32-random-0
PEERS := .venv-bench
FLOOR := .venv-floor
PRODUCER := .venv-producer
CLIENT := .venv-client
FUZZ := .venv-fuzz
MUTANTS := .venv-mutants
RELEASE := .venv-release
TRIED := .venv-tried
MINUTES ?= 30
KILLS ?= 30
SEED ?=
SAMPLE ?=
# The library is searched without a model that has to be made.
BENCH_NEEDS := $(PEERS)/installed $(BENCH_MODEL)-fastembed/text/model.onnx
ifeq ($(sort $(filter --case=%,$(subst --case ,--case=,$(BENCH_FLAGS)))),--case=library)
BENCH_NEEDS := $(VENV)/installed
endif
# Tests mostly wait for processes that they started. One that is idle takes tests from another.
AT_ONCE ?= 6
# Where the environment forbids bytecode on disk, as many containers do, each of the some thousand
# processes that tests start would compile our modules anew.
unexport PYTHONDONTWRITEBYTECODE
# In CI a test that fails is tried once more: one in 4,500 real-process tests that meets a busy
# machine shall not hide what the others say. The summary names it and its first failure.
PYTEST := python -m pytest --numprocesses $(AT_ONCE) --dist worksteal $(if $(CI),--reruns 1)

.DEFAULT_GOAL := help
.PHONY: help demo test test-quick test-unit test-integration test-faults test-page test-apple rehearse-mac test-floor browser fuzz mutants \
        soak move-in kills parity lint format types docs export-model train-demo export-demo worker doctor bench bench-worker coverage outages model-switch db-up dist try-dist \
        check clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-18s %s\n", $$1, $$2 }' Makefile

demo: $(DEMO)/installed ## The whole job on a fresh machine, without torch: index, search, a contact sheet
	PATH="$(CURDIR)/$(DEMO)/bin:$$PATH" models/demo/run

test: $(VENV)/installed $(PRODUCER)/installed $(CLIENT)/installed browser ## Every test: unit, contract, integration, faults, page, parity against open_clip
	$(BIN)/$(PYTEST)

test-quick: $(VENV)/without-torch ## What finds most faults in under two minutes: unit, contract, quick integration
	$(BIN)/$(PYTEST) tests/unit tests/contract tests/integration -m 'unit or contract or quick'

test-unit: $(VENV)/without-torch ## The tests that need no server and no torch
	$(BIN)/$(PYTEST) tests/unit tests/contract

test-integration: $(VENV)/installed $(PRODUCER)/installed $(CLIENT)/installed ## Real commands, a real redis-server, a real store
	$(BIN)/$(PYTEST) tests/integration

test-faults: $(VENV)/without-torch ## Processes that are killed, hang or lie; a Redis and a store that fail
	$(BIN)/$(PYTEST) tests/faults

test-page: $(VENV)/without-torch browser ## The page of `warmclip serve` in headless Chromium: behaviour, accessibility
	$(BIN)/$(PYTEST) tests/page

test-apple: $(VENV)/installed ## On Apple Silicon: CoreML, MPS and the crash for real; prints a table for an issue
	$(BIN)/python -m pytest tests/apple

rehearse-mac: $(VENV)/without-torch ## Tests on Linux made to look like a Mac, with a CoreML that is pretended: TESTS=tests/unit
	$(BIN)/python tests/rehearsing.py --numprocesses $(AT_ONCE) --dist worksteal $(or $(TESTS),tests/unit tests/contract tests/integration tests/faults)

test-floor: $(FLOOR)/installed $(PRODUCER)/installed $(CLIENT)/installed ## The oldest versions we support: unit, contract, faults and quick integration
	$(FLOOR)/bin/$(PYTEST) tests/unit tests/contract tests/integration tests/faults -m 'not integration or quick'

browser: $(VENV)/without-torch ## A Chromium for the tests of the page: the system's, else Playwright's, else a package's
	$(BIN)/python tests/chromium.py

fuzz: $(VENV)/without-torch $(FUZZ)/installed ## Requests made from /openapi.json, many wrong on purpose, some minutes: FUZZ_FLAGS='--max-examples 9'
	$(BIN)/python tests/fuzzing.py $(FUZZ)/bin/schemathesis --max-examples 80 --continue-on-failure $(FUZZ_FLAGS)

mutants: $(VENV)/installed $(MUTANTS)/installed ## Break modules of tests/mutants.toml in one place at a time: MODULES='work/clock serve/auth' SAMPLE=60
	$(BIN)/python tests/mutating.py $(MUTANTS)/bin $(MODULES) $(addprefix --sample ,$(SAMPLE))

soak: $(VENV)/without-torch ## Half an hour in which all goes wrong that may, then every job is counted: MINUTES=3 SEED=1
	PYTHONPATH=tests $(BIN)/python -m soak --minutes $(MINUTES) $(addprefix --seed ,$(SEED)) $(SOAK_FLAGS)

kills: $(VENV)/without-torch ## Index, forget and convert, killed at random moments: KILLS=30 SEED=1
	PYTHONPATH=tests $(BIN)/python tests/killing.py --kills $(KILLS) $(addprefix --seed ,$(SEED))

move-in: $(VENV)/without-torch ## The application of examples/, while it is killed and stopped: MINUTES=3 SEED=1
	PYTHONPATH=examples $(BIN)/python tests/moving_in.py --minutes $(MINUTES) $(addprefix --seed ,$(SEED))

parity: $(VENV)/installed ## Compare every stage with open_clip in torch: a report of the demo bundle, and the tests
	$(BIN)/warmclip-export parity models/demo/bundle --model models/demo/warmclip-demo.json \
	  --pretrained models/demo/warmclip-demo.safetensors --report parity-report $(PARITY_FLAGS)
	$(BIN)/$(PYTEST) tests/parity
	@echo "the report: $(CURDIR)/parity-report/parity.html"

lint: $(VENV)/installed ## Style, types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --platform darwin
	$(BIN)/lint-imports

format: $(VENV)/without-torch ## Rewrite the code in the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/installed ## mypy --strict over code and tests, as on Linux and on macOS
	$(BIN)/mypy
	$(BIN)/mypy --platform darwin

docs: $(VENV)/installed ## Build the documentation's site into build/docs; warnings are errors
	$(BIN)/sphinx-build --quiet --fresh-env --fail-on-warning --keep-going docs build/docs
	@echo "the site: $(CURDIR)/build/docs/index.html"

export-model: $(VENV)/installed ## Turn OpenCLIP into a verified bundle: MODEL=ViT-B-32 PRETRAINED=openai, PRECISION=int8 as well
	$(BIN)/warmclip-export model --model '$(MODEL)' --pretrained '$(PRETRAINED)' \
	  $(addprefix --precision ,$(PRECISION)) $(EXPORT_FLAGS)

train-demo: $(VENV)/installed ## Train the demo model again, reproducing its figure
	$(BIN)/python models/demo/train.py --out models/demo

export-demo: $(VENV)/installed ## Export the demo checkpoint to models/demo/bundle again
	$(BIN)/warmclip-export model --model models/demo/warmclip-demo.json \
	  --pretrained models/demo/warmclip-demo.safetensors --out models/demo --name bundle --force

worker: $(VENV)/without-torch ## Run a worker: REDIS_URL, else a private redis-server
	$(BIN)/warmclip worker

doctor: $(VENV)/without-torch ## What works on this machine, and what dies in a forked process
	$(BIN)/warmclip doctor

bench: $(BENCH_NEEDS) ## warmclip and what one would pick instead, some 30 minutes: BENCH_FLAGS='--quick'
	$(BIN)/python -m bench.embedding $(BENCH_FLAGS)

bench-worker: $(VENV)/installed $(BENCH_MODEL)/manifest.json $(BENCH_MODEL).safetensors ## RQ's workers and ours compared, some 20 minutes: BENCH_FLAGS='--rounds 3'
	$(BIN)/python -m bench.workers $(BENCH_FLAGS)

outages: $(VENV)/without-torch ## Every outage of Redis and Qdrant tried on every command, some minutes: the tables of docs/explanation/outages.md
	cd tests && ../$(BIN)/python outages.py $(OUTAGES)

model-switch: $(VENV)/installed ## A model upgrade with four workers under constant searches, two minutes
	UPGRADE_WORKERS=4 UPGRADE_THREADS=6 UPGRADE_ANSWERS=2000 $(BIN)/python -m pytest -q -s \
	  tests/integration/test_model_switch.py

coverage: $(VENV)/installed ## Export each of open_clip's configurations, random and small: COVERAGE_FLAGS='--full-below 100'
	$(BIN)/python -m bench.coverage $(COVERAGE_FLAGS)

db-up: ## Start Redis and Qdrant servers with Docker
	docker compose up --detach --wait redis qdrant

dist: $(RELEASE)/installed ## Build the sdist, and the wheel from it, into dist/, and check what they say of themselves
	rm -rf dist
	$(RELEASE)/bin/python -m build
	$(RELEASE)/bin/python -m twine check --strict dist/*

try-dist: ## Install the wheel of dist/ into an empty environment, and use it: PYTHON=python3.14
	rm -rf $(TRIED)
	$(PYTHON) -m venv $(TRIED)
	$(TRIED)/bin/python -m pip install --quiet "$$(echo dist/*.whl)[cpu,embedded]"
	$(TRIED)/bin/warmclip --version
	WARMCLIP_HOME=$(CURDIR)/$(TRIED)/home WARMCLIP_BUNDLE=models/demo/bundle $(TRIED)/bin/warmclip doctor
	PATH="$(CURDIR)/$(TRIED)/bin:$$PATH" models/demo/run $(TRIED)/output

check: lint test-unit ## What to run before a commit

clean: ## Remove what these targets made, but for exported models
	rm -rf $(VENV) $(DEMO) $(FLOOR) $(PRODUCER) $(CLIENT) $(FUZZ) $(MUTANTS) $(PEERS) $(RELEASE) $(TRIED) demo-output parity-report bench-output dist build docs/_generated \
	  .mypy_cache .ruff_cache .pytest_cache

$(BENCH_MODEL)/manifest.json: | $(VENV)/installed
	$(BIN)/warmclip-export model --model ViT-B-32 --pretrained random:0 --precision int8

$(BENCH_MODEL).safetensors: | $(VENV)/installed
	$(BIN)/python -m bench.checkpoint $@

# Folders are whole or absent, so that one file of each stands for it.
$(BENCH_MODEL)-stock/text.onnx: | $(BENCH_MODEL)/manifest.json $(BENCH_MODEL).safetensors
	$(BIN)/python -m bench.embedding.stock_export $(BENCH_MODEL) $(BENCH_MODEL).safetensors $(@D)

$(BENCH_MODEL)-fastembed/text/model.onnx: | $(PEERS)/installed $(BENCH_MODEL)-stock/text.onnx
	$(PEERS)/bin/python -m bench.embedding.fastembed_export $(BENCH_MODEL) $(BENCH_MODEL).safetensors \
	  $(BENCH_MODEL)-stock $(BENCH_MODEL)-fastembed

$(VENV)/without-torch: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "warmclip needs Python 3.11 or newer; name one: make PYTHON=python3.12 ..."; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group dev --editable '.[cpu,embedded,heic,serve]'
	@touch $@

$(VENV)/installed: $(VENV)/without-torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[cpu,export,embedded,heic,serve]'
	@touch $@

$(DEMO)/installed: pyproject.toml constraints.txt $(shell find runtime export -name '*.py')
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "warmclip needs Python 3.11 or newer; name one: make PYTHON=python3.12 ..."; exit 2; }
	$(PYTHON) -m venv $(DEMO)
	$(DEMO)/bin/python -m pip install --quiet --constraint constraints.txt '.[cpu,embedded]'
	@touch $@

$(FLOOR)/installed: pyproject.toml tests/floor.txt
	$(PYTHON) -m venv $(FLOOR)
	$(FLOOR)/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(FLOOR)/bin/python -m pip install --quiet --constraint tests/floor.txt --group test --editable '.[cpu,embedded,heic,serve]'
	@touch $@

# It sees what is installed in .venv, so that all contenders have the same torch and onnxruntime.
$(PEERS)/installed: bench/peers.txt $(VENV)/installed
	$(PYTHON) -m venv $(PEERS)
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
	  > "$$($(PEERS)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/installed.pth"
	$(PEERS)/bin/python -m pip install --quiet --requirement bench/peers.txt
	@touch $@

$(PRODUCER)/installed: tests/producer.txt
	$(PYTHON) -m venv $(PRODUCER)
	$(PRODUCER)/bin/python -m pip install --quiet --requirement tests/producer.txt
	@touch $@

$(CLIENT)/installed: tests/client.txt pyproject.toml
	$(PYTHON) -m venv $(CLIENT)
	$(CLIENT)/bin/python -m pip install --quiet --requirement tests/client.txt --editable '.[client]'
	@touch $@

$(RELEASE)/installed:
	$(PYTHON) -m venv $(RELEASE)
	$(RELEASE)/bin/python -m pip install --quiet build twine
	@touch $@

$(FUZZ)/installed: tests/fuzzing.txt
	$(PYTHON) -m venv $(FUZZ)
	$(FUZZ)/bin/python -m pip install --quiet --requirement tests/fuzzing.txt
	@touch $@

$(MUTANTS)/installed: tests/mutating.txt
	$(PYTHON) -m venv $(MUTANTS)
	$(MUTANTS)/bin/python -m pip install --quiet --requirement tests/mutating.txt
	@touch $@
