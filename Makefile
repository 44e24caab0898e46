# Every target sets up what it needs.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
export LATENT_TERMS_PROFILE ?= smoke
export LATENT_TERMS_CACHE ?= build/store
# a hundred processes start in the tests; each would compile the library anew
unexport PYTHONDONTWRITEBYTECODE
BUILT := build/$(LATENT_TERMS_PROFILE)
RESULTS := $(if $(filter laptop,$(LATENT_TERMS_PROFILE)),figures,$(BUILT)/figures)

NOTEBOOKS ?= $(sort $(basename $(notdir $(wildcard notebooks/*.py))))

# in one process, since the import of jupytext takes seconds
convert = mkdir -p $(1); $(BIN)/python -c "import jupytext; \
	[jupytext.write(jupytext.read(f'notebooks/{name}.py'), f'$(1)/{name}.ipynb') for name in '$(NOTEBOOKS)'.split()]"

PYTEST := LATENT_TERMS_PROFILE=smoke OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

.PHONY: help run lab style fast check browse browser test notebooks lint figures paper clean

help:  ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12
	@echo "Profile: LATENT_TERMS_PROFILE=$(LATENT_TERMS_PROFILE) (smoke: built-in data; laptop: real collections)"

# torch first and pinned, so that no other package asks for another build of it
.venv/installed: pyproject.toml .ci/constraints.txt
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit(f"Python 3.11 or newer is needed, this is {sys.version}; name one: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c .ci/constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check -c .ci/constraints.txt -e '.[dev]'
	$(BIN)/jupytext-config --settings-file .venv/etc/jupyter/labconfig/default_setting_overrides.json set-default-viewer python
	touch $@

run: NOTEBOOKS := 20_retrieval
run: notebooks  ## set up, rank two built-in collections, print the table, write a page (smoke profile: minutes)
	@$(BIN)/python -m lib.report $(RESULTS)
	$(BIN)/python -m lib browse --collection pydoc/100 -o $(BUILT)/browse --force

lab: .venv/installed  ## set up, open JupyterLab, where notebooks/*.py are notebooks (LAB="--no-browser": its options)
	$(BIN)/jupyter lab --ServerApp.root_dir="$(CURDIR)" $(LAB) notebooks/00_tour.py

style: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

fast: .venv/installed
	$(PYTEST) -p no:nbmake tests -m "not slow"  # nbmake takes seconds to import

check: .venv/installed  ## style, types and the fast tests, in a minute and a half
	$(MAKE) -j 2 style fast  # a type checker uses one processor

browse: .venv/installed  ## write a page of the packaged model and all of pydoc, to click through, into build/browse
	$(BIN)/python -m lib browse --collection pydoc -o build/browse --force

# Debian's Chromium, for the tests of the page; they say so where there is none
browser:
	@command -v chromedriver || (apt-get update && apt-get install -y --no-install-recommends chromium-driver) || true

test: style browser  ## set up (and Debian's Chromium, if apt-get is allowed), check style and types, run all tests and notebooks
	rm -rf build/test
	$(call convert,build/test)
	$(PYTEST) build/test tests --nbmake --nbmake-timeout=1200

notebooks: .venv/installed  ## execute all notebooks (or NOTEBOOKS="21_limit 30_zipf") for the profile into build/
	$(call convert,$(BUILT)/notebooks)
	for name in $(NOTEBOOKS); do TIMEFORMAT="$$name: %lR"; time $(BIN)/jupyter execute --inplace $(BUILT)/notebooks/$$name.ipynb || exit 1; done

figures: notebooks  ## make every table and figure of the profile (the committed ones: LATENT_TERMS_PROFILE=laptop)
	$(BIN)/python -m lib.report $(RESULTS) $(if $(filter laptop,$(LATENT_TERMS_PROFILE)),README.md)
	$(if $(filter laptop,$(LATENT_TERMS_PROFILE)),$(BIN)/python -m lib.report.paper)
	$(if $(filter laptop,$(LATENT_TERMS_PROFILE)),$(BIN)/python -m lib.report.executed $(NOTEBOOKS))

paper: .venv/installed  ## build paper/paper.pdf from the committed results
	$(BIN)/python -m lib.report.paper figures paper
	@command -v latexmk >/dev/null || { echo "latexmk is missing; install TeX Live (Debian: apt-get install latexmk texlive-latex-recommended)"; exit 1; }
	cd paper && latexmk -pdf -interaction=nonstopmode paper.tex

lint: .venv/installed  ## mend what ruff can mend, report the rest
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## remove what was built, the environment too
	rm -rf .venv build
