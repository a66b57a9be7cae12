# Everything sets itself up: a clean clone needs only make, git and python3 with venv.
#   make demo      train a small model, sample digits, write runs/demo/report.html (about 4 minutes)
#   make test      lint, types, the site and tests (under 10 minutes)
#   make test-all  the long tests too
#   make docs      build the documentation site into site/ (20 seconds); a broken link fails
#   make bench     speed and memory, compared with the textbook networks (an hour and a half)
#   make engine    build the engine's libraries after a change of its C sources
#   make lint      lint and types only
#   make format    format the code with ruff

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
DOCS := .venv/.installed-docs

.PHONY: demo test test-all docs bench engine lint format clean

demo: $(INSTALLED)
	$(BIN)/python examples/demo.py

test: lint docs
	$(BIN)/pytest -n 2 -m "not slow"

test-all: lint docs
	$(BIN)/pytest -n 2

# The variable hides a long notice about versions of MkDocs to come. Not --quiet: it hides warnings
# from --strict, too, and then a broken link does not fail.
docs: $(DOCS)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: $(INSTALLED)
	mkdir -p runs/bench
	$(BIN)/python benchmarks/sampling.py --json runs/bench/sampling.json
	$(BIN)/python benchmarks/training.py --json runs/bench/training.json
	$(BIN)/python benchmarks/memory.py training --json runs/bench/memory-training.json
	$(BIN)/python benchmarks/memory.py generation --json runs/bench/memory-generation.json
	$(BIN)/python benchmarks/memory.py compression --json runs/bench/memory-compression.json
	$(BIN)/python benchmarks/data.py --json runs/bench/data.json
	$(BIN)/python benchmarks/startup.py --json runs/bench/startup.json

engine: $(INSTALLED)
	$(BIN)/python tools/build_engine.py

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Made anew when what is to be installed has changed; else reused.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

# Apart, so that the demo does not wait for it.
$(DOCS): $(INSTALLED)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[docs]'
	touch $@

clean:
	rm -rf .venv build dist site src/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
