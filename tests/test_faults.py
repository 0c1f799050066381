"Kills, full disks, damaged files and races: nothing is lost, and nothing is wrong in silence."
import os
import signal
import subprocess
import sys
from dataclasses import make_dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from transformers import TrainerCallback

from qvision.config import Phase
from qvision.model.captioner import tiny_captioner
from qvision.runs.archive import start_run
from qvision.training.dataset import CaptionDataset
from qvision.training.phase import train_phase
from qvision.training.pretrain_data import fresh_scenes
from qvision.training.self_critical import SelfCriticalTrainer

ROOT = Path(__file__).resolve().parent.parent


def start(script, *args, prefix=()):
    "Start a Python script in a process of its own, without the command line."
    environment = os.environ | dict(PYTHONPATH=str(ROOT), OMP_NUM_THREADS='1')
    return subprocess.Popen([*prefix, sys.executable, '-c', script, *map(str, args)], env=environment, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def ended(process):
    "Wait for a process; return its exit status and what it wrote, errors last."
    out, err = process.communicate(timeout=300)
    return process.returncode, out + err


# Full disks: a file system of one megabyte, in a namespace of its own, where this system lets a user have one

IN_SMALL_DISK = ('unshare', '-rm', 'sh', '-c', 'mount -t tmpfs -o size=1m none "$0" && exec "$@"')


@pytest.fixture
def on_small_disk(tmp_path):
    "Run a script whose first argument is a folder on a disk of one megabyte."
    try: trial = subprocess.run([*IN_SMALL_DISK, str(tmp_path), 'true'], capture_output=True)
    except FileNotFoundError: pytest.skip('unshare, which makes a small disk, is missing')
    if trial.returncode: pytest.skip('this system lets no user mount a small disk')
    return lambda script: ended(start(script, tmp_path, prefix=(*IN_SMALL_DISK, str(tmp_path))))


FILL_CACHE = '''
import sys
import torch
from qvision.data.features import cached_rows
cached_rows('key', 1000, lambda first: torch.ones(10, 1000), folder=sys.argv[1], progress=False)
'''


def test_a_full_disk_is_an_error_of_the_cache(on_small_disk):
    status, said = on_small_disk(FILL_CACHE)
    assert status == 1, f'ended by signal {-status}' if status < 0 else said
    assert 'no space left' in said.splitlines()[-1]


DRAW = '''
import sys
from qvision.training.pretrain_data import fresh_scenes
fresh_scenes(sys.argv[1], 64, workers=1, progress=False)
'''
TRAIN = '''
import sys
from types import SimpleNamespace
import numpy as np
from qvision.config import Phase
from qvision.model.captioner import tiny_captioner
from qvision.training.dataset import CaptionDataset
from qvision.training.phase import train_phase
model = tiny_captioner()
shape = (4, model.encoder.num_patches, model.config.vision_config.hidden_size)
cache = SimpleNamespace(features=np.ones(shape, np.float16), index={i: i for i in range(4)})
data = SimpleNamespace(images=[SimpleNamespace(id=i, captions=['A red car.']) for i in range(4)])
pairs = CaptionDataset(data, cache, model.tokenizer)
phase = Phase(frozen_ratio=0., learning_rate=1e-3, batch_size=4, epochs=8, accumulation=1, precision='fp32')
train_phase(model, pairs, phase, sys.argv[1] + '/checkpoints', save_steps=2, text_cache=0)
'''


def test_a_full_disk_is_an_error_of_the_scenes(on_small_disk):
    status, said = on_small_disk(DRAW)
    assert status == 1, f'ended by signal {-status}' if status < 0 else said
    assert 'no space left for 64 scenes' in said.splitlines()[-1]


def test_a_full_disk_is_an_error_of_the_checkpoint(on_small_disk):
    status, said = on_small_disk(TRAIN)
    assert status == 1, f'ended by signal {-status}' if status < 0 else said
    assert 'no space left for checkpoint-2' in said.splitlines()[-1]


# A resumed run of phase 3, whose log has rewards (phases 1 and 2: in nbs/training/05_phase.ipynb)

class Killed(TrainerCallback):
    "End the training after five steps, as a killed process would."
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 5: raise InterruptedError('killed')


class Letters:
    "Reward letters: an untrained captioner writes no word that a reference has."
    def score(self, row, caption, ended=True): return row + len(set(caption))/10


def rewarded(folder, **kwargs):
    "Train a tiny captioner on rewards, eight steps of two batches each, and return the log."
    model = tiny_captioner()
    shape = (8, model.encoder.num_patches, model.config.vision_config.hidden_size)
    features = np.random.default_rng(0).normal(size=shape).astype('float16')
    images = [SimpleNamespace(id=i, captions=[f'A red car and {i} birds.']) for i in range(8)]
    cache = SimpleNamespace(features=features, index={i: i for i in range(8)})
    dataset = CaptionDataset(SimpleNamespace(images=images), cache, model.tokenizer)
    phase = Phase(frozen_ratio=.5, learning_rate=1e-3, batch_size=2, epochs=4, accumulation=2, precision='fp32',
                  captions_per_image=1, objective='cider')
    trainer = partial(SelfCriticalTrainer, scorer=Letters(), samples=3)
    return train_phase(model, dataset, phase, folder, save_steps=3, trainer=trainer, **kwargs)


def test_a_resumed_run_logs_the_same_rewards(tmp_path):
    through = rewarded(tmp_path/'through')
    assert [entry['step'] for entry in through] == [2, 4, 6, 8]
    assert len({entry['reward'] for entry in through}) == 4
    assert all(entry['loss'] for entry in through)
    with pytest.raises(InterruptedError): rewarded(tmp_path/'killed', callbacks=[Killed()])
    assert rewarded(tmp_path/'killed', resume=True) == through


# Two processes and one cache

SLOWLY = '''
import sys
import time
import torch
from qvision.data.features import cached_rows
def compute(first):
    print(first, flush=True)
    time.sleep(.02)
    return torch.full((10, 3), first)
cached_rows('key', 100, compute, folder=sys.argv[1], progress=False)
'''


def rows_of(folder): return np.load(folder/'key/rows.npy')[:, 0].tolist()
def right(): return [row//10*10 for row in range(100)]


def test_two_processes_fill_one_cache(tmp_path):
    both = [ended(process) for process in [start(SLOWLY, tmp_path) for _ in range(2)]]
    assert [status for status, _ in both] == [0, 0], both
    assert sorted(int(first) for _, said in both for first in said.split()) == list(range(0, 100, 10))
    assert rows_of(tmp_path) == right()


def test_one_of_two_processes_is_killed(tmp_path):
    first = start(SLOWLY, tmp_path)
    assert first.stdout.readline() == '0\n'
    second = start(SLOWLY, tmp_path)
    while '30' not in first.stdout.readline(): assert first.poll() is None
    first.send_signal(signal.SIGKILL)
    status, said = ended(second)
    assert status == 0, said
    assert said.split()[-1] == '90'
    assert '0' not in said.split(), 'the rows that were done are not computed again'
    assert rows_of(tmp_path) == right()


MAPPED = '''
import sys
from pathlib import Path
import numpy as np
import torch
from qvision.data.features import cached_rows
def cached(rows): return cached_rows('key', rows, lambda first: torch.ones(rows, 1000), folder=sys.argv[1])
large = cached(1000)
cached(10)
print(large.sum(dtype=float))
'''


def test_a_cache_made_again_leaves_the_one_in_use_readable(tmp_path):
    assert ended(start(MAPPED, tmp_path)) == (0, '1000000.0\n')


NOTED = '''
from qvision.training import pretrain_data
draw_all = pretrain_data._draw_all
def noted(*args):
    print('drawing', flush=True)
    draw_all(*args)
pretrain_data._draw_all = noted
''' + DRAW


def test_two_processes_draw_scenes_once(tmp_path):
    both = [ended(process) for process in [start(NOTED, tmp_path) for _ in range(2)]]
    assert sorted(both) == [(0, ''), (0, 'drawing\n')]
    pixels, texts = fresh_scenes(tmp_path, 64, progress=False)
    assert len(texts) == 64
    assert all(image.any() for image in pixels)


# Two runs of one name

START = '''
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from qvision.runs.archive import start_run
from qvision.runs.run_files import RunError
@dataclass
class Example: seed:int = 0
def meet(where):
    Path(sys.argv[2], f'{where}-{os.getpid()}').touch()
    while len(list(Path(sys.argv[2]).glob(f'{where}-*'))) < 4: time.sleep(.005)
meet('ready')
try: start_run('train', Example(), 'one', root=sys.argv[1], resume=sys.argv[3] == 'resume')
except RunError as e: print(e)
else: print('won')
meet('tried')
'''


@pytest.mark.parametrize('how', ['new', 'resume'])
def test_of_several_runs_of_one_name_one_wins(tmp_path, how):
    archive, meeting = tmp_path/'archive', tmp_path/'meeting'
    meeting.mkdir()
    if how == 'resume':
        stopped = start_run('train', make_dataclass('Example', [('seed', int)])(0), 'one', root=archive)
        stopped.fail(ValueError('x'))
    outcomes = [ended(process) for process in [start(START, archive, meeting, how) for _ in range(4)]]
    said = [line for _, line in outcomes]
    assert said.count('won\n') == 1, said
    why = 'still running' if how == 'resume' else "there is a run 'one' already"
    refused = [line for line in said if line != 'won\n']
    assert all(why in line and len(line.splitlines()) == 1 for line in refused), refused
    assert [path.name for path in (archive/'one').iterdir()] == ['run.json']
