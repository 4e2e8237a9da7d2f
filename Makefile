# `make train` and `make test` work on a fresh clone: they make .venv and install into it what they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The face, with the three packages where the installed package has them: for type checkers, which do not follow the mapping.
LINKS := .typing/tokengym

.PHONY: install train test lint format clean

install: $(VENV)/.installed-trl

train: $(VENV)/.installed
	$(BIN)/tokengym train grpo

# A process for each core, with one thread each.
test: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses logical --dist worksteal

lint: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

format: $(VENV)/.installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

# torch comes first and pinned: anything looser takes gigabytes of CUDA packages. Each mark says which extras are installed.
$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python $(LINKS)
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	touch $@

$(VENV)/.installed-trl: $(VENV)/.installed-dev
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev,trl]"
	touch $@

$(LINKS):
	mkdir -p $(LINKS)
	ln -sf ../../tokengym/__init__.py ../../tokengym/cli.py ../../tokengym/arguments.py $(LINKS)/
	ln -sfn ../../tokengym/viewer $(LINKS)/viewer
	ln -sfn ../../tokengym/compare $(LINKS)/compare
	ln -sfn ../../rewards $(LINKS)/rewards
	ln -sfn ../../envs $(LINKS)/envs
	ln -sfn ../../agents $(LINKS)/agents

clean:
	rm -rf $(VENV) .typing build *.egg-info
