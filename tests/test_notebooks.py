"The tests inside each library notebook, through nbdev's own runner: one test per notebook."
from pathlib import Path

import pytest
from nbdev.test import test_nb as run_notebook

NBS = Path(__file__).parent.parent/'nbs'
ONNX = ('onnx', 'onnxscript', 'onnxruntime')
NEEDS = {'model/07_onnx_graphs': ONNX, 'model/08_onnx': ONNX, # packages of an extra
         'serving/05_demo_page': ('gradio',), 'commands/12_demo': ('gradio',)}
NOTEBOOKS = sorted(p for p in NBS.rglob('[0-9]*.ipynb') if '.ipynb_checkpoints' not in p.parts)


@pytest.mark.parametrize('notebook', NOTEBOOKS, ids=lambda p: p.relative_to(NBS).with_suffix('').as_posix())
def test_notebook(notebook, monkeypatch):
    for package in NEEDS.get(notebook.relative_to(NBS).with_suffix('').as_posix(), ()):
        pytest.importorskip(package, reason=f'{package} is not installed (an extra of pyproject.toml)')
    monkeypatch.chdir(notebook.parent)
    passed, seconds = run_notebook(notebook, do_print=False)
    assert passed, f'{notebook.name} fails: run it in Jupyter, or nbdev_test --path {notebook}'
