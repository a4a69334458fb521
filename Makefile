# Two commands do everything on a machine with Python 3.11+ and make: `make run` and `make test`.
# Those named after Kafka need Java 17 and Maven, too; test-vault needs Vault's program.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help install run run-kafka demo test test-kafka test-vault check faults bench compose-env lock clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-11s %s\n", $$1, $$2}'

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Muniment needs Python 3.11 or later (PYTHON=python3.12 make ...)")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: $(BIN)/python requirements/run.txt pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/run.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed requirements/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@touch $@

install: $(VENV)/installed ## make .venv with everything that the platform needs

run: install ## start the platform on http://127.0.0.1:8080
	@exec $(BIN)/muniment up

run-kafka: install ## start it with Apache Kafka, relay and stream workers
	@exec $(BIN)/muniment up --with-kafka

demo: install ## fill a small company into the running platform
	@$(BIN)/muniment demo

test: $(VENV)/installed-dev ## run the tests, on a real PostgreSQL and a real Valkey
	$(BIN)/python -m pytest -m "not faults and not kafka and not vault" --numprocesses 2 --dist loadfile

test-kafka: $(VENV)/installed-dev ## run the tests of the bus, on a real Apache Kafka
	$(BIN)/python -m pytest -m "kafka and not faults" --numprocesses 2 --dist loadfile

check: $(VENV)/installed-dev ## lint, types and import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test-vault: $(VENV)/installed-dev ## run the tests of secrets, on a real HashiCorp Vault or OpenBao
	$(BIN)/python -m pytest -m vault

faults: $(VENV)/installed-dev ## the long fault drills
	$(BIN)/python -m pytest -m faults --timeout=3600

bench: $(VENV)/installed-dev ## peer and ours side by side, as ratios
	$(BIN)/python -m benchmarks

compose-env: ## write .env, with fresh keys and passwords, for compose.yaml
	@test ! -e .env || { echo "there is a .env already; its keys are those of your data" >&2; exit 1; }
	@umask 077 && { \
	  for name in MASTER_KEY PEPPER CLAIM_KEY; do echo "MUNIMENT_$$name=$$(head -c 32 /dev/urandom | base64)"; done; \
	  echo "MUNIMENT_POSTGRES_PASSWORD=$$(head -c 24 /dev/urandom | od -An -v -tx1 | tr -d ' \n')"; \
	} > .env

lock: $(VENV)/installed-dev ## pin the dependencies anew, with hashes
	$(BIN)/python -m uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header --no-emit-index-url --no-emit-find-links --group build pyproject.toml -o requirements/run.txt
	$(BIN)/python -m uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header --no-emit-index-url --no-emit-find-links -c requirements/run.txt --group build --group dev pyproject.toml -o requirements/dev.txt

clean: ## remove what was installed and built (not your data)
	rm -rf $(VENV) dist build .mypy_cache .ruff_cache .hypothesis
