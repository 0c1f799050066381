"The tests inside each library notebook, through nbdev's own runner: one test per notebook."
from pathlib import Path

import pytest
from nbdev.test import test_nb as run_notebook

NBS = Path(__file__).parent.parent/'nbs'
ONNX = ('onnx', 'onnxscript', 'onnxruntime')
NEEDS = {'model/07_onnx_graphs': ONNX, 'model/08_onnx': ONNX, # packages of an extra
         'serving/05_demo_page': ('gradio',), 'commands/12_demo': ('gradio',)}
SLOW = '"#| slow' # a cell with this flag runs in `make test-slow`
NOTEBOOKS = sorted(p for p in NBS.rglob('[0-9]*.ipynb') if '.ipynb_checkpoints' not in p.parts)


def notebook_name(notebook): return notebook.relative_to(NBS).with_suffix('').as_posix()


def run_tests(notebook, monkeypatch, skip):
    "Run the cells of a notebook but for those with a flag to skip."
    for package in NEEDS.get(notebook_name(notebook), ()):
        pytest.importorskip(package, reason=f'{package} is not installed (an extra of pyproject.toml)')
    monkeypatch.chdir(notebook.parent)
    passed, seconds = run_notebook(notebook, skip_flags=skip, do_print=False)
    assert passed, f'{notebook.name} fails: run it in Jupyter, or nbdev_test --path {notebook}'


@pytest.mark.parametrize('notebook', NOTEBOOKS, ids=notebook_name)
def test_notebook(notebook, monkeypatch): run_tests(notebook, monkeypatch, ['slow'])


@pytest.mark.slow
@pytest.mark.parametrize('notebook', [p for p in NOTEBOOKS if SLOW in p.read_text(encoding='utf8')], ids=notebook_name)
def test_slow_cells(notebook, monkeypatch): run_tests(notebook, monkeypatch, [])
