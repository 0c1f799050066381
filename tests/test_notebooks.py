"The tests inside each library notebook, through nbdev's own runner: one test a notebook."
from pathlib import Path

import pytest
from nbdev.test import test_nb as run_notebook

NOTEBOOKS = sorted((Path(__file__).parent.parent/'nbs').glob('[0-9]*.ipynb'))


@pytest.mark.parametrize('notebook', NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook(notebook, monkeypatch):
    monkeypatch.chdir(notebook.parent)
    passed, seconds = run_notebook(notebook, do_print=False)
    assert passed, f'{notebook.name} fails: run it in Jupyter, or nbdev_test --path nbs/{notebook.name}'
