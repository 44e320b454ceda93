# Everything from a fresh clone: `make demo`, `make test`; `make` alone lists the rest.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# The first Python TensorFlow has wheels for that can also make a venv; `make PYTHON=/path/to/python3 ...` names another.
USABLE := import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info < (3, 14))
PYTHON ?= $(shell for p in python3.11 python3.12 python3.10 python3.13 python3; do \
  $$p -c '$(USABLE)' 2>/dev/null && echo $$p && break; done)
# make GPU=1 ... installs the CUDA libraries too: 4.2 GB.
GPU ?=
INSTALLED := .venv/.installed$(if $(GPU),-gpu)
LOCKS := requirements/dev.lock $(if $(GPU),requirements/gpu.lock)
PY := .venv/bin/python
GENMNIST := .venv/bin/genmnist

MODEL ?= vae
# Anything more for train, evaluate, export, sample and serve: make train MODEL=vae FLAGS=--config.epochs=3
FLAGS ?=

##@ Two commands
DEMO_EPOCHS ?= 40
DEMO_DRAWS ?= 200
demo: $(INSTALLED) ## train, evaluate, draw, export and sample on 5,000 digits, in minutes (DEMO_EPOCHS, DEMO_DRAWS)
	rm -rf demo
	$(GENMNIST) train --model=vae --workdir=demo/vae --config.dataset=mnist_5k --config.epochs=$(DEMO_EPOCHS)
	$(GENMNIST) train --model=vae_2d --workdir=demo/vae_2d --config.dataset=mnist_5k --config.epochs=$(DEMO_EPOCHS)
	$(GENMNIST) evaluate --workdir=demo/vae --num_draws=$(DEMO_DRAWS)
	$(GENMNIST) evaluate --workdir=demo/vae_2d --num_draws=$(DEMO_DRAWS)
	$(GENMNIST) figures --workdir=demo/vae --out=demo/figures
	$(GENMNIST) figures --workdir=demo/vae_2d --out=demo/figures
	$(GENMNIST) export --workdir=demo/vae --out=demo/exports
	$(GENMNIST) export --workdir=demo/vae_2d --out=demo/exports
	$(GENMNIST) sample --export=demo/exports/vae --out=demo/samples.png
	@echo
	@echo "Look at:  demo/figures/           the pictures"
	@echo "          demo/samples.png        drawn from the exported model in demo/exports/vae/1"
	@echo "          $(GENMNIST) serve --export=demo/exports/vae --export=demo/exports/vae_2d    the explorer"
	@echo "          demo/vae/metrics.json   the evaluation;  $(PY) -m tensorboard.main --logdir=demo  the curves"

results: $(INSTALLED) ## train, evaluate and record every row of the tables: at most two days of one core, resumable
	$(PY) scripts/results.py $(FLAGS)

report: $(INSTALLED) ## one HTML page of what `make demo` made: demo/report.html
	$(GENMNIST) report --workdir=demo/vae --workdir=demo/vae_2d --out=demo/report.html

# A process for each core; one that has none left takes tests from the other.
test: $(INSTALLED) ## install, then run the tests, but for the slow ones
	$(PY) -m pytest --numprocesses=auto --dist=worksteal -m "not slow and not notebook"

test-slow: $(INSTALLED) ## the slow tests: killed processes, several devices, a database, a browser
	$(PY) -m pytest --numprocesses=auto --dist=worksteal -m slow

test-notebooks: $(INSTALLED) ## execute the notebooks, with short trainings
	$(PY) -m pytest --numprocesses=auto -m notebook

##@ Verbs (MODEL=vae, FLAGS=...)
train: $(INSTALLED) ## train MODEL into runs/MODEL, or go on with it
	$(GENMNIST) train --model=$(MODEL) $(FLAGS)

evaluate: $(INSTALLED) ## score runs/MODEL on the validation and test images
	$(GENMNIST) evaluate --workdir=runs/$(MODEL) $(FLAGS)

export: $(INSTALLED) ## write runs/MODEL as a SavedModel into exports/MODEL/N
	$(GENMNIST) export --workdir=runs/$(MODEL) --out=exports $(FLAGS)

sample: $(INSTALLED) ## draw digits from exports/MODEL into figures/MODEL_export.png
	$(GENMNIST) sample --export=exports/$(MODEL) --out=figures/$(MODEL)_export.png $(FLAGS)

serve: $(INSTALLED) ## serve exports/MODEL on http://127.0.0.1:8501, with an explorer in the browser
	$(GENMNIST) serve --export=exports/$(MODEL) $(FLAGS)

MODELS ?= vae vae_2d vae_conv
DATASET ?= mnist
EPOCHS ?= 10
RUNS := runs$(patsubst %,/%,$(filter-out mnist,$(DATASET)))
figures: $(MODELS:%=figures-%) ## draw the figures of MODELS into figures/, training what is missing (DATASET, EPOCHS)

# A run that exists goes by its own config.json: one cut short is finished, a finished one is used as it is.
figures-%: $(INSTALLED)
	@if [ -e $(RUNS)/$*/config.json ]; then \
	  echo "$*: $(RUNS)/$* exists and is used (trained on, should it be unfinished)"; \
	  $(GENMNIST) train --workdir=$(RUNS)/$*; \
	else \
	  echo "$*: no $(RUNS)/$* yet, so it is trained for a short budget, EPOCHS=$(EPOCHS) of DATASET=$(DATASET)"; \
	  $(GENMNIST) train --model=$* --workdir=$(RUNS)/$* --config.dataset=$(DATASET) --config.epochs=$(EPOCHS); \
	fi
	$(GENMNIST) figures --workdir=$(RUNS)/$* --out=figures

##@ Docker (DOCKER_BUILD_FLAGS=...)
DOCKER_BUILD = docker build $(DOCKER_BUILD_FLAGS) --build-arg COMMIT=$$(git describe --always --abbrev=12 --exclude="*" --dirty=+ 2>/dev/null)
image: ## build the image genmnist (GPU; it runs without one too) and check that its CUDA libraries load
	$(DOCKER_BUILD) -t genmnist .
	docker run --rm --interactive --entrypoint python genmnist - <docker/check_cuda.py

image-cpu: ## build the image genmnist:cpu, without the CUDA libraries
	$(DOCKER_BUILD) --build-arg DEVICE=cpu -t genmnist:cpu .

##@ Development
lint: $(INSTALLED) ## ruff: rules and formatting; mypy: the types of the public names
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy

docs: .venv/.installed-docs ## build the site into docs/_build/html and check its links
	rm -rf docs/_build docs/reference
	.venv/bin/sphinx-build --quiet --fail-on-warning --keep-going -c docs . docs/_build/html
	cp docs/_build/html/README.html docs/_build/html/index.html
	cp docs/explorer.html docs/_build/html/docs/
	$(PY) docs/links.py docs/_build/html

notebooks: $(INSTALLED) ## execute notebooks/*.py and write what they show into the .ipynb beside each
	$(PY) scripts/notebooks.py $(wildcard notebooks/*.py)

bench: $(INSTALLED) .venv-bench/.installed ## speed beside PyTorch and JAX, of posteriors, sampling, serving, searches and workers
	$(PY) benchmarks/training.py
	$(PY) benchmarks/training.py --work=iwae --rounds=3
	$(PY) benchmarks/training.py --work=dcgan --rounds=3 --dataset=mnist_5k
	$(PY) benchmarks/training.py --work=vae_conv --rounds=3 --dataset=mnist_5k
	$(PY) benchmarks/training.py --work=pixelvae --rounds=3 --dataset=mnist_5k
	$(PY) benchmarks/training.py --work=pixelcnn --rounds=3 --dataset=mnist_5k
	$(PY) benchmarks/cost.py
	$(PY) benchmarks/scoring.py
	$(PY) benchmarks/posteriors.py
	$(PY) benchmarks/sampling.py
	$(PY) benchmarks/serving.py
	$(PY) benchmarks/tuning.py
	$(PY) benchmarks/workers.py

VERSION = $$($(GENMNIST) --version)
# Not locked: it runs in an environment of its own, and nothing of it is shipped.
SBOM := .venv/bin/uvx --quiet --from=cyclonedx-bom cyclonedx-py requirements --pyproject=pyproject.toml --output-reproducible
release: $(INSTALLED) ## build wheel, sdist, SBOMs and checksums into dist/ and, where there is Docker, both images
	rm -rf dist
	$(PY) -m hatchling build --directory=dist
	for device in cpu gpu; do \
	  $(SBOM) --output-file=dist/keras_genmnist-$(VERSION)-$$device.cdx.json requirements/$$device.lock; done
	if docker info >/dev/null 2>&1; then $(MAKE) image-cpu image; else echo "no Docker engine: no images"; fi
	cd dist && sha256sum -- keras_genmnist* | tee SHA256SUMS

UV := .venv/bin/uv pip compile --quiet --universal --python-version=3.10 --generate-hashes --no-annotate --no-header
lock: $(INSTALLED) ## write requirements/*.lock from pyproject.toml (FLAGS=--upgrade for newer versions)
	$(UV) $(FLAGS) pyproject.toml --extra=tune --output-file=requirements/cpu.lock
	$(UV) $(FLAGS) pyproject.toml --constraint=requirements/cpu.lock --extra=tune --extra=gpu --output-file=requirements/gpu.lock
	$(UV) $(FLAGS) pyproject.toml --constraint=requirements/cpu.lock --extra=tune --extra=dev --extra=notebooks --output-file=requirements/dev.lock
	$(UV:3.10=3.11) $(FLAGS) pyproject.toml --constraint=requirements/dev.lock --extra=docs --output-file=requirements/docs.lock
	echo hatchling | $(UV) - --constraint=requirements/dev.lock --output-file=requirements/build.lock

clean: ## remove the environments, the demo and the caches; runs/, exports/ and figures/ stay
	rm -rf .venv .venv-bench demo dist docs/_build docs/reference .pytest_cache .ruff_cache .mypy_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

help: ## this list
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} \
	  /^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@printf '\nmake GPU=1 ... installs the CUDA libraries too (4.2 GB)\n'

$(INSTALLED): pyproject.toml $(LOCKS)
	@[ -n "$(PYTHON)" ] || { echo "make: no Python 3.10 to 3.13 that can make a venv was found: install one" \
	  "(Debian: python3 and python3-venv) or name it with make PYTHON=/path/to/python3" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --require-hashes $(LOCKS:%=-r %)
	$(PY) -m pip install --quiet --no-deps --no-build-isolation -e .
	touch $@

# For Python 3.11 and newer: on 3.10 MyST and TensorFlow want different versions of markdown-it-py.
.venv/.installed-docs: $(INSTALLED) requirements/docs.lock
	$(PY) -m pip install --quiet --require-hashes -r requirements/docs.lock
	touch $@

# Not locked: the peers only serve to be compared with.
.venv-bench/.installed:
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/pip install --quiet torch==2.13.0 jax optax numpy
	touch $@

.PHONY: demo results report test test-slow test-notebooks train evaluate export sample serve figures image image-cpu lint docs notebooks bench release lock clean help
