# demo, test, check and bench work in a fresh clone: each sets up .venv first.
PYTHON ?= python3
BIN := .venv/bin
RESULTS := benchmarks/results

.PHONY: demo test check format bench
demo: .venv/ready
	$(BIN)/nomad params/quickstart.txt

test: .venv/extras
	$(BIN)/python -m pytest

check: .venv/extras
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: .venv/ready
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# overhead of the harness, 10,000 evaluations beside Optuna's storages, the certificate, packs against Trainer + PEFT;
# tokens per second where there is a GPU
bench: .venv/ready
	$(BIN)/python -m benchmarks.overhead --json $(RESULTS)/overhead.json
	$(BIN)/python -m benchmarks.scale --json $(RESULTS)/scale.json
	$(BIN)/python -m benchmarks.certificate --json $(RESULTS)/certificate.json
	$(BIN)/python -m benchmarks.packing --json $(RESULTS)/packing.json
	if nvidia-smi >/dev/null 2>&1; then $(BIN)/python -m benchmarks.throughput --json $(RESULTS)/throughput.json; fi

.venv/ready: requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

.venv/extras: .venv/ready requirements-extras.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-extras.txt
	touch $@
