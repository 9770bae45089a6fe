# Everything runs in a virtual environment of its own, which the first target that needs it makes.
# Needs python3.11 with its venv module (Debian: apt install python3.11-venv), make and git.

PYTHON ?= python3.11
VENV ?= .venv
# Arguments to add, as in: make test ARGS='-k digits'
ARGS ?=

PURPOSES := runtime mmengine mmcls search digits mnist lite onnx openmim tests dev docs
REQUIREMENTS := $(PURPOSES:%=requirements/%.txt)
CONSTRAINTS := requirements/constraints.txt
READY := $(VENV)/.ready
BIN := $(VENV)/bin
# As many as the figures in the documentation were measured with. torch would take one thread for
# every core that it sees, which in a container may be many more than it has.
export OMP_NUM_THREADS ?= 2
# The working tree is what runs, also if mmprune is installed.
RUN = PYTHONPATH="$(CURDIR)" $(BIN)/python

.DEFAULT_GOAL := help
.PHONY: help venv test fuzz test-family stacks demo docs zoo zoo-family bench bench-accuracy chaos lint format clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

venv: $(READY) ## make the virtual environment (.venv)

# torch first and by its exact version: left to itself, pip may choose another build of several GB.
$(READY): $(REQUIREMENTS) $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys, venv, ensurepip; assert sys.version_info >= (3, 10)' || \
		{ echo 'This needs Python 3.11 with its venv module: apt install python3.11-venv, or' \
		'make PYTHON=/path/to/python3.11'; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "$$(grep '^torch==' $(CONSTRAINTS))"
	$(BIN)/python -m pip install --quiet $(addprefix -r ,$(REQUIREMENTS)) -c $(CONSTRAINTS)
	$(BIN)/python -m pip check
	touch $@

# The tests of a file share what is expensive to make, so they run in one process.
test: $(READY) ## run the tests
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n 2 --dist loadfile $(ARGS)

fuzz: $(READY) ## spoil files of every format at random, as often as EXAMPLES says, and read them
	FUZZ_EXAMPLES=$(or $(EXAMPLES),5000) OMP_NUM_THREADS=1 $(RUN) -m pytest -n 2 tests/test_fuzz.py $(ARGS)

stacks: $(READY) ## try other sets of packages, each in an environment of its own (.stacks)
	$(RUN) tests/stacks/run.py $(or $(ARGS),--write)

test-family: $(READY) ## run the tests that need mmdet, mmseg and mmpose, in an environment with full mmcv
	$(RUN) tests/stacks/run.py family
	test ! -x .stacks/family/bin/python || OMP_NUM_THREADS=1 PYTHONPATH="$(CURDIR)" \
		.stacks/family/bin/python -m pytest -n 2 -p no:cacheprovider -W default --disable-warnings tests/family $(ARGS)

demo: $(READY) ## train, search, deploy and finetune on images of MNIST, with a table at the end
	$(RUN) tools/demo.py $(ARGS)

docs: $(READY) ## build the site of the documentation into site/; warnings are errors
	$(RUN) -W ignore docs/site/build.py site $(ARGS)

zoo: $(READY) ## prune the networks of mmcls, and print how much and how exactly
	$(RUN) tools/zoo.py $(ARGS)

zoo-family: $(READY) ## the same for networks of mmdet, mmseg, mmpose and mmyolo
	$(RUN) tests/stacks/run.py family
	PYTHONPATH="$(CURDIR)" .stacks/family/bin/python tools/zoo.py --family $(ARGS)

bench: $(READY) ## measure speed and memory beside plain networks and peers
	$(RUN) tools/bench.py $(ARGS)

bench-accuracy: $(READY) ## prune trained networks by every criterion, and print their accuracies
	$(RUN) tools/bench_accuracy.py $(ARGS)

chaos: $(READY) ## kill every tool at random moments, and print what was lost; ARGS='--kills 50'
	OMP_NUM_THREADS=1 $(RUN) -W ignore tests/chaos.py $(ARGS)

lint: $(READY) ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY) ## bring the files into the style that lint asks for
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove the virtual environment, caches and what builds leave
	rm -rf $(VENV) .stacks site build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
