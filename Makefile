# Everything runs in .venv, which `setup` makes; every target but `clean` calls it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PYTEST := $(BIN)/python -m pytest
COMPOSE ?= $(shell docker compose version >/dev/null 2>&1 && echo docker compose || echo docker-compose)

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint format protos protos-check test-slow test-long test-network images test-metrics test-ray test-cluster test-page kill-replay soak chaos stress fuzz audit coverage bench bench-replay bench-scores bench-async clean

help:  ## what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' Makefile

setup: $(INSTALLED)  ## .venv with the shoal command and all that development needs

$(INSTALLED): requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "Shoal needs Python 3.11 or newer, and there is no '$(PYTHON)' here." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Shoal needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) -V). Try: make PYTHON=python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@echo "Installing the packages of requirements.lock into $(VENV): a minute or two, once."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: setup  ## train PPO on CartPole-v1 to a return of 475
	$(BIN)/shoal train --algorithm ppo --env CartPole-v1 --target-return 475 --env-steps 200000 --seed 1 \
		--run-dir runs/demo --overwrite

test: lint protos-check  ## all tests but the slow ones, in under 10 minutes
	$(PYTEST)

lint: setup  ## format, lint, types, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup  ## rewrite the code as lint wants it
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

GENERATE := $(BIN)/python -m grpc_tools.protoc -I. --pyi_out

protos: setup  ## regenerate the messages from protos/*.proto
	$(GENERATE)=. --python_out=. protos/*.proto

protos-check: setup  ## fail where the generated messages are not those of protos/*.proto
	@fresh=$$(mktemp -d) && trap 'rm -rf "$$fresh"' EXIT && \
	$(GENERATE)="$$fresh" --python_out="$$fresh" protos/*.proto && \
	for file in protos/*_pb2*.py protos/*_pb2*.pyi "$$fresh"/protos/*; do \
		name=$$(basename "$$file"); \
		cmp -s "protos/$$name" "$$fresh/protos/$$name" || { \
			echo "protos/$$name is not what protos/*.proto gives: run 'make protos'" >&2; exit 1; }; \
	done

test-slow: setup  ## the learning tests: scores on several seeds (15 minutes)
	$(PYTEST) -m learning

test-long: setup  ## the longest whole runs: kills, exact resume, hangs, limits, verdicts (10 minutes)
	$(PYTEST) -m long

test-network: setup  ## pull cables between network namespaces, have clocks jump, fill a disk (needs root, iproute2, a C compiler; 2 minutes)
	$(PYTEST) -m namespaces

test-metrics: setup  ## dashboards and alerts against a real Prometheus (Debian package prometheus; 2 minutes)
	$(PYTEST) -m prometheus

images:  ## build the images of docker-compose.yml
	$(COMPOSE) build

test-cluster: setup  ## docker-compose.yml on the engine that DOCKER_HOST names: learn, scale, kill (10 minutes)
	@docker info >/dev/null 2>&1 || { echo "No Docker engine answers at '$${DOCKER_HOST:-the default socket}': start one, or set DOCKER_HOST" >&2; exit 1; }
	$(COMPOSE) build
	$(PYTEST) -m cluster -s

test-page: setup  ## the learner's page in a headless Chromium (needs chromium and chromium-driver; half a minute)
	$(PYTEST) -m browser

test-ray: setup  ## runs and sweeps on a Ray cluster of several nodes on this machine (5 minutes)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "ray[default,tune]==2.60.0"
	$(PYTEST) -m ray

kill-replay: setup  ## kill the replay server 500 times under load (20 minutes)
	$(PYTEST) -m "" --timeout 0 --kills 500 tests/e2e/test_kills.py

SOAK ?= --minutes 60 --write docs/soak.md
soak: setup  ## whole runs for an hour: no process grows
	$(BIN)/python -m tests.soak $(SOAK)

KILLS ?= 100
CHAOS ?= --write docs/reliability.md
chaos: setup  ## kill and stop processes of whole runs at random, KILLS times (20 minutes)
	$(BIN)/python -m tests.chaos --kills $(KILLS) $(CHAOS)

TIMES ?= 1000
stress: setup  ## repeat the tests of tables, publisher and streams TIMES times, with threads switched all the time (1 hour)
	$(PYTEST) -q -p no:randomly --times $(TIMES) tests/unit/test_publisher.py tests/unit/test_queue.py \
		tests/unit/test_hosting.py tests/unit/test_hosting_lives.py tests/services/test_stream.py \
		tests/services/test_sampling.py tests/services/test_weights_receiver.py tests/services/test_staged_rounds.py

FUZZ ?= --seconds 600
fuzz: setup  ## throw bytes at every decoder and call, ten minutes each (atheris; 1.5 hours)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check atheris==3.0.0
	$(BIN)/python -m tests.fuzz $(FUZZ)

audit: setup  ## known weaknesses: bandit, and pip-audit where its data can be reached
	$(BIN)/python -m pip install --quiet --disable-pip-version-check bandit==1.9.4 pip-audit==2.10.1
	$(BIN)/python -m tests.audit

coverage: setup  ## the tests again, with branch coverage
	$(PYTEST) --cov --cov-report=term:skip-covered

bench: setup  ## measure speed and scores
	$(BIN)/python -m benchmarks

bench-replay: setup  ## the replay server against its bare limit and Reverb (half an hour)
	$(BIN)/python -m benchmarks.replay --vs reverb

bench-scores: setup  ## train every row of docs/scores.md that has not been run (hours; groups: python -m benchmarks.scores)
	$(BIN)/python -m benchmarks.scores

bench-async: setup  ## how much sooner a3c reaches a score with more actors (half an hour)
	$(BIN)/python -m benchmarks.async_speedup

clean:  ## remove .venv and every cache; runs/ stays
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
