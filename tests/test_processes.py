"Training in several processes: as in one, whatever ends a process."
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file

from qvision.config import Phase
from qvision.data.synthetic.minicoco import write_minicoco
from qvision.model.captioner import tiny_captioner
from qvision.training.phase import Job, train_together

PHASE = Phase(frozen_ratio=.5, learning_rate=3e-3, batch_size=40, epochs=3, accumulation=1, precision='fp32',
              captions_per_image=5)
ENTRY = '-m torch.distributed.run'


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    "Draw 16 scenes, which make two batches, and keep their features."
    root = tmp_path_factory.mktemp('processes')
    write_minicoco(root/'data', splits=dict(train2017=16, val2017=2), workers=1, progress=False)
    before = os.environ.get('QVISION_CACHE')
    os.environ['QVISION_CACHE'] = str(root/'cache')
    yield root
    if before is None: del os.environ['QVISION_CACHE']
    else: os.environ['QVISION_CACHE'] = before


def job_in(root, name, **options):
    "Return a job of six steps."
    return Job(f'{root}/start', f'{root}/data', 'train2017', asdict(PHASE), f'{root}/{name}', save_steps=2, quiet=True,
               **options)


def train_in(processes, root, name, **options):
    "Return the losses of the steps."
    log = train_together(tiny_captioner(), job_in(root, name, **options), processes)
    return [(entry['step'], entry['loss']) for entry in log]


@pytest.fixture(scope='module')
def alone(scenes):
    "Return the losses of one process."
    return train_in(1, scenes, 'alone')


def same(losses, expected):
    "Return whether losses are those expected, to the rounding of sums."
    return [step for step, _ in losses] == [step for step, _ in expected] and all(
        abs(loss - other) < 1e-4 for (_, loss), (_, other) in zip(losses, expected))


def test_four_processes_train_as_one(scenes, alone):
    "One of them writes: no file is there twice, and each has left its random state."
    assert len(alone) == 3
    assert same(train_in(4, scenes, 'four'), alone)
    newest = scenes/'four/checkpoint-6'
    assert sorted(file.name for file in newest.glob('rng_state*')) == [f'rng_state_{i}.pth' for i in range(4)]
    listed = json.loads((newest/'files.json').read_text())
    assert sorted(listed) == sorted(file.name for file in newest.iterdir() if file.name != 'files.json')


def begin(root, name, processes):
    "Start a long job, and return the launcher's process once there is a checkpoint."
    job = job_in(root, name, max_steps=2000)
    tiny_captioner().save_pretrained(job.model)
    job.save(root/name/'job.json')
    command = [sys.executable, *shlex.split(ENTRY), '--standalone', f'--nproc-per-node={processes}',
               '-m', 'qvision.training.phase', str(root/name/'job.json')]
    started = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                               start_new_session=True, env=os.environ | dict(OMP_NUM_THREADS='1'))
    for _ in range(2400):
        if list((root/name).glob('checkpoint-*/files.json')) or started.poll() is not None: break
        time.sleep(.05)
    assert started.poll() is None, started.stdout.read()
    return started


def workers_of(launcher):
    "Return the process numbers of a launcher's processes."
    numbers = Path(f'/proc/{launcher.pid}/task/{launcher.pid}/children').read_text().split()
    return [int(number) for number in numbers if b'qvision.training.phase' in
            Path(f'/proc/{number}/cmdline').read_bytes()]


def test_a_killed_worker_ends_the_run_which_goes_on_with_another_number(scenes, alone):
    "The rest goes on where the newest checkpoint is, here in one process."
    launcher = begin(scenes, 'killed', 2)
    workers = workers_of(launcher)
    assert len(workers) == 2
    os.kill(workers[1], signal.SIGKILL)
    said, _ = launcher.communicate(timeout=120)
    assert launcher.returncode != 0
    assert 'SIGKILL' in said
    assert not any(Path(f'/proc/{number}').exists() for number in workers)
    sound = [file.parent.name for file in (scenes/'killed').glob('checkpoint-*/files.json')]
    last = max(int(name.partition('-')[2]) for name in sound) + 4
    train_in(1, scenes, 'killed', max_steps=last, resume=True)
    assert (scenes/f'killed/checkpoint-{last}/files.json').is_file()


def test_a_resumed_job_ends_where_one_that_ran_through_does(scenes, alone):
    "Begun with two processes, and ended with four."
    train_in(2, scenes, 'halves')
    shutil.rmtree(scenes/'halves/checkpoint-6')
    assert same(train_in(4, scenes, 'halves', resume=True), alone)


@pytest.mark.skipif(sys.platform != 'linux' or os.geteuid() != 0 or not shutil.which('ip'),
                    reason='two network namespaces need Linux, root and ip')
def test_two_hosts(scenes, alone):
    "Two network namespaces, joined by a pair of virtual devices, are two hosts with one file system."
    names = [f'qvision{os.getpid()}{side}' for side in 'ab']
    def ip(*args): subprocess.run(['ip', *args], check=True, capture_output=True)
    processes = []
    try:
        for name in names: ip('netns', 'add', name)
        ip('link', 'add', 'qva', 'netns', names[0], 'type', 'veth', 'peer', 'name', 'qvb', 'netns', names[1])
        for name, device, number in zip(names, ('qva', 'qvb'), (1, 2)):
            ip('-n', name, 'addr', 'add', f'10.77.0.{number}/24', 'dev', device)
            for each in ('lo', device): ip('-n', name, 'link', 'set', each, 'up')
        job = job_in(scenes, 'hosts')
        tiny_captioner().save_pretrained(job.model)
        job.save(scenes/'hosts/job.json')
        for rank, (name, device) in enumerate(zip(names, ('qva', 'qvb'))):
            command = [sys.executable, *shlex.split(ENTRY), '--nnodes=2', f'--node-rank={rank}', '--nproc-per-node=1',
                       '--master-addr=10.77.0.1', '--master-port=29511', '-m', 'qvision.training.phase',
                       str(scenes/'hosts/job.json')]
            processes.append(subprocess.Popen(
                ['ip', 'netns', 'exec', name, *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                env=os.environ | dict(OMP_NUM_THREADS='1', GLOO_SOCKET_IFNAME=device)))
        for process in processes:
            said, _ = process.communicate(timeout=180)
            assert process.returncode == 0, said
    finally:
        for process in processes: process.kill()
        for name in names: subprocess.run(['ip', 'netns', 'del', name], capture_output=True)
    log = json.loads((scenes/'hosts/log.json').read_text())
    assert same([(entry['step'], entry['loss']) for entry in log], alone)


@pytest.mark.parametrize('name, processes, machines', [('one_gpu', 1, 1), ('eight_gpus', 8, 1), ('two_hosts', 16, 2)])
def test_accelerate_reads_its_files(root, name, processes, machines):
    config = load_config_from_file(str(root/f'tools/launch/{name}.yaml'))
    assert (config.num_processes, config.num_machines) == (processes, machines)
    assert config.mixed_precision == 'no'
