# qvision: `make experiment` trains both phases and evaluates them, `make test` passes the tests.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
export TOKENIZERS_PARALLELISM ?= false

.PHONY: setup experiment test test-slow readme docs clean

setup: $(STAMP)

# Made again only when what is to be installed has changed.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	$(BIN)/nbdev_install_hooks
	touch $@

experiment: setup
	tools/experiment.sh

test: setup
	$(BIN)/python -m pytest -m "not slow"

test-slow: setup
	$(BIN)/python -m pytest

readme: setup
	$(BIN)/python tools/make_readme.py

docs: setup
	$(BIN)/python tools/build_docs.py

clean:
	rm -rf .venv _proc _docs build dist *.egg-info .pytest_cache data/minicoco data/pretrain
