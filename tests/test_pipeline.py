"Pipelines and auto classes of transformers, once qvision is imported: before them or after."
import subprocess
import sys

import pytest

from qvision.model.captioner import Captioner

ORDERS = ('import qvision\nfrom transformers import AutoConfig, AutoModel, pipeline',
          'from transformers import AutoConfig, AutoModel, pipeline\nimport qvision')
PROGRAM = '''
import sys
{imports}
config = AutoConfig.from_pretrained('package')
print(type(config).__name__, type(AutoModel.from_pretrained('package')).__name__)
describe = pipeline({task!r}, model='package')
print(describe('drawing.png', text='')[0]['generated_text'])
print([each['generated_text'] for each in describe(['drawing.png']*2, text=['A large']*2)])
'''


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    "A folder with a saved captioner and a drawing; and its captions of it."
    from random import Random
    from qvision.data.synthetic.scenes import paint, sample_scene
    folder = tmp_path_factory.mktemp('pipeline')
    captioner = Captioner.from_pretrained('package:captioner-drawings')
    captioner.save_pretrained(folder/'package')
    paint(sample_scene(Random(2)), Random(2))[0].save(folder/'drawing.png')
    drawing = folder/'drawing.png'
    return folder, captioner.caption(drawing), captioner.caption(drawing, prompt='A large')


@pytest.mark.parametrize('imports', ORDERS, ids=['qvision first', 'transformers first'])
@pytest.mark.parametrize('task', ['image-text-to-text', 'image-to-text'])
def test_a_pipeline_captions_as_the_captioner_does(folder, imports, task):
    place, caption, begun = folder
    program = PROGRAM.format(imports=imports, task=task)
    done = subprocess.run([sys.executable, '-c', program], cwd=place, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines() == ['CaptionerConfig Captioner', caption, str([begun]*2)]
    assert 'is not supported for' not in done.stderr


def test_auto_classes_alone_load_no_captioner():
    program = ('import sys, qvision\nfrom transformers import AutoConfig, AutoTokenizer\n'
               'assert "qvision.model.captioner" not in sys.modules')
    done = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
