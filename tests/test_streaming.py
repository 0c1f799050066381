"Data in shards: written by the command, trained from in one process and two, resumed, and never in memory as a whole."
import json
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest

from qvision.config import Phase
from qvision.data.shards import ShardData
from qvision.data.synthetic.minicoco import write_minicoco
from qvision.data.write_shards import shard_folder
from qvision.model.captioner import tiny_captioner
from qvision.training.dataset import phase_dataset
from qvision.training.phase import Job, train_phase, train_together

pytest.importorskip('pyarrow', reason="pyarrow is not installed: pip install 'qvision[shards]'")
ROOT = Path(__file__).resolve().parent.parent
PHASE = Phase(frozen_ratio=.5, learning_rate=3e-3, batch_size=20, epochs=2, accumulation=1, precision='fp32',
              captions_per_image=5)


@pytest.fixture(scope='module')
def shards(tmp_path_factory):
    "Write 16 scenes, which make four batches, in shards of six with the tiny captioner's features."
    root = tmp_path_factory.mktemp('streaming')
    write_minicoco(root/'data', splits=dict(train2017=16, val2017=2), workers=1, progress=False)
    model = tiny_captioner()
    tower = model.patch_features, model.image_processor, model.encoder_checksum()
    sizes = dict(per_shard=6, group=2, streams=4)
    return shard_folder(root/'data', root/'shards', 'train2017', *tower, **sizes, progress=False)


def losses(log): return [(entry['step'], entry['loss']) for entry in log]


def train_here(shards, folder, **options):
    "Train the tiny captioner from shards in this process; return its losses and weights."
    model = tiny_captioner()
    stream = phase_dataset(model, ShardData.open(shards, 'train2017'), PHASE, progress=False)
    log = train_phase(model, stream, PHASE, folder, save_steps=2, **options)
    return losses(log), {name: p for name, p in model.named_parameters() if p.requires_grad}


@pytest.fixture(scope='module')
def undisturbed(shards, tmp_path_factory): return train_here(shards, tmp_path_factory.mktemp('undisturbed'))


def test_a_resumed_run_is_the_undisturbed_one_and_reads_on(shards, undisturbed, tmp_path, monkeypatch):
    "Stopped in the middle of the second epoch: the same losses and weights to the bit, and few row groups read again."
    read = []
    from qvision.data import stream as module
    original = module.read_group
    monkeypatch.setattr(module, 'read_group', lambda *args: read.append(args[1]) or original(*args))
    train_here(shards, tmp_path)
    through = len(read)
    shutil.rmtree(tmp_path/'checkpoint-8')
    read.clear()
    found, weights = train_here(shards, tmp_path, resume=True)
    assert sorted(path.name for path in tmp_path.glob('checkpoint-*')) == ['checkpoint-6', 'checkpoint-8']
    assert found == undisturbed[0]
    assert len(found) == 4
    for name, weight in weights.items(): assert (weight == undisturbed[1][name]).all(), name
    assert len(read) == through/2 # nothing of the first epoch


def test_two_processes_train_as_one(shards, undisturbed, tmp_path):
    job = Job(str(tmp_path/'start'), str(shards), 'train2017', asdict(PHASE), str(tmp_path/'run'), 'val2017',
              save_steps=2, quiet=True)
    found = losses(train_together(tiny_captioner(), job, 2))
    assert [step for step, _ in found] == [2, 4, 6, 8]
    for (_, loss), (_, expected) in zip(found, undisturbed[0], strict=True): assert abs(loss - expected) < 1e-4


def test_a_divergence_names_the_images(shards, tmp_path):
    "The numbers of a batch's rows lead to the ids of its images."
    model = tiny_captioner()
    stream = phase_dataset(model, ShardData.open(shards, 'train2017'), PHASE, progress=False)
    with pytest.raises(RuntimeError, match=r'images \d+, \d+, \d+, \d+'):
        train_phase(model, stream, Phase(**asdict(PHASE) | dict(learning_rate=1e18, max_grad_norm=1e30)), tmp_path)


def test_the_command_writes_what_train_reads(qvision, minicoco, workplace, tmp_path):
    "By `-p data`, with the validation split beside the shards."
    said = qvision('data', 'shards', minicoco, 'sharded', '--images-per-shard', 20, '-q', cwd=tmp_path).stdout
    assert 'written: sharded' in said
    assert [path.name for path in sorted((tmp_path/'sharded/train2017').iterdir())] == [
        '00000.parquet', '00001.parquet', '00002.parquet']
    assert not list((tmp_path/'sharded').glob('train2017/*.png'))
    qvision('run', 'train', '-p', 'data', tmp_path/'sharded', '-p', 'max_steps', 3, '-p', 'name', 'streamed',
            '-p', 'quiet', 'true', cwd=ROOT)
    run = Path(workplace['QVISION_EXPERIMENTS'])/'streamed'
    metrics = json.loads((run/'metrics.json').read_text())
    assert (metrics['steps'], metrics['train_images'], metrics['train_pairs']) == (3, 60, 300)
    assert metrics['validation_loss'] > 0
    recorded = json.loads((run/'run.json').read_text())['data']
    assert recorded['checksum'] == ShardData.open(tmp_path/'sharded', 'train2017').checksum
    wrong = qvision('run', 'train', '-p', 'data', tmp_path/'sharded', '-p', 'preset', 'photo', '-p', 'name', 'wrong',
                    cwd=ROOT, check=False)
    assert wrong.returncode != 0
    assert '--views whole,flip' in wrong.stdout + wrong.stderr


def test_memory_stays_flat(load_tool, tmp_path):
    "Twenty times as many captions, and no more memory than the noise of an allocator."
    few, many = load_tool('stream_memory').run(tmp_path/'out/streaming.jsonl', (2000, 40_000))
    assert json.loads((tmp_path/'out/streaming.jsonl').read_text().splitlines()[1]) == many
    assert (few['images'], many['images']) == (400, 8000)
    assert many['bytes'] > 10*few['bytes']
    assert len(many['samples']) >= 40
    assert 50e6 < few['peak'] < 2e9
    grown = [row['peak'] - row['before'] for row in (few, many)] # two processes do not begin alike
    assert grown[1] - grown[0] < 10e6 # the captions as lists of numbers alone would take 20 MB
