# make demo   the whole story on the demo cohort, in its own virtual environment
# make test   all tests but the slow experiments
# make lint   ruff and mypy on the package
# make docs   the documentation site, in build/site
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
SETUP := setup.py constraints.txt constraints-cucim.txt

.PHONY: demo test lint docs clean

demo: $(VENV)/.installed
	$(BIN)/python -W ignore -m medi_monai.demo

test: $(VENV)/.test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile --no-loadscope-reorder

lint: $(VENV)/.lint
	$(BIN)/ruff check medi_monai tests setup.py
	$(BIN)/ruff format --check medi_monai tests setup.py
	$(BIN)/mypy

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet
	@echo "docs: done. Results: build/site/index.html"

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(SETUP) | $(BIN)/python
	$(PIP) -e ".[lite]"
	touch $@

# cuCIM brings 1.7 GB of CUDA libraries on Linux x86-64, and nothing elsewhere: both back ends of slides are tested
$(VENV)/.test: $(SETUP) | $(BIN)/python
	$(PIP) -c constraints-cucim.txt -e ".[test,cucim,text]"
	touch $@ $(VENV)/.installed

$(VENV)/.lint: $(SETUP) | $(BIN)/python
	$(PIP) -e ".[lint]"
	touch $@

$(VENV)/.docs: $(SETUP) | $(BIN)/python
	$(PIP) -e ".[docs]"
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache
