"The command line, from outside the repository."
import json

import pytest
from PIL import Image

from qvision.captioner import tiny_captioner
from qvision.kernels import can_compile


def test_help_is_complete(qvision, tmp_path):
    out = qvision('--help', cwd=tmp_path).stdout
    for command in ('data', 'run', 'runs', 'caption', 'explain', 'params', 'import-multimodel'): assert command in out


def test_params_are_the_published_integers(qvision, tmp_path):
    rows = {r['component']: r for r in json.loads(qvision('params', '--preset', 'reference', '--json', cwd=tmp_path).stdout)}
    assert rows['Total'] == dict(component='Total', total=574061314, trainable=306561025, share=0.534)
    assert '218,408,961' in qvision('params', '--ratio', '0.7', cwd=tmp_path).stdout
    assert '268,781,569' in qvision('params', '--ratio', '0.5', '--markdown', cwd=tmp_path).stdout


def test_data_check(qvision, minicoco, tmp_path):
    assert '60 images, 300 captions' in qvision('data', 'check', minicoco, cwd=tmp_path).stdout
    broken = tmp_path/'broken'; (broken/'annotations').mkdir(parents=True)
    (broken/'annotations/captions_val2017.json').write_text('{"images": []')
    done = qvision('data', 'check', broken, cwd=tmp_path, check=False)
    assert done.returncode == 1 and 'is not JSON' in done.stderr and 'Traceback' not in done.stderr
    (broken/'annotations/captions_val2017.json').write_text('{"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"id": 1, "image_id": 1, "caption": "x"}]}')
    done = qvision('data', 'check', broken, cwd=tmp_path, check=False)
    assert done.returncode == 1 and '0 images' in done.stdout and 'image file is missing: a.jpg' in done.stdout # nothing to train on


def test_a_table_becomes_a_data_set(qvision, tmp_path):
    (tmp_path/'pictures').mkdir(); Image.new('RGB', (40, 30)).save(tmp_path/'pictures/a.png'); Image.new('RGB', (40, 30), 'red').save(tmp_path/'pictures/b.png')
    (tmp_path/'captions.csv').write_text('file,caption\na.png,A black picture.\nb.png,A red picture.\n')
    qvision('data', 'from-csv', 'captions.csv', 'pictures', 'own', cwd=tmp_path)
    assert '1 images, 1 captions' in qvision('data', 'check', 'own', cwd=tmp_path).stdout
    assert 'column' in qvision('data', 'from-csv', 'captions.csv', 'pictures', 'other', '--file-column', 'name', cwd=tmp_path, check=False).stderr


def test_caption_skips_what_is_not_an_image(qvision, tmp_path):
    tiny_captioner().save_pretrained(tmp_path/'model')
    (tmp_path/'images').mkdir(); Image.effect_noise((50, 40), 60).save(tmp_path/'images/a.png'); (tmp_path/'images/b.jpg').write_text('no image')
    done = qvision('caption', tmp_path/'images', '--model', tmp_path/'model', '--json', cwd=tmp_path, check=False)
    assert done.returncode == 1 and 'b.jpg' in done.stderr
    assert [r['image'].rsplit('/', 1)[1] for r in json.loads(done.stdout)] == ['a.png']
    assert qvision('caption', tmp_path/'images/a.png', '--model', tmp_path/'model', cwd=tmp_path).stdout.startswith(str(tmp_path/'images/a.png'))


def test_captions_in_every_precision(qvision, tmp_path):
    tiny_captioner().save_pretrained(tmp_path/'model'); Image.effect_noise((50, 40), 60).save(tmp_path/'a.png')
    for options in (('bfloat16',), ('int8',), *((('int8', '--compiled'), ('int4',)) if can_compile() else ())):
        assert qvision('caption', 'a.png', '--model', tmp_path/'model', '--precision', *options, cwd=tmp_path).stdout.startswith('a.png\t')
    refused = qvision('caption', 'a.png', '--model', tmp_path/'model', '--precision', 'int3', cwd=tmp_path, check=False)
    assert refused.returncode and 'int4' in refused.stderr and 'Traceback' not in refused.stderr


def test_shipped_captioner_captions_a_drawing(qvision, tmp_path):
    from random import Random
    from qvision.scenes import Object, Scene, paint
    paint(Scene('beach', [[Object('boat', 'red', 'large', 60, 26, 44)]]), Random(0))[0].save(tmp_path/'boat.png')
    said = qvision('caption', tmp_path/'boat.png', '--model', 'package:captioner', cwd=tmp_path).stdout
    assert 'boat' in said and 'red' in said


def test_explain_writes_a_page_and_a_figure(qvision, tmp_path):
    from random import Random
    from qvision.scenes import Object, Scene, paint
    paint(Scene('beach', [[Object('boat', 'red', 'large', 60, 26, 44)]]), Random(0))[0].save(tmp_path/'boat.png')
    said = qvision('explain', 'boat.png', '-o', 'words.html', cwd=tmp_path).stdout; page = (tmp_path/'words.html').read_text()
    assert 'boat' in said and page.count('<button') == len(said.splitlines()[0].split()) and 'http://' not in page and 'https://' not in page
    qvision('explain', 'boat.png', '-o', 'words.png', '--caption', 'A red boat.', cwd=tmp_path); assert Image.open(tmp_path/'words.png').width > 300
    assert 'an .html file' in qvision('explain', 'boat.png', '-o', 'words.pdf', cwd=tmp_path, check=False).stderr


def test_runs_list_is_runs(qvision, tmp_path):
    assert qvision('runs', 'list', cwd=tmp_path).stdout == qvision('runs', cwd=tmp_path).stdout


def test_caption_says_whose_captions_they_are(qvision, tmp_path):
    tiny_captioner().save_pretrained(tmp_path/'model'); Image.new('RGB', (40, 40)).save(tmp_path/'a.png')
    said = qvision('caption', 'a.png', '--model', tmp_path/'model', cwd=tmp_path)
    assert str(tmp_path/'model') in said.stderr and not qvision('caption', 'a.png', '--model', tmp_path/'model', '--quiet', cwd=tmp_path).stderr.count('captioner:')


def test_a_newer_run_is_used_before_the_shipped_captioner(tmp_path, monkeypatch):
    from qvision.cli import chosen_model
    from qvision.runs import start_run
    from qvision.training import TrainParameters
    monkeypatch.setenv('QVISION_EXPERIMENTS', str(tmp_path))
    for name, end in (('old', 'finish'), ('new', 'finish'), ('broken', 'fail')):
        run = start_run('train', TrainParameters(), name); run.model.mkdir(); (run.model/'config.json').write_text('{}')
        run.update(started_at=run.info['started_at'] + len(list(tmp_path.iterdir()))); getattr(run, end)(dict() if end == 'finish' else ValueError('x'))
    assert chosen_model() == str(tmp_path/'new/model') and chosen_model('old') == str(tmp_path/'old/model') and chosen_model(model='mine') == 'mine'
    with pytest.raises(ValueError, match='not both'): chosen_model('old', 'mine')
    for file in (tmp_path/'new/model').iterdir(): file.unlink()
    assert chosen_model() == str(tmp_path/'old/model')
    with pytest.raises(ValueError, match='make it again with: papermill'): chosen_model('new')


def test_a_name_cannot_leave_the_archive(qvision, root, workplace, tmp_path):
    done = qvision('run', 'train', '--name', '../outside', cwd=root, check=False)
    assert done.returncode == 1 and 'letters, digits' in done.stderr and not (root/'outside').exists()


def test_errors_are_one_line(qvision, tmp_path):
    for args in (('runs', 'show', 'nothing'), ('run', 'nothing'), ('params', '--preset', 'minni'), ('import-multimodel', tmp_path, tmp_path/'out'), ('caption', 'x.png', '--model', './none')):
        done = qvision(*args, cwd=tmp_path, check=False)
        assert done.returncode == 1 and 'Traceback' not in done.stderr and done.stderr.startswith('qvision: '), (args, done.stderr)
