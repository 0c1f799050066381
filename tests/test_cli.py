"The command line, from outside the repository."
import json
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
from PIL import Image

from qvision import __version__ as qvision_version
from qvision.model.captioner import tiny_captioner
from qvision.inference.kernels import can_compile

NO_COMPILER = 'kernels cannot be built here: a C++ compiler or ninja is missing'
needs_compiler = pytest.mark.skipif(not can_compile(), reason=NO_COMPILER)
DRAWINGS = 'package:captioner-drawings'
NOT_AN_IMAGE_LIST = ('{"images": [{"id": 1, "file_name": "a.jpg"}], '
                     '"annotations": [{"id": 1, "image_id": 1, "caption": "x"}]}')


@pytest.fixture
def tiny_model(tmp_path):
    "Save a captioner with random weights."
    tiny_captioner().save_pretrained(tmp_path/'model')
    return tmp_path/'model'


@pytest.fixture
def boat(tmp_path):
    "Draw a red boat."
    from qvision.data.synthetic.scenes import Object, Scene, paint
    paint(Scene('beach', [[Object('boat', 'red', 'large', 60, 26, 44)]]), Random(0))[0].save(tmp_path/'boat.png')
    return tmp_path/'boat.png'


def test_help_is_complete(qvision, tmp_path):
    out = qvision('--help', cwd=tmp_path).stdout
    commands = ('data', 'run', 'sweep', 'runs', 'caption', 'explain', 'export', 'serve', 'demo', 'params',
                'import-multimodel')
    for command in commands: assert command in out


def test_params_are_the_published_integers(qvision, tmp_path):
    out = qvision('params', '--preset', 'reference', '--json', cwd=tmp_path).stdout
    rows = {r['component']: r for r in json.loads(out)}
    assert rows['Total'] == dict(component='Total', total=574061314, trainable=306561025, share=0.534)
    assert '218,408,961' in qvision('params', '--frozen-ratio', '0.7', cwd=tmp_path).stdout
    assert '268,781,569' in qvision('params', '--frozen-ratio', '0.5', '--markdown', cwd=tmp_path).stdout


def test_data_check(qvision, minicoco, tmp_path):
    assert '60 images, 300 captions' in qvision('data', 'check', minicoco, cwd=tmp_path).stdout
    annotations = tmp_path/'broken/annotations/captions_val2017.json'
    annotations.parent.mkdir(parents=True)
    annotations.write_text('{"images": []')
    done = qvision('data', 'check', tmp_path/'broken', cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert 'is not JSON' in done.stderr
    assert 'Traceback' not in done.stderr
    annotations.write_text(NOT_AN_IMAGE_LIST)
    done = qvision('data', 'check', tmp_path/'broken', cwd=tmp_path, check=False)
    assert done.returncode == 1 # nothing to train on
    assert '0 images' in done.stdout
    assert 'image file is missing: a.jpg' in done.stdout


def test_a_table_becomes_a_data_set(qvision, tmp_path):
    (tmp_path/'pictures').mkdir()
    Image.new('RGB', (40, 30)).save(tmp_path/'pictures/a.png')
    Image.new('RGB', (40, 30), 'red').save(tmp_path/'pictures/b.png')
    (tmp_path/'captions.csv').write_text('file,caption\na.png,A black picture.\nb.png,A red picture.\n')
    qvision('data', 'from-csv', 'captions.csv', 'pictures', 'own', cwd=tmp_path)
    assert '1 images, 1 captions' in qvision('data', 'check', 'own', cwd=tmp_path).stdout
    refused = qvision('data', 'from-csv', 'captions.csv', 'pictures', 'other', '--file-column', 'name',
                      cwd=tmp_path, check=False)
    assert 'column' in refused.stderr


def test_caption_skips_what_is_not_an_image(qvision, tiny_model, tmp_path):
    (tmp_path/'images').mkdir()
    Image.effect_noise((50, 40), 60).save(tmp_path/'images/a.png')
    (tmp_path/'images/b.jpg').write_text('no image')
    done = qvision('caption', tmp_path/'images', '--model', tiny_model, '--json', cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert 'b.jpg' in done.stderr
    assert [r['image'].rsplit('/', 1)[1] for r in json.loads(done.stdout)] == ['a.png']
    one = qvision('caption', tmp_path/'images/a.png', '--model', tiny_model, cwd=tmp_path)
    assert one.stdout.startswith(str(tmp_path/'images/a.png'))


def caption_noise(qvision, model, folder, *options, check=True):
    Image.effect_noise((50, 40), 60).save(folder/'a.png')
    return qvision('caption', 'a.png', '--model', model, '--precision', *options, cwd=folder, check=check)


@pytest.mark.parametrize('precision', ['bfloat16', 'int8'])
def test_captions_in_other_precisions(qvision, tiny_model, tmp_path, precision):
    assert caption_noise(qvision, tiny_model, tmp_path, precision).stdout.startswith('a.png\t')


@needs_compiler
@pytest.mark.parametrize('options', [
    pytest.param(('float32', '--compiled'), marks=pytest.mark.slow), ('int8', '--compiled'), ('int4',)])
def test_captions_by_compiled_kernels(qvision, tiny_model, tmp_path, options):
    assert caption_noise(qvision, tiny_model, tmp_path, *options).stdout.startswith('a.png\t')


def test_an_unknown_precision_is_refused(qvision, tiny_model, tmp_path):
    refused = caption_noise(qvision, tiny_model, tmp_path, 'int3', check=False)
    assert refused.returncode != 0
    assert 'int4' in refused.stderr
    assert 'Traceback' not in refused.stderr


def test_shipped_captioner_captions_a_drawing(qvision, boat, tmp_path):
    done = qvision('caption', boat, '--model', DRAWINGS, cwd=tmp_path)
    assert 'boat' in done.stdout
    assert 'red' in done.stdout
    assert f'captioner: {DRAWINGS}, trained on drawings' in done.stderr
    assert 'unlike' not in done.stderr


def test_pictures_unlike_the_training_pictures_are_named(qvision, boat, tmp_path):
    plain = [f'{colour}.png' for colour in ('red', 'green', 'blue', 'black', 'orange')]
    for file in plain: Image.new('RGB', (60, 40), file[:-4]).save(tmp_path/file)
    done = qvision('caption', 'boat.png', *plain, '--model', DRAWINGS, '--json', '--batch-size', '2', cwd=tmp_path)
    rows = json.loads(done.stdout)
    assert {row['image'] for row in rows if row['outside']} == set(plain)
    assert rows[0]['outside'] is False
    warnings = [line for line in done.stderr.splitlines() if 'unlike' in line]
    assert warnings[0] == ('red.png: unlike the pictures this captioner was trained on (drawings): '
                           'expect a poor caption')
    assert len(warnings) == 3
    assert '… and 2 more' in done.stderr
    done = qvision('explain', 'red.png', '--model', DRAWINGS, '--caption', 'A red wall.', cwd=tmp_path)
    assert 'captioner:' not in done.stdout and 'unlike' not in done.stdout
    assert f'captioner: {DRAWINGS}, trained on drawings' in done.stderr
    assert 'red.png: unlike' in done.stderr


def test_a_captioner_without_a_domain_compares_nothing(qvision, tiny_model, tmp_path):
    Image.new('RGB', (60, 40)).save(tmp_path/'a.png')
    done = qvision('caption', 'a.png', '--model', tiny_model, '--json', cwd=tmp_path)
    assert [row['outside'] for row in json.loads(done.stdout)] == [None]
    assert 'trained on' not in done.stderr


def test_a_damaged_domain_is_named(qvision, tiny_model, tmp_path):
    Image.new('RGB', (60, 40)).save(tmp_path/'a.png')
    (tiny_model/'domain.safetensors').write_bytes(b'no tensors')
    done = qvision('caption', 'a.png', '--model', tiny_model, cwd=tmp_path, check=False)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f'qvision: {tiny_model}/domain.safetensors is not the file of a domain')
    assert 'Traceback' not in done.stderr


def test_explain_writes_a_page_and_a_figure(qvision, boat, tmp_path):
    done = qvision('explain', 'boat.png', '-o', 'words.html', '--model', DRAWINGS, cwd=tmp_path)
    said = done.stdout
    assert f'captioner: {DRAWINGS}, trained on drawings' in done.stderr
    assert 'unlike' not in done.stderr
    page = (tmp_path/'words.html').read_text()
    assert 'boat' in said
    assert page.count('<button') == len(said.splitlines()[0].split())
    assert 'http://' not in page and 'https://' not in page
    qvision('explain', 'boat.png', '-o', 'words.png', '--caption', 'A red boat.', '--model', DRAWINGS, cwd=tmp_path)
    assert Image.open(tmp_path/'words.png').width > 300
    refused = qvision('explain', 'boat.png', '-o', 'words.pdf', cwd=tmp_path, check=False)
    assert 'an .html file' in refused.stderr


def test_version(qvision, tmp_path):
    assert qvision('--version', cwd=tmp_path).stdout == f'qvision {qvision_version}\n'


def test_help_is_quick(tmp_path):
    "It loads none of the heavy packages."
    script = "import sys, qvision.cli; print(*sys.modules)"
    done = subprocess.run([sys.executable, '-c', script], cwd=tmp_path, capture_output=True, text=True, check=True)
    heavy = {'torch', 'transformers', 'numpy', 'pandas', 'matplotlib', 'papermill', 'nbformat', 'tqdm'}
    assert 'typer' in done.stdout.split()
    assert not heavy & {*done.stdout.split()}


def test_runs_outside_a_repository(tmp_path, workplace):
    command = [str(Path(sys.executable).parent/'qvision'), 'runs']
    environment = {name: value for name, value in workplace.items() if name != 'QVISION_EXPERIMENTS'}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout == ''
    assert done.stderr == (f'qvision: there is no experiments folder here ({tmp_path}/experiments): go into the '
                           'repository, or set QVISION_EXPERIMENTS to the folder of your runs\n')


def test_runs_list_is_runs(qvision, workplace, tmp_path):
    Path(workplace['QVISION_EXPERIMENTS']).mkdir(exist_ok=True)
    assert qvision('runs', 'list', cwd=tmp_path).stdout == qvision('runs', cwd=tmp_path).stdout


def test_caption_says_whose_captions_they_are(qvision, tiny_model, tmp_path):
    Image.new('RGB', (40, 40)).save(tmp_path/'a.png')
    said = qvision('caption', 'a.png', '--model', tiny_model, cwd=tmp_path)
    assert str(tiny_model) in said.stderr
    quiet = qvision('caption', 'a.png', '--model', tiny_model, '--quiet', cwd=tmp_path)
    assert 'captioner:' not in quiet.stderr


def test_the_shipped_captioner_is_used_unless_a_run_is_named(tmp_path, monkeypatch):
    from qvision.commands import models
    from qvision.commands.models import chosen_model
    from qvision.runs.archive import start_run
    from qvision.training.train_parameters import TrainParameters
    monkeypatch.setenv('QVISION_EXPERIMENTS', str(tmp_path))
    monkeypatch.setattr(models, 'SHIPPED', DRAWINGS)
    with pytest.raises(ValueError, match='no finished training run'): chosen_model('latest')
    for later, name in enumerate(('old', 'new', 'broken')):
        run = start_run('train', TrainParameters(), name)
        run.model.mkdir()
        (run.model/'config.json').write_text('{}')
        run.update(started_at=run.info['started_at'] + later)
        if name == 'broken': run.fail(ValueError('x'))
        else: run.finish({})
    assert chosen_model() == DRAWINGS
    assert chosen_model('latest') == str(tmp_path/'new/model')
    assert chosen_model('old') == str(tmp_path/'old/model')
    assert chosen_model(model='mine') == 'mine'
    for run in ('old', 'latest'):
        with pytest.raises(ValueError, match='not both'): chosen_model(run, 'mine')
    for file in (tmp_path/'new/model').iterdir(): file.unlink()
    assert chosen_model('latest') == str(tmp_path/'old/model')
    monkeypatch.setattr(models, 'SHIPPED', 'package:nothing')
    with pytest.raises(FileNotFoundError, match='no captioner ships'): chosen_model()
    with pytest.raises(ValueError, match='make it again with: papermill'): chosen_model('new')


@pytest.mark.parametrize('params', [{}, dict(name=''), dict(name='none')])
def test_a_run_without_a_name_gets_one(root, tmp_path, monkeypatch, params):
    from qvision.commands import run
    monkeypatch.chdir(root)
    monkeypatch.setenv('QVISION_EXPERIMENTS', str(tmp_path))
    given = {}
    monkeypatch.setattr(run, '_run_papermill', lambda source, out, params, quiet: given.update(params))
    out = run.execute('train', params)
    assert out.parent.name == given['name']
    assert given['name'].startswith('train-')


def test_a_name_cannot_leave_the_archive(qvision, root, workplace, tmp_path):
    done = qvision('run', 'train', '--name', '../outside', cwd=root, check=False)
    assert done.returncode == 1
    assert 'letters, digits' in done.stderr
    assert not (root/'outside').exists()


@pytest.mark.parametrize('args', [
    ('runs', 'show', 'nothing'), ('run', 'nothing'), ('params', '--preset', 'minni'),
    ('import-multimodel', '.', 'out'), ('export', './none', 'out'), ('caption', 'x.png', '--model', './none')])
def test_errors_are_one_line(qvision, tmp_path, args):
    done = qvision(*args, cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith('qvision: ')
    assert 'Traceback' not in done.stderr
