"`qvision export --format onnx`: the graphs compute what PyTorch does, with and without the packages of the extra."
import os
import subprocess
import sys
from importlib.util import find_spec
from random import Random
from unittest.mock import patch

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from qvision import Captioner, cli # registers the commands
from qvision.commands.app import app
from qvision.data.images import load_images
from qvision.data.synthetic.scenes import paint, sample_scene
from qvision.model.captioner import tiny_captioner
from qvision.model.export import ImageProgram
from qvision.model.onnx import EXPORTING, RUNNING, OnnxCaptioner, export_image_graph, export_onnx

MISSING = [name for name in EXPORTING + RUNNING if find_spec(name) is None]
needs_onnx = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)} (extra onnx)")
WITHOUT_TORCH = ('import sys; sys.modules.update(torch=None, transformers=None); '
                 'from qvision.model.onnx import caption_with_onnx; print(caption_with_onnx(*sys.argv[1:]))')


@pytest.fixture
def drawings(): return [paint(sample_scene(Random(seed)), Random(seed))[0] for seed in range(3)]


@torch.no_grad()
def same_keys_and_values(model, encode, drawings)->bool:
    "Return whether a graph's keys and values are PyTorch's."
    pixels = load_images(drawings, model.image_processor)
    return np.allclose(encode(pixels.numpy()), ImageProgram(model.eval())(pixels), rtol=1e-4, atol=1e-4)


def test_missing_packages_name_the_extra(tmp_path):
    with patch('qvision.model.onnx.find_spec', return_value=None):
        done = CliRunner().invoke(app, ['export', 'package:captioner', str(tmp_path/'out'), '--format', 'onnx'])
    assert str(done.exception) == "ONNX needs onnx and onnxscript: pip install 'qvision[onnx]'"
    assert not (tmp_path/'out').exists()


@needs_onnx
def test_the_commands_graphs_caption_without_torch(qvision, drawings, tmp_path):
    model = tiny_captioner()
    model.save_pretrained(tmp_path/'model')
    done = qvision('export', 'model', 'out', '--format', 'onnx', cwd=tmp_path)
    assert [line.split(' (')[0] for line in done.stdout.splitlines()] == [
        'written: out/image.onnx', 'written: out/step.onnx']
    assert done.stderr == ''
    assert OnnxCaptioner(tmp_path/'out')(drawings) == model.caption(drawings)
    drawings[0].save(tmp_path/'a.png')
    said = subprocess.run([sys.executable, '-c', WITHOUT_TORCH, 'out', 'a.png'], cwd=tmp_path, env=dict(os.environ),
                          capture_output=True, text=True, check=True).stdout
    assert said.strip() == model(drawings[0])
    # a checkpoint's folder is not written to
    refused = qvision('export', 'model', 'model', '--format', 'onnx', cwd=tmp_path, check=False)
    assert refused.returncode == 1
    assert 'belongs to another model' in refused.stderr
    assert Captioner.from_pretrained(tmp_path/'model').config.model_type == 'qvision'


@needs_onnx
def test_the_captioner_for_photographs(drawings, tmp_path):
    model = Captioner.from_pretrained('package:captioner')
    export_onnx(model, tmp_path)
    graphs = OnnxCaptioner(tmp_path)
    assert same_keys_and_values(model, graphs.encode, drawings)
    assert graphs(drawings) == model.caption(drawings)


@needs_onnx
def test_a_tower_with_several_levels(drawings, tmp_path):
    "`join_levels` is exported."
    from onnxruntime import InferenceSession
    model = Captioner.from_backbones('photo', encoder='package:efficientnet-lite2-multilevel')
    assert model.config.vision_config.levels
    export_image_graph(model, tmp_path/'image.onnx')
    session = InferenceSession(tmp_path/'image.onnx')
    assert same_keys_and_values(model, lambda pixels: session.run(None, dict(pixel_values=pixels))[0], drawings)
