# Every task of the project; CI calls the same names. `make` lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	command -v $$p >/dev/null && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
STAMPS := build/.stamps
NATIVE := $(shell find engines/core services/predict/native mesh/testbed/native -type f) pyproject.toml
ARGS ?=

# SANITIZE=address|thread selects the build of the native tests.
SANITIZE ?=
NATIVE_BUILD := build/native$(if $(SANITIZE),-$(SANITIZE))

.PHONY: help setup gen build stubs fmt lint types test test-fast test-native test-sanitizers fuzz bench demo up clean

help:  ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'
	@echo "ARGS adds flags to test, test-fast, bench, demo and up: make demo ARGS='--agents 24 --seconds 60'"

setup: $(STAMPS)/python  ## install what is missing: Debian packages, .venv, locked Python packages

$(STAMPS)/system: .ci/packages.txt .ci/install-packages
	@mkdir -p $(@D) && .ci/install-packages .ci/packages.txt && touch $@

$(STAMPS)/python: .ci/requirements.txt $(STAMPS)/system
	@[ -n "$(PYTHON)" ] || { echo "Python >= 3.11 is missing; install python3 and python3-venv"; exit 1; }
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV)
	@echo "installing locked Python packages into $(VENV)"
	@$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r .ci/requirements.txt
	@touch $@

build: $(STAMPS)/build  ## compile the native modules and install the `starling` command into .venv

$(STAMPS)/build: $(STAMPS)/python $(NATIVE)
	@echo "building the native modules (a minute or two the first time)"
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-build-isolation --no-deps -e .
	@touch $@

gen: $(STAMPS)/python  ## generate the protobuf stubs and relock the Python packages
	@$(BIN)/python protos/generate.py
	@$(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-annotate --no-header --group dev \
		pyproject.toml -o .ci/requirements.txt -q

stubs: build  ## write the typed stubs of the native modules
	@$(BIN)/python -m nanobind.stubgen -q -m engines._core -o engines/_core.pyi
	@$(BIN)/python -m nanobind.stubgen -q -m services.predict._dataplane -o services/predict/_dataplane.pyi

CPP := $(shell find engines/core services/predict/native mesh/testbed/native tests/native -name '*.cpp' -o -name '*.h')

fmt: setup  ## format Python, C++ and protos
	@$(BIN)/ruff format -q . && $(BIN)/ruff check -q --fix . ; $(BIN)/clang-format -i $(CPP) ; $(BIN)/buf format -w protos

lint: setup  ## check format, style, import direction and protos
	@$(BIN)/ruff format --check . && $(BIN)/ruff check .
	@$(BIN)/clang-format --dry-run -Werror $(CPP)
	@$(BIN)/lint-imports
	@$(BIN)/buf lint && $(BIN)/buf format --diff --exit-code protos

types: build  ## check types
	@$(BIN)/mypy

test: build lint types test-sanitizers  ## every test, with the set-up it needs
	@$(BIN)/starling models pull nanodet nanodet-small efficientnet-lite0 raptor silero-vad vtest
	@$(BIN)/python tests/support/clients.py >/dev/null
	@! command -v go >/dev/null || $(BIN)/python tests/support/grpcurl.py >/dev/null
	@$(BIN)/python -m pytest $(ARGS)

test-fast: build  ## unit tests only
	@$(BIN)/python -m pytest tests/unit tests/architecture $(ARGS)

test-native: setup  ## native tests; SANITIZE=address or SANITIZE=thread runs them under sanitizers
	@cmake -S engines/core -B $(NATIVE_BUILD) -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo -DSTARLING_PYTHON=OFF \
		-DSTARLING_TESTS=ON -DSTARLING_SANITIZE=$(SANITIZE) -DPython_EXECUTABLE=$(CURDIR)/$(BIN)/python >/dev/null
	@cmake --build $(NATIVE_BUILD)
	@ctest --test-dir $(NATIVE_BUILD) --output-on-failure

test-sanitizers:  ## native tests under AddressSanitizer with UBSan, then under ThreadSanitizer
	@$(MAKE) test-native SANITIZE=address
	@$(MAKE) test-native SANITIZE=thread

# FUZZ_SECONDS bounds the run; the ordinary tests run ten seconds with our own driver, which gcc's coverage guides. What
# libFuzzer finds stays in build/fuzz/corpus, where the next run goes on from it.
FUZZ_SECONDS ?= 300
FUZZ_BUILD := build/fuzz
FUZZ_CORPUS := tests/native/fuzz/corpus
fuzz: setup .ci/fuzz.txt  ## fuzz the wire parsers under libFuzzer and AddressSanitizer for FUZZ_SECONDS
	@.ci/install-packages .ci/fuzz.txt
	@.ci/install-packages <(clang -dumpversion | sed 's/\..*//; s/.*/libclang-rt-&-dev/')
	@cmake -S engines/core -B $(FUZZ_BUILD) -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo -DCMAKE_CXX_COMPILER=clang++ \
		-DSTARLING_PYTHON=OFF -DSTARLING_TESTS=ON -DSTARLING_SANITIZE=fuzzer -DPython_EXECUTABLE=$(CURDIR)/$(BIN)/python >/dev/null
	@cmake --build $(FUZZ_BUILD) --target fuzz_wire
	@mkdir -p $(FUZZ_BUILD)/corpus
	@$(FUZZ_BUILD)/native/fuzz_wire -max_total_time=$(FUZZ_SECONDS) -print_final_stats=1 -artifact_prefix=$(FUZZ_BUILD)/ \
		$(FUZZ_BUILD)/corpus $(FUZZ_CORPUS)

bench: build  ## measure everything; prints tables, writes out/bench/*.json, fails when a bar does not hold
	@$(BIN)/starling models pull nanodet raptor mobilenetv2-int8 vtest
	@$(BIN)/starling bench all $(ARGS)

demo: build  ## cameras, edge and cloud nodes behind Envoy, on this machine
	@$(BIN)/starling models pull nanodet vtest
	@$(BIN)/starling demo $(ARGS)

up: build  ## the same mesh without agents, until Ctrl-C
	@$(BIN)/starling up $(ARGS)

clean:  ## remove what was built, keep .venv
	@rm -rf build out
