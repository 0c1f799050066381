# qvision: `make experiment` trains both phases and evaluates them, `make test` passes the tests.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export TOKENIZERS_PARALLELISM ?= false

.PHONY: setup experiment test test-slow readme docs clean

setup: $(STAMP)

# Made again only when what is to be installed has changed.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev,onnx,serve,shards]'
	git rev-parse --git-dir >/dev/null 2>&1 && $(BIN)/nbdev_install_hooks || echo 'not a git checkout: no notebook hooks installed'
	touch $@

experiment: setup
	BIN=$(BIN) tools/experiment.sh

test: setup
	$(BIN)/python -m pytest -n logical --dist loadgroup -m "not slow"

test-slow: setup
	$(BIN)/python -m pytest -n logical --dist loadgroup

readme: setup
	$(BIN)/python tools/make_readme.py

docs: setup
	$(BIN)/python tools/build_docs.py

clean:
	rm -rf $(VENV) _docs build dist *.egg-info .pytest_cache data/minicoco data/pretrain
