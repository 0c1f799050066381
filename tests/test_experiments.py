"The experiment notebooks under papermill and the command line, on a small data set with small steps; their archive."
import html
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytest

from qvision.runs.run_files import RENAMED
from qvision.training.train_parameters import TRACKERS

SMALL = ['-p', 'limit', '40', '-p', 'quiet', 'true']
RECORDED = {'params', 'seed', 'git', 'packages', 'python', 'machine', 'data', 'parent', 'seconds', 'peak_memory_mb',
            'command', 'tolerance', 'notebook', 'status'}
OLD_FOR_NONE = dict(ratio=-1., encoder='', decoder='', bridge='', fusion='', precision='', start='', karpathy='')


def archive(workplace, name): return Path(workplace['QVISION_EXPERIMENTS'])/name
def read(path): return json.loads(path.read_text())
def metrics(workplace, name): return read(archive(workplace, name)/'metrics.json')
def write_info(folder, **info): (folder/'run.json').write_text(json.dumps(read(folder/'run.json') | info))
def run_info(workplace, name): return read(archive(workplace, name)/'run.json')


# parameters of train.ipynb that those older files do not have
NEWER = ('trained_on', 'dropout', 'warmup_steps', 'label_smoothing', 'weight_average', 'cross_entropy_weight', 'views',
         'quick', 'report_to', 'processes', 'launch')


def spell_as_before_none(path):
    "Write a run.json as an older qvision did: older names, and an empty text, 0 or -1. for what was not given."
    info = read(path)
    older = {today: old for old, today in RENAMED.items()}
    params = {older.get(name, name): value for name, value in info['params'].items()}
    info['params'] = {k: OLD_FOR_NONE.get(k, 0) if v is None else v for k, v in params.items() if k not in NEWER}
    path.write_text(json.dumps(info | dict(parent='')))


def train(qvision, root, data, name, *options, check=True):
    "Train twelve steps, saving every fourth."
    return qvision('run', 'train', '-p', 'data', data, '-p', 'name', name, '-p', 'max_steps', 12, '-p', 'save_steps', 4,
                   *SMALL, *options, cwd=root, check=check)


def papermill(root, workplace, out, *options):
    return subprocess.run([sys.executable, '-m', 'papermill', 'nbs/train.ipynb', str(out), *map(str, options)],
                          cwd=root, env=workplace, capture_output=True, text=True)


@pytest.fixture(scope='module')
def phase1(qvision, root, minicoco, workplace):
    train(qvision, root, minicoco, 'one')
    return 'one'


def test_phase1_is_archived(phase1, workplace):
    folder = archive(workplace, 'one')
    info = run_info(workplace, 'one')
    assert info['status'] == 'done'
    assert info['params']['max_steps'] == 12
    assert info['params']['preset'] == 'mini'
    assert info['data']['checksum']
    assert info['git']['commit']
    assert 'torch==' in (folder.parent/info['packages']).read_text()
    for made in ('train.ipynb', 'figures/loss.png', 'model/model.safetensors'): assert (folder/made).is_file()


def test_one_seed_gives_one_result(qvision, root, minicoco, workplace, phase1):
    train(qvision, root, minicoco, 'again')
    first, second = (archive(workplace, name)/'metrics.json' for name in ('one', 'again'))
    assert first.read_bytes() == second.read_bytes()


def test_tensorboard_follows(qvision, root, minicoco, workplace, phase1):
    "Its logs are in the run's folder; the metrics are those of a run without it."
    pytest.importorskip('tensorboard', reason='tensorboard is not installed')
    train(qvision, root, minicoco, 'followed', '-p', 'report_to', 'tensorboard')
    assert list((archive(workplace, 'followed')/'tensorboard').glob('events.out.tfevents.*'))
    first, second = (archive(workplace, name)/'metrics.json' for name in ('one', 'followed'))
    assert first.read_bytes() == second.read_bytes()


def test_a_tracker_that_is_missing_is_named(qvision, root, minicoco, workplace):
    missing = [name for name in TRACKERS if not find_spec(name)]
    if not missing: pytest.skip('every tracker is installed')
    done = train(qvision, root, minicoco, 'unfollowed', '-p', 'report_to', missing[0], check=False)
    assert done.returncode == 1
    assert f'needs a package that is not installed: pip install {missing[0]}' in done.stderr.splitlines()[-1]


def begin(workplace, root, data, name, *options):
    "Start a training run in the background, and return its process once there is a checkpoint."
    command = [str(Path(sys.executable).parent/'qvision'), 'run', 'train', '-p', 'data', str(data), '-p', 'name', name,
               '-p', 'save_steps', '3', *SMALL, *options] # rounded up to 4, where a log entry ends
    # a shell that starts tests in the background has them, and what they start, ignore Ctrl-C
    process = subprocess.Popen(command, cwd=root, env=workplace, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                               text=True, start_new_session=True,
                               preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL))
    for _ in range(6000):
        if list(archive(workplace, name).glob('checkpoints/*/files.json')) or process.poll() is not None: break
        time.sleep(.05)
    assert run_info(workplace, name)['status'] == 'running', 'it ended too early to show anything'
    return process


def test_killed_and_resumed_ends_the_same(qvision, root, minicoco, workplace, phase1):
    "The process is killed as soon as it has saved once; `--resume` finishes it, as it does a run of an older qvision."
    process = begin(workplace, root, minicoco, 'killed', '-p', 'max_steps', '12')
    os.kill(run_info(workplace, 'killed')['pid'], signal.SIGKILL)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert run_info(workplace, 'killed')['status'] == 'running', 'it was killed too late to show anything'
    spell_as_before_none(archive(workplace, 'killed')/'run.json')
    done = qvision('run', 'train', '--name', 'killed', '--resume', cwd=root) # with the parameters it was started with
    assert 'goes on with other parameters' not in done.stdout
    assert run_info(workplace, 'killed')['params']['frozen_ratio'] is None
    through, resumed = (archive(workplace, name)/'metrics.json' for name in ('one', 'killed'))
    assert through.read_bytes() == resumed.read_bytes()


def test_a_killed_kernel_is_a_failed_run(workplace, root, minicoco):
    "As when the system is short of memory; the archive says so, and the run goes on from its checkpoint."
    process = begin(workplace, root, minicoco, 'lost', '-p', 'max_steps', '3000')
    os.kill(run_info(workplace, 'lost')['pid'], signal.SIGKILL)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 1
    assert 'lost: its process was killed' in said.splitlines()[-1]
    info = run_info(workplace, 'lost')
    assert info['status'] == 'failed'
    assert info['error'].startswith('its process was killed')


def test_ctrl_c_says_how_to_go_on(qvision, root, minicoco, workplace):
    "Meanwhile the name is taken."
    process = begin(workplace, root, minicoco, 'stopped', '-p', 'max_steps', '3000')
    for options in ([], ['--resume']):
        second = train(qvision, root, minicoco, 'stopped', *options, check=False)
        assert second.returncode == 1
        assert second.stderr.splitlines() == [
            "qvision: run 'stopped' is running in another process: name another, or wait"]
    process.send_signal(signal.SIGINT)
    try: _, said = process.communicate(timeout=300)
    finally: process.kill()
    assert process.returncode == 130
    assert said.splitlines()[-1] == ('stopped is stopped; to go on: qvision run train --name stopped --resume '
                                     '(under papermill: -p name stopped -p resume true)')
    assert run_info(workplace, 'stopped')['status'] == 'stopped'


def test_a_run_that_is_not_done_is_no_parent(qvision, root, minicoco, workplace, phase1):
    half = archive(workplace, 'half')
    shutil.copytree(archive(workplace, 'one'), half)
    write_info(half, status='failed', name='half')
    done = train(qvision, root, minicoco, 'of-half', '-p', 'phase', 2, '-p', 'start', 'half', check=False)
    assert done.returncode == 1
    assert "run 'half' cannot be continued: it is not done but failed" in done.stderr


def test_the_parent_may_be_deleted_meanwhile(qvision, root, minicoco, workplace, phase1):
    parent = archive(workplace, 'parent')
    shutil.copytree(archive(workplace, 'one'), parent)
    write_info(parent, name='parent')
    process = begin(workplace, root, minicoco, 'child', '-p', 'phase', '2', '-p', 'start', 'parent',
                    '-p', 'max_steps', '12')
    shutil.rmtree(parent)
    process.communicate()
    assert process.returncode == 0
    assert run_info(workplace, 'child')['status'] == 'done'
    assert (archive(workplace, 'child')/'model/README.md').is_file()


def test_a_run_that_is_done_is_not_resumed(qvision, root, workplace, phase1):
    "Its notebook stays as it is."
    notebook = archive(workplace, 'one')/'train.ipynb'
    before = notebook.read_bytes()
    done = qvision('run', 'train', '--name', 'one', '--resume', cwd=root, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines() == ["qvision: run 'one' is done: there is nothing to resume"]
    assert notebook.read_bytes() == before


def sweep_lengths(data, name, splits, *options):
    "Return the arguments of a sweep that measures how long captions are."
    return ['sweep', 'template', '-p', 'data', str(data), '-p', 'split', splits, '-p', 'limit', '5,10',
            '-p', 'quiet', 'true', '--name', name, '--metric', 'words_mean', *options]


def wait_for(file, process):
    for _ in range(6000):
        if file.is_file() or process.poll() is not None: break
        time.sleep(.02)
    assert process.poll() is None, 'it ended too early to show anything'


def test_a_sweep_that_was_killed_goes_on(qvision, root, minicoco, workplace):
    "The process and its second run are killed; the same command makes what is missing, two at once, and compares."
    command = sweep_lengths(minicoco, 'lengths', 'val2017,shifted2017')
    process = subprocess.Popen([str(Path(sys.executable).parent/'qvision'), *command], cwd=root, env=workplace,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    wait_for(archive(workplace, 'lengths-2')/'run.json', process)
    os.killpg(process.pid, signal.SIGKILL)
    os.kill(run_info(workplace, 'lengths-2')['pid'], signal.SIGKILL)
    process.wait()
    assert run_info(workplace, 'lengths-2')['status'] == 'running', 'it was killed too late to show anything'
    first = run_info(workplace, 'lengths-1')
    left = qvision(*command, '--list', cwd=root).stdout.splitlines()
    assert [line.partition('--name ')[2] for line in left] == [f'lengths-{i} --resume' for i in (2, 3, 4)]

    done = qvision(*command, '--jobs', '2', cwd=root)
    assert run_info(workplace, 'lengths-1') == first
    assert run_info(workplace, 'lengths-4')['params'] == dict(
        data=str(minicoco), split='shifted2017', limit=10, name='lengths-4', resume=False, quiet=True)
    found = metrics(workplace, 'lengths')
    words = {name: row['value'] for name, row in found['runs'].items()}
    assert words == {f'lengths-{i}': metrics(workplace, f'lengths-{i}')['words_mean'] for i in (1, 2, 3, 4)}
    assert found['finding'].startswith('words_mean from ')
    assert found['finding'] in done.stdout
    assert run_info(workplace, 'lengths')['status'] == 'done'
    assert (archive(workplace, 'lengths')/'figures/sweep.png').is_file()

    files = {path: path.read_bytes() for path in archive(workplace, '.').glob('lengths*/*.*')}
    assert found['finding'] in qvision(*command, cwd=root).stdout
    assert {path: path.read_bytes() for path in archive(workplace, '.').glob('lengths*/*.*')} == files


def test_a_failed_run_does_not_end_a_sweep(qvision, root, minicoco, workplace):
    done = qvision(*sweep_lengths(minicoco, 'partly', 'nothing2017,val2017', '-p', 'limit', '5'), cwd=root, check=False)
    assert done.returncode == 1
    assert 'partly-1 (split nothing2017): ' in done.stderr
    assert 'partly-2 (split val2017): done' in done.stderr
    assert run_info(workplace, 'partly')['status'] == 'failed'
    assert run_info(workplace, 'partly')['error'] == '1 of 2 runs are not done'
    assert metrics(workplace, 'partly')['runs']['partly-2']['value'] > 0


@pytest.fixture(scope='module')
def phase2(root, minicoco, workplace, phase1, tmp_path_factory):
    out = tmp_path_factory.mktemp('papermill')/'OUT.ipynb'
    done = papermill(root, workplace, out, '-p', 'phase', 2, '-p', 'data', minicoco, '-p', 'start', 'one',
                     '-p', 'name', 'two', '-p', 'max_steps', 4, *SMALL)
    assert done.returncode == 0, done.stderr[-3000:]
    return 'two'


def test_phase2_under_papermill(phase2, workplace):
    info = run_info(workplace, 'two')
    assert info['parent'] == 'one'
    assert info['status'] == 'done'
    assert (archive(workplace, 'two')/'train.ipynb').is_file()


def test_evaluation(qvision, root, workplace, phase2):
    qvision('run', 'evaluate', '-p', 'run', 'two', '-p', 'name', 'scores', '-p', 'show_images', 'false',
            '-p', 'quiet', 'true', cwd=root)
    found = metrics(workplace, 'scores')
    assert set(found['scores']) == {'model', 'model, greedy', 'blind', 'people', 'model, one reference less'}
    assert found['scores']['people']['CIDEr'] > 0
    assert found['images'] == 24
    assert found['missing'].keys() <= {'METEOR'} # without Java
    assert set(found['diversity']) == {'model', 'model, greedy', 'people'}
    assert 0 <= found['diversity']['people']['copied'] < 1
    assert 0 < found['calibration']['ece'] < 1
    assert {kind: probe['questions'] for kind, probe in found['object_probe']['model'].items()} == dict.fromkeys(
        ('random', 'popular', 'adversarial'), found['object_probe']['blind']['random']['questions'])
    assert found['scene']['people']['colour']['accuracy'] == 1 # their captions are made from the scenes
    assert found['scene']['people']['count']['accuracy'] == 1
    shown = [o for c in read(archive(workplace, 'scores')/'evaluate.ipynb')['cells'][-2:] for o in c.get('outputs', [])]
    assert 'image/png' not in json.dumps(shown)


def test_evaluation_without_probes(qvision, root, workplace, phase2):
    qvision('run', 'evaluate', '-p', 'run', 'two', '-p', 'name', 'no-probes', '-p', 'probes', 'false', '-p', 'limit', 4,
            '-p', 'metrics', "['BLEU']", '-p', 'quiet', 'true', cwd=root)
    found = metrics(workplace, 'no-probes')
    assert found['scores']['model']['BLEU-1'] >= 0
    assert not {'diversity', 'calibration', 'object_probe', 'scene'} & set(found)
    assert not {'copied', 'object probe'} & set(found['missing'])


def test_runs_are_listed_and_compared(qvision, root, workplace, phase2):
    assert 'two' in qvision('runs', cwd=root).stdout
    assert 'two' in qvision('runs', 'compare', 'one', 'two', cwd=root).stdout
    assert '"phase": 2' in qvision('runs', 'show', 'two', '--json', cwd=root).stdout


ANALYSES = dict( # a run of a few steps names no objects, so some take the captioner that ships
    token_similarity=dict(model='package:captioner-drawings', show_images='false'),
    attention=dict(model='package:captioner-drawings', show_images='false'),
    bridges=dict(splits='val2017'), photo_design=dict(preset='mini'), peers=dict(preset='mini'),
    swap_decoder=dict(run='one'),
    benchmark=dict(turns='1', images='8', threads='1')) # the other worker has the other processor


LONG = {'photo_design'} # its parts are tested in the notebooks of training/


@pytest.mark.parametrize('notebook', [
    pytest.param(name, marks=pytest.mark.slow) if name in LONG else name for name in ANALYSES])
def test_analyses_have_a_quick_form(qvision, root, minicoco, workplace, phase1, notebook):
    given = ANALYSES[notebook] | dict(name=notebook, data=str(minicoco), quick='true', quiet='true')
    options = [word for k, v in given.items() for word in ('-p', k, v)]
    qvision('run', notebook, *options, cwd=root)
    assert run_info(workplace, notebook)['status'] == 'done'
    assert metrics(workplace, notebook)
    assert list((archive(workplace, notebook)/'figures').glob('*.png'))


def test_gallery_quick(qvision, root, workplace):
    pytest.importorskip('skimage', reason='scikit-image, which has the photographs of the gallery, is missing')
    qvision('run', 'gallery', '-p', 'model', 'package:captioner-drawings', '-p', 'quick', 'true', '-p', 'quiet', 'true',
            '-p', 'name', 'gallery', cwd=root)
    found = metrics(workplace, 'gallery')
    figures = sorted((archive(workplace, 'gallery')/'figures').glob('*.png'))
    assert [figure.stem for figure in figures] == sorted(found['photographs'])
    assert all(figure.stat().st_size <= 200_000 for figure in figures)
    pages = {page.stem.removeprefix('explain-'): page for page in archive(workplace, 'gallery').glob('explain-*.html')}
    assert pages.keys() == found['photographs'].keys()
    for name, page in pages.items():
        assert page.stat().st_size < 60_000, 'four of them are archived'
        assert html.escape(found['photographs'][name]['captions']['beam']['caption']) in page.read_text()
    for photograph in found['photographs'].values():
        assert photograph['outside'], 'this captioner knows drawings alone'
        assert photograph['distance_over_threshold'] > 1
        assert photograph['captions'].keys() == {'greedy', 'beam'}
        assert photograph['seconds']['median'] > 0
    assert found['right'] == sum(photograph['right'] for photograph in found['photographs'].values())


def test_the_table_of_a_run_is_of_its_phase(qvision, root, workplace, phase1):
    rows = json.loads(qvision('params', '--run', 'one', '--json', cwd=root).stdout)
    table = {r['component']: dict(total=r['total'], trainable=r['trainable']) for r in rows}
    assert table == metrics(workplace, 'one')['parameters']


def test_a_phase_does_not_ignore_what_it_cannot_change(qvision, root, minicoco, workplace, phase1):
    done = train(qvision, root, minicoco, 'other-bridge', '-p', 'phase', 2, '-p', 'start', 'one', '-p', 'bridge', 'mlp',
                 check=False)
    assert done.returncode == 1
    assert "bridge is 'mlp', but one, which this run continues, has 'qformer'" in done.stderr


def test_a_mistyped_parameter_says_which_there_are(qvision, root, minicoco, workplace):
    done = qvision('run', 'train', '-p', 'lerning_rate', '1e-4', '-p', 'name', 'typo', cwd=root, check=False)
    assert done.returncode == 1
    assert "did you mean 'learning_rate'" in done.stderr
    assert run_info(workplace, 'typo')['status'] == 'failed'
    qvision('run', 'train', '--name', 'typo', '--resume', '-p', 'learning_rate', '1e-4', '-p', 'data', minicoco,
            '-p', 'max_steps', 2, *SMALL, cwd=root) # the mistake does not come back
    assert run_info(workplace, 'typo')['status'] == 'done'


def test_a_failed_run_says_so(qvision, root, workplace, tmp_path):
    done = qvision('run', 'train', '-p', 'data', tmp_path, '-p', 'name', 'nodata', cwd=root, check=False)
    info = run_info(workplace, 'nodata')
    assert done.returncode == 1
    assert 'COCO layout' in done.stderr
    assert info['status'] == 'failed'
    assert 'COCO layout' in info['error']
    assert (archive(workplace, 'nodata')/'train.ipynb').is_file()
    taken = qvision('run', 'train', '-p', 'name', 'nodata', cwd=root, check=False)
    assert taken.returncode == 1
    assert '--resume' in taken.stderr


def test_a_failure_under_papermill_keeps_its_notebook(root, workplace, tmp_path):
    "The archive has the notebook with the error in it, though papermill wrote elsewhere."
    options = ['-p', 'data', tmp_path, '-p', 'name', 'failed', '-p', 'quiet', 'true']
    done = papermill(root, workplace, tmp_path/'OUT.ipynb', *options)
    info = run_info(workplace, 'failed')
    assert done.returncode != 0
    assert info['status'] == 'failed'
    assert info['notebook'].endswith('OUT.ipynb')
    kept = read(archive(workplace, 'failed')/'train.ipynb')['cells']
    assert any(o['output_type'] == 'error' for c in kept for o in c.get('outputs', []))


def test_run_json_records_what_a_run_must(phase1, workplace):
    info = run_info(workplace, 'one')
    assert info.keys() >= RECORDED
    given = [word for word in info['command'].split() if not word.startswith(('-p', '/'))]
    assert given == ['papermill', 'nbs/train.ipynb', 'OUT.ipynb', 'data', 'limit', '40', 'max_steps', '12',
                     'save_steps', '4', 'quiet', 'True']
    assert metrics(workplace, 'one')['parameters']['Total']['total'] > 0


def test_pretrain_quick(qvision, root, minicoco, workplace, tmp_path):
    qvision('run', 'pretrain', '-p', 'quick', 'true', '-p', 'out', tmp_path/'weights', '-p', 'work', tmp_path/'work',
            '-p', 'probe_data', minicoco, '-p', 'name', 'quick', cwd=root)
    assert 0 <= metrics(workplace, 'quick')['probe']['pretrained']['category'] <= 1
    assert (tmp_path/'weights/clip/model.safetensors').is_file()
