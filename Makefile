# Two commands: `make demo` does the main job on real input, `make test` passes the tests. Each sets up what it needs.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
WORKERS ?= 2

export ORT_DISABLE_TELEMETRY := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help demo test test-slow test-reliability lint docs format clean debian-demo debian-test

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing Python packages into $(VENV) ..."
	@$(BIN)/pip install -qq -c constraints.txt -e '.[agent,onnxruntime,server,compiler,demo,dev]'
	@# openvino works without it and then sends nothing to anybody; onnx2tf pins what it does not need, and runs as a program.
	@$(BIN)/pip uninstall -q -y openvino-telemetry
	@$(BIN)/pip install -qq -c constraints.txt --no-deps --ignore-requires-python onnx2tf sne4onnx sng4onnx
	@touch $@

debian-demo:
	@tools=mosquitto sh .ci/debian-packages

debian-test:
	@tools="mosquitto chromium" sh .ci/debian-packages

demo: debian-demo $(STAMP)  ## the whole path on a real model, narrated (ONCE=1: exit when done)
	@$(BIN)/fleet-server demo $(if $(ONCE),--once)

test: debian-test lint  ## linters and all fast tests
	@$(BIN)/pytest -n $(WORKERS) --dist loadfile -m "not slow"

test-slow: debian-test $(STAMP)  ## the slow suites too
	@$(BIN)/pytest -n $(WORKERS) --dist loadfile

test-reliability: debian-test $(STAMP)  ## attack table, mutants of every check, power cut after every write (ONLY=attacks|mutants|power-cuts)
	@$(BIN)/python -m tests.reliability $(ONLY)

lint: $(STAMP)  ## ruff, mypy --strict, import contracts
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(STAMP)  ## let ruff mend what it can
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

docs: $(STAMP)  ## write the generated tables into fleet_protocol/SPEC.md
	@$(BIN)/python -c "import pathlib; from fleet_protocol.spec_tables import render; p = pathlib.Path('fleet_protocol/SPEC.md'); p.write_text(render(p.read_text()))"

clean:  ## forget the virtual environment and the demo's state
	@rm -rf $(VENV) demo-state
