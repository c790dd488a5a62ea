# GNU make 3.81, which macOS brings, is enough.

PYTHON ?= python3
VENV := .venv
# Kept from the run that named it, so that later ones need not; `TORCH_INDEX= make caption` goes back to PyPI's build.
TORCH_INDEX ?= $(shell cat $(VENV)/torch-index 2>/dev/null)

PY := $(VENV)/bin/python
PIP_INSTALL := $(PY) -m pip install --disable-pip-version-check --no-input
# The locks are complete, so nothing is resolved; no source is built, as a build would fetch what no hash covers.
LOCKED := $(PIP_INSTALL) --no-deps --only-binary :all: --require-hashes

# A stamp is named after the content it stands for and written last: an interrupted installation has none.
RUNTIME_LOCKS := requirements/torch.in requirements/torch.lock requirements/base.lock
RUNTIME := $(VENV)/runtime-$(shell (echo '$(TORCH_INDEX)'; cat $(RUNTIME_LOCKS)) | cksum | cut -d ' ' -f 1).stamp
DEV_LOCKS := requirements/extras.lock requirements/dev.lock
DEV := $(VENV)/dev-$(shell cat $(DEV_LOCKS) | cksum | cut -d ' ' -f 1).stamp

# Each prints its own report; a new file in benchmarks/ is run too. The learning table takes hours: `make learning`.
BENCHMARKS := $(filter-out learning,$(basename $(notdir $(wildcard benchmarks/*.py))))

# The image of container.def; CONTAINER_FLAGS='--build-arg java=none ...' changes its arguments.
APPTAINER ?= $(shell command -v apptainer || command -v singularity || echo apptainer)
CONTAINER_FLAGS ?=
COMMIT ?= $(shell git rev-parse --short HEAD 2>/dev/null || echo unknown)
BASE ?= debian:bookworm-slim

.PHONY: help caption test slow checks bench learning shapes lock container pin-base clean

help:
	@echo 'make caption   install, then caption, question and score the embedded example into inference/shapes/'
	@echo 'make test      install what the tests need and run them'
	@echo 'make slow      the tests that take long, and those of which make test makes a tenth of the runs'
	@echo 'make checks    ruff format, ruff lint, mypy --strict'
	@echo 'make bench     measure against the way of older tools, a report for each file of benchmarks/'
	@echo 'make learning  train each model family on small parts and write docs/learning.md; takes hours, goes on where it was'
	@echo 'make shapes    remake the embedded example: its TSVs, then its model'
	@echo 'make lock      remake requirements/*.lock from pyproject.toml (needs uv)'
	@echo 'make container  build container.sif with Apptainer or Singularity; without root where Apptainer may'
	@echo 'make pin-base   let container.def and Dockerfile start from the digest that BASE has now'
	@echo 'make clean     remove .venv, inference/shapes/ and caches'
	@echo
	@echo 'PYTHON=python3.12 make ...   the Python that .venv is made with: 3.11, 3.12 or 3.13 (default: python3)'
	@echo 'TORCH_INDEX=URL make ...     take torch and torchvision from this package index, for another build of them'

caption: $(RUNTIME)
	$(PY) inference.py -p "{'type': 'evaluate_on_shapes'}"

test: $(DEV)
	$(PY) -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

slow: $(DEV)
	$(PY) -m pytest --slow -m 'slow or runs'

bench: $(RUNTIME)
	for name in $(BENCHMARKS); do echo "== $$name"; $(PY) -m benchmarks.$$name || exit 1; done

learning: $(RUNTIME)
	$(PY) -m benchmarks.learning

shapes: $(RUNTIME)
	$(PY) inference.py -p "{'type': 'make_shapes', 'out_dir': 'data/shapes'}"
	rm -rf checkpoints/shapes_clip checkpoints/shapes_mapper checkpoints/shapes
	$(PY) train.py --config configs/shapes_clip.yaml
	$(PY) train.py --config configs/shapes_mapper.yaml
	$(PY) train.py --config configs/shapes.yaml
	rm -rf data/shapes/model
	cp -R checkpoints/shapes data/shapes/model

checks: $(DEV)
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy

lock:
	uv run --no-project requirements/lock.py

container:
	$(APPTAINER) build --force --build-arg commit=$(COMMIT) $(CONTAINER_FLAGS) container.sif container.def
	@ls -lh container.sif

pin-base:
	$(PYTHON) requirements/pin_base.py $(BASE)

clean:
	rm -rf $(VENV) inference/shapes build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A change of locks or of the torch build starts over: pip leaves what is no longer wanted, and takes +cpu for any build.
$(RUNTIME):
	@version=$$($(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null); \
	case "$$version" in \
	3.11 | 3.12 | 3.13) ;; \
	*) echo "error: Python 3.11, 3.12 or 3.13 is needed; '$(PYTHON)' is $${version:-not there}." \
		"Name another: PYTHON=python3.12 make $(MAKECMDGOALS)" >&2; exit 1 ;; \
	esac
	"$$($(PYTHON) -c 'import sys; print(sys._base_executable)')" -m venv --clear $(VENV)
ifeq ($(strip $(TORCH_INDEX)),)
	$(LOCKED) -r requirements/torch.lock -r requirements/base.lock
else
	$(PIP_INSTALL) --no-deps --index-url '$(TORCH_INDEX)' -r requirements/torch.in
	$(LOCKED) -r requirements/base.lock
# What this build of torch needs besides, as its CUDA libraries.
	$(PIP_INSTALL) --index-url '$(TORCH_INDEX)' -r requirements/torch.in
endif
	@echo '$(TORCH_INDEX)' > $(VENV)/torch-index
	@touch $@

# By force: an interrupted installation may have left a package in part.
$(DEV): $(RUNTIME)
	$(LOCKED) --force-reinstall $(DEV_LOCKS:%=-r %)
	@rm -f $(VENV)/dev-*.stamp
	@touch $@
