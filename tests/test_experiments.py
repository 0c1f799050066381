"The experiment notebooks under papermill and the command line, on a small data set with small steps; their archive."
import json
import subprocess
import sys
from pathlib import Path

import pytest

SMALL = ['-p', 'limit', '40', '-p', 'quiet', 'true']


def archive(workplace, name): return Path(workplace['QVISION_EXPERIMENTS'])/name
def metrics(workplace, name): return json.loads((archive(workplace, name)/'metrics.json').read_text())


@pytest.fixture(scope='module')
def phase1(qvision, root, minicoco, workplace):
    qvision('run', 'train', '-p', 'data', minicoco, '-p', 'name', 'one', '-p', 'max_steps', 12, '-p', 'save_steps', 4, *SMALL, cwd=root)
    return 'one'


def test_phase1_is_archived(phase1, workplace):
    folder = archive(workplace, 'one'); info = json.loads((folder/'run.json').read_text())
    assert info['status'] == 'done' and info['params']['max_steps'] == 12 and info['params']['preset'] == 'mini' and info['data']['checksum'] and info['git']['commit'] and info['packages']['torch']
    assert (folder/'train.ipynb').is_file() and (folder/'figures/loss.png').is_file() and (folder/'model/model.safetensors').is_file()


def test_one_seed_gives_one_result(qvision, root, minicoco, workplace, phase1):
    qvision('run', 'train', '-p', 'data', minicoco, '-p', 'name', 'again', '-p', 'max_steps', 12, '-p', 'save_steps', 4, *SMALL, cwd=root)
    assert (archive(workplace, 'again')/'metrics.json').read_bytes() == (archive(workplace, 'one')/'metrics.json').read_bytes()


def test_killed_and_resumed_ends_the_same(qvision, root, minicoco, workplace, phase1):
    "The process is killed as soon as it has saved once; `--resume` finishes it."
    import os, signal, time
    command = [str(Path(sys.executable).parent/'qvision'), 'run', 'train', '-p', 'data', str(minicoco), '-p', 'name', 'killed', '-p', 'max_steps', '12', '-p', 'save_steps', '4', *SMALL]
    process = subprocess.Popen(command, cwd=root, env=workplace, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    saved = archive(workplace, 'killed')/'checkpoints/checkpoint-4/trainer_state.json'
    for _ in range(1200):
        if saved.exists() or process.poll() is not None: break
        time.sleep(.05)
    pid = json.loads((archive(workplace, 'killed')/'run.json').read_text())['pid']
    os.kill(pid, signal.SIGKILL); os.killpg(process.pid, signal.SIGKILL); process.wait()
    assert json.loads((archive(workplace, 'killed')/'run.json').read_text())['status'] == 'running', 'it was killed too late to show anything'
    qvision('run', 'train', '--name', 'killed', '--resume', cwd=root) # with the parameters that it was started with
    a, b = (metrics(workplace, n) for n in ('one', 'killed'))
    assert a['final_loss'] == b['final_loss'] and a['validation_loss'] == b['validation_loss']


def test_phase2_under_papermill_and_evaluation(qvision, root, minicoco, workplace, phase1, tmp_path):
    out = tmp_path/'OUT.ipynb'
    done = subprocess.run([sys.executable, '-m', 'papermill', 'nbs/train.ipynb', str(out), '-p', 'phase', '2', '-p', 'data', str(minicoco), '-p', 'start', 'one', '-p', 'name', 'two', '-p', 'max_steps', '4', *SMALL],
                          cwd=root, env=workplace, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    info = json.loads((archive(workplace, 'two')/'run.json').read_text())
    assert info['parent'] == 'one' and info['status'] == 'done' and (archive(workplace, 'two')/'train.ipynb').is_file()
    qvision('run', 'evaluate', '-p', 'run', 'two', '-p', 'name', 'scores', '-p', 'show_images', 'false', '-p', 'quiet', 'true', cwd=root)
    found = metrics(workplace, 'scores')
    assert set(found['scores']) == {'model', 'model, greedy', 'blind', 'people', 'model, one reference less'} and found['scores']['people']['CIDEr'] > 0 and found['images'] == 24
    assert 'image/png' not in json.dumps([o for c in json.loads((archive(workplace, 'scores')/'evaluate.ipynb').read_text())['cells'][-2:] for o in c.get('outputs', [])])
    listed = qvision('runs', cwd=root).stdout
    assert 'scores' in listed and 'two' in qvision('runs', 'compare', 'one', 'two', cwd=root).stdout and '"phase": 2' in qvision('runs', 'show', 'two', '--json', cwd=root).stdout


ANALYSES = dict(token_similarity=('model', 'package:captioner', 'show_images', 'false'), attention=('model', 'package:captioner', 'show_images', 'false'), # a run of a few steps names no objects
                bridges=('splits', 'val2017'), swap_decoder=('run', 'one'), benchmark=('turns', '1'))


@pytest.mark.parametrize('notebook', ANALYSES)
def test_analyses_have_a_quick_form(qvision, root, minicoco, workplace, phase1, notebook):
    given = ANALYSES[notebook] + ('name', notebook, 'data', str(minicoco), 'quick', 'true', 'quiet', 'true')
    qvision('run', notebook, *(a for k, v in zip(given[::2], given[1::2]) for a in ('-p', k, v)), cwd=root)
    folder = archive(workplace, notebook); found = metrics(workplace, notebook)
    assert json.loads((folder/'run.json').read_text())['status'] == 'done' and found and list((folder/'figures').glob('*.png'))


def test_the_table_of_a_run_is_of_its_phase(qvision, root, workplace, phase1):
    table = {r['component']: dict(total=r['total'], trainable=r['trainable']) for r in json.loads(qvision('params', '--run', 'one', '--json', cwd=root).stdout)}
    assert table == metrics(workplace, 'one')['parameters']


def test_a_phase_does_not_ignore_what_it_cannot_change(qvision, root, minicoco, workplace, phase1):
    done = qvision('run', 'train', '-p', 'phase', '2', '-p', 'start', 'one', '-p', 'bridge', 'mlp', '-p', 'data', minicoco, '-p', 'name', 'other-bridge', *SMALL, cwd=root, check=False)
    assert done.returncode == 1 and "bridge is 'mlp', but one, which this run continues, has 'qformer'" in done.stderr


def test_a_mistyped_parameter_says_which_there_are(qvision, root, minicoco, workplace):
    done = qvision('run', 'train', '-p', 'lerning_rate', '1e-4', '-p', 'name', 'typo', cwd=root, check=False)
    assert done.returncode == 1 and "did you mean 'learning_rate'" in done.stderr
    assert json.loads((archive(workplace, 'typo')/'run.json').read_text())['status'] == 'failed'
    qvision('run', 'train', '--name', 'typo', '--resume', '-p', 'learning_rate', '1e-4', '-p', 'data', minicoco, '-p', 'max_steps', 2, *SMALL, cwd=root) # the mistake does not come back
    assert json.loads((archive(workplace, 'typo')/'run.json').read_text())['status'] == 'done'


def test_a_failed_run_says_so(qvision, root, workplace, tmp_path):
    done = qvision('run', 'train', '-p', 'data', tmp_path, '-p', 'name', 'nodata', cwd=root, check=False)
    info = json.loads((archive(workplace, 'nodata')/'run.json').read_text())
    assert done.returncode == 1 and 'COCO layout' in done.stderr and info['status'] == 'failed' and 'COCO layout' in info['error'] and (archive(workplace, 'nodata')/'train.ipynb').is_file()
    taken = qvision('run', 'train', '-p', 'name', 'nodata', cwd=root, check=False)
    assert taken.returncode == 1 and '--resume' in taken.stderr


def test_a_failure_under_papermill_keeps_its_notebook(root, workplace, tmp_path):
    "The archive has the notebook with the error in it, though papermill wrote elsewhere."
    out = tmp_path/'OUT.ipynb'
    done = subprocess.run([sys.executable, '-m', 'papermill', 'nbs/train.ipynb', str(out), '-p', 'data', str(tmp_path), '-p', 'name', 'failed', '-p', 'quiet', 'true'], cwd=root, env=workplace, capture_output=True, text=True)
    info = json.loads((archive(workplace, 'failed')/'run.json').read_text())
    assert done.returncode and info['status'] == 'failed' and info['notebook'].endswith('OUT.ipynb')
    assert any(o['output_type'] == 'error' for c in json.loads((archive(workplace, 'failed')/'train.ipynb').read_text())['cells'] for o in c.get('outputs', []))


def test_run_json_records_what_a_run_must(phase1, workplace):
    info = json.loads((archive(workplace, 'one')/'run.json').read_text())
    assert info.keys() >= {'params', 'seed', 'git', 'packages', 'python', 'machine', 'data', 'parent', 'seconds', 'peak_memory_mb', 'command', 'tolerance', 'notebook', 'status'}
    assert '-p max_steps 12' in info['command'] and '-p name' not in info['command'] and metrics(workplace, 'one')['parameters']['Total']['total'] > 0


def test_pretrain_quick(qvision, root, minicoco, workplace, tmp_path):
    qvision('run', 'pretrain', '-p', 'quick', 'true', '-p', 'out', tmp_path/'weights', '-p', 'work', tmp_path/'work', '-p', 'probe_data', minicoco, '-p', 'name', 'quick', cwd=root)
    assert 0 <= metrics(workplace, 'quick')['probe']['pretrained']['category'] <= 1 and (tmp_path/'weights/clip/model.safetensors').is_file()
