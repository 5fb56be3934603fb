# `make demo` and `make test` do everything from nothing: Python 3.11 or newer and make are all they need.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
TORCH := 2.13.0
# PyTorch's own index has the CPU build; a machine with an NVIDIA GPU takes the usual build.
TORCH_CPU_INDEX ?= https://download.pytorch.org/whl/cpu
HAS_GPU := $(shell command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L >/dev/null 2>&1 && echo yes)
READY := $(VENV)/.ready
# Three workers of one torch thread each keep two cores busy, also while a test waits for a process or a connection.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder

# Environments of their own, resolved by uv: RESOLUTION=lowest-direct is the floor that pyproject.toml declares.
TEST_PYTHON ?= 3.11
# Old versions of libraries use what is deprecated now; SimpleITK 2.4 ends the process where that is an error.
TEST_WARNINGS := -W default::DeprecationWarning
# Where torch comes from: PyTorch's own index of CPU builds, or options for another source.
UV_PIP_ARGS ?= --torch-backend cpu
RESOLVED_VENV = .venv-$(RESOLUTION)-$(TEST_PYTHON)

.PHONY: test-lowest test-newest test-resolved help demo test quick lint unit coverage format lock docs wheel wheelhouse sbom clean

help:  ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

$(READY): requirements.lock pyproject.toml Makefile
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	|| { echo "error: $(PYTHON) is not Python 3.11 or newer; give another, as make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade "pip>=24" "setuptools>=77" wheel
ifeq ($(HAS_GPU),yes)
	$(BIN)/pip install --quiet "torch==$(TORCH)"
else
	$(BIN)/pip install --quiet "torch==$(TORCH)+cpu" \
	|| $(BIN)/pip install --quiet "torch==$(TORCH)+cpu" --index-url $(TORCH_CPU_INDEX)
endif
	$(BIN)/pip install --quiet --requirement requirements.lock
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(READY)  ## synthetic patients, a short training, a denoised series, a report: demo-output/
	$(BIN)/ldct-denoise demo --output demo-output --overwrite

test: lint unit  ## everything CI checks: ruff, mypy, all tests (11 minutes on two cores)

quick: lint  ## ruff, mypy and the fast tests (2 minutes on two cores)
	$(PYTEST) -m "not slow" $(PYTEST_ARGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell ldct_denoise cli configs docs notebooks tests *.md Makefile pyproject.toml

unit: $(READY)
	$(PYTEST) $(PYTEST_ARGS)

coverage: $(READY)  ## all tests with their coverage, which must not fall below the floor in pyproject.toml
	$(PYTEST) --cov --cov-report=term:skip-covered $(PYTEST_ARGS)

format: $(READY)  ## put the code in ruff's form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: $(READY)  ## write requirements.lock from this environment, and requirements-node.lock with hashes (needs uv)
	@{ echo "# Pinned versions that \`make demo\` and \`make test\` install (torch first, see the Makefile)."; \
	   echo "# Written by \`make lock\`."; \
	   $(BIN)/pip freeze --exclude-editable --exclude torch; } > requirements.lock
	@{ echo "# What a DICOM node needs besides torch: every version and hash. Written by \`make lock\`."; \
	   { echo "torch==$(TORCH)"; grep -v '^#' requirements.lock; } | \
	   uv pip compile --quiet pyproject.toml --extra node --generate-hashes --python-version 3.11 \
	       --python-platform x86_64-manylinux_2_28 $(UV_PIP_ARGS) --constraint - --no-emit-package torch \
	       --no-header --no-annotate; } > requirements-node.lock

docs: $(READY)  ## site/: the documentation, which opens without a network
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --clean

wheel: $(READY)  ## dist/ldct_denoise-*.whl
	$(BIN)/python -m build --wheel --no-isolation --outdir dist .

# For machines with an NVIDIA GPU: make wheelhouse WHEELHOUSE_TORCH=2.13.0. The wheels fit this machine's Python.
WHEELHOUSE_TORCH ?= $(TORCH)+cpu

wheelhouse: wheel  ## wheelhouse/: every wheel an air-gapped machine needs, checked against requirements-node.lock
	rm -rf wheelhouse
	$(BIN)/python -m pip download --quiet --dest wheelhouse --constraint requirements.lock "torch==$(WHEELHOUSE_TORCH)" \
	|| $(BIN)/python -m pip download --quiet --dest wheelhouse --constraint requirements.lock \
	    "torch==$(WHEELHOUSE_TORCH)" --index-url $(TORCH_CPU_INDEX)
	$(BIN)/python -m pip download --quiet --dest wheelhouse --require-hashes --no-deps --only-binary :all: \
	    --requirement requirements-node.lock
	cp "$$(ls -t dist/ldct_denoise-*.whl | head -1)" wheelhouse

sbom: wheel  ## dist/: an SBOM (CycloneDX) of what a node installs, and the licences of all of it (needs uv)
	uv venv --quiet --clear --python 3.11 .venv-node
	uv pip install --quiet --python .venv-node $(UV_PIP_ARGS) "torch==$(TORCH)"
	uv pip install --quiet --python .venv-node --require-hashes --no-deps --requirement requirements-node.lock
	uv pip install --quiet --python .venv-node --no-deps "$$(ls -t dist/ldct_denoise-*.whl | head -1)"
	uv pip check --quiet --python .venv-node
	uvx --quiet --from "cyclonedx-bom>=7,<8" cyclonedx-py environment --pyproject pyproject.toml --output-reproducible \
	    --output-file dist/sbom.cdx.json .venv-node
	uvx --quiet "pip-licenses>=5,<6" --python .venv-node/bin/python --with-license-file --no-license-path \
	    --format plain-vertical --output-file dist/THIRD-PARTY-LICENSES.txt

test-lowest:  ## the fast tests with the lowest declared versions (needs uv; TEST_PYTHON=3.11)
	$(MAKE) test-resolved RESOLUTION=lowest-direct

test-newest:  ## the fast tests with the newest versions that pyproject.toml allows (needs uv; TEST_PYTHON=3.13)
	$(MAKE) test-resolved RESOLUTION=highest

test-resolved:
	uv venv --quiet --clear --python $(TEST_PYTHON) $(RESOLVED_VENV)
	uv pip install --quiet --python $(RESOLVED_VENV) --resolution $(RESOLUTION) $(UV_PIP_ARGS) --editable ".[dev]"
	OMP_NUM_THREADS=1 $(RESOLVED_VENV)/bin/pytest -n 3 --dist loadfile --no-loadscope-reorder $(TEST_WARNINGS) \
	    -m "not slow" $(PYTEST_ARGS)

clean:  ## remove the environment and everything built
	rm -rf $(VENV) .venv-* build dist site wheelhouse demo-output *.egg-info
