"`qvision export --format onnx`: the graphs compute what PyTorch does, with and without the packages of the extra."
import os
import subprocess
import sys
from functools import cache
from importlib.util import find_spec
from random import Random

import pytest

from qvision import Captioner
from qvision.data.synthetic.scenes import paint, sample_scene
from qvision.model.captioner import tiny_captioner
from qvision.model.onnx import EXPORTING, OnnxCaptioner, export_onnx, onnx_differences

MISSING = [name for name in EXPORTING if find_spec(name) is None]
needs_onnx = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)} (extra onnx)")
WITHOUT_TORCH = ('import sys; sys.modules.update(torch=None, transformers=None); '
                 'from qvision.model.onnx import caption_with_onnx; print(caption_with_onnx(*sys.argv[1:]))')
WITHOUT_ONNX = ('import sys; sys.modules.update(onnx=None, onnxscript=None, onnxruntime=None); '
                'from qvision.cli import main; main()')
SHIPPED = 'captioner', 'captioner-drawings'


def draw(seed:int): return paint(sample_scene(Random(seed)), Random(seed))[0]


def python(code, *args, cwd, env):
    "Run Python code with arguments in a folder."
    return subprocess.run([sys.executable, '-c', code, *args], cwd=cwd, env=env, capture_output=True, text=True)


@pytest.fixture(scope='module')
def exported(tmp_path_factory):
    "Return a captioner that ships and its graphs, exported once: `exported('captioner')`."
    @cache
    def export(name):
        folder = tmp_path_factory.mktemp('onnx')/name
        model = Captioner.from_pretrained(f'package:{name}')
        export_onnx(model, folder)
        return model, OnnxCaptioner(folder)
    return export


def test_missing_packages_name_the_extra(workplace, tmp_path):
    done = python(WITHOUT_ONNX, 'export', 'package:captioner', 'out', '--format', 'onnx', cwd=tmp_path, env=workplace)
    assert done.returncode == 1
    assert done.stderr == "qvision: ONNX needs onnx, onnxscript, onnxruntime: pip install 'qvision[onnx]'\n"
    assert not (tmp_path/'out').exists()


@needs_onnx
def test_the_commands_graphs_caption_without_torch(qvision, tmp_path):
    model = tiny_captioner()
    model.save_pretrained(tmp_path/'model')
    (tmp_path/'out').mkdir()
    done = qvision('export', '../model', '.', '--format', 'onnx', cwd=tmp_path/'out')
    assert [line.split(' (')[0] for line in done.stdout.splitlines()[:2]] == [
        'written: image.onnx', 'written: step.onnx']
    assert float(done.stdout.split()[-1]) < 2e-5
    assert done.stderr == ''
    drawings = [draw(seed) for seed in range(3)]
    assert OnnxCaptioner(tmp_path/'out')(drawings) == model.caption(drawings)
    drawings[0].save(tmp_path/'a.png')
    said = python(WITHOUT_TORCH, 'out', 'a.png', cwd=tmp_path, env=dict(os.environ))
    assert said.stdout.strip() == model(drawings[0]), said.stderr
    # a checkpoint's folder is not written to
    refused = qvision('export', 'model', 'model', '--format', 'onnx', cwd=tmp_path, check=False)
    assert refused.returncode == 1
    assert 'belongs to another model' in refused.stderr
    assert Captioner.from_pretrained(tmp_path/'model').config.model_type == 'qvision'


@needs_onnx
@pytest.mark.parametrize('name', [SHIPPED[0], pytest.param(SHIPPED[1], marks=pytest.mark.slow)])
def test_captioners_that_ship(name, exported):
    model, graphs = exported(name)
    drawings = [draw(seed) for seed in range(4)]
    assert graphs(drawings) == model.caption(drawings, decoding='greedy')
    for past, new in ((0, 1), (9, 1), (20, 20)):
        differences = onnx_differences(model, graphs, drawings[:2], past, new)
        assert max(differences.values()) < 2e-5, differences


@needs_onnx
@pytest.mark.slow
@pytest.mark.parametrize('name', SHIPPED)
def test_a_hundred_drawings(name, exported):
    model, graphs = exported(name)
    drawings = [draw(seed) for seed in range(100)]
    captions = graphs(drawings)
    assert captions == model.caption(drawings, decoding='greedy')
    assert len(set(captions)) > 10


@needs_onnx
@pytest.mark.slow
def test_a_hundred_photographs(root, exported):
    photographs = sorted((root/'data/flickr8k/val2017').glob('*.jpg'))[:100]
    if len(photographs) < 100: pytest.skip('data/flickr8k is not there: `qvision data flickr8k` makes it')
    model, graphs = exported('captioner')
    captions = graphs(photographs)
    assert captions == model.caption(photographs, decoding='greedy')
    assert len(set(captions)) > 10
