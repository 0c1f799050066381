"Training in several processes: as in one, whatever ends a process."
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env
from safetensors.torch import load_file

from qvision.model.captioner import tiny_captioner
from qvision.training.phase import Job, train_together

@pytest.fixture(scope='module')
def tool(load_tool): return load_tool('processes')


@pytest.fixture(scope='module')
def scenes(tmp_path_factory, tool):
    "Draw 16 scenes, which make two batches, and keep their features."
    root = tmp_path_factory.mktemp('processes')
    tool.write_scenes(root)
    before = os.environ.get('QVISION_CACHE')
    os.environ['QVISION_CACHE'] = str(root/'cache')
    yield root
    if before is None: del os.environ['QVISION_CACHE']
    else: os.environ['QVISION_CACHE'] = before


@pytest.fixture(scope='module')
def alone(scenes, tool):
    "Return the losses of one process."
    return tool.train_in(1, scenes, 'alone')


def same(losses, expected):
    "Return whether losses are those expected, to the rounding of sums."
    return [step for step, _ in losses] == [step for step, _ in expected] and all(
        abs(loss - other) < 1e-4 for (_, loss), (_, other) in zip(losses, expected))


def test_four_processes_train_as_one(scenes, alone, tool):
    "One of them writes: no file is there twice, and each has left its random state."
    assert len(alone) == 3
    assert same(tool.train_in(4, scenes, 'four'), alone)
    newest = scenes/'four/checkpoint-6'
    assert sorted(file.name for file in newest.glob('rng_state*')) == [f'rng_state_{i}.pth' for i in range(4)]
    listed = json.loads((newest/'files.json').read_text())
    assert sorted(listed) == sorted(file.name for file in newest.iterdir() if file.name != 'files.json')


def begin(tool, root, name, processes):
    "Start a long job, and return the launcher's process once there is a checkpoint."
    job = tool.job_in(root, name, max_steps=2000)
    tiny_captioner().save_pretrained(job.model)
    job.save(root/name/'job.json')
    command = [sys.executable, *shlex.split(tool.ENTRY), '--standalone', f'--nproc-per-node={processes}',
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


def test_a_killed_worker_ends_the_run_which_goes_on_with_another_number(scenes, alone, tool):
    "The rest goes on where the newest checkpoint is, here in one process."
    launcher = begin(tool, scenes, 'killed', 2)
    workers = workers_of(launcher)
    assert len(workers) == 2
    os.kill(workers[1], signal.SIGKILL)
    said, _ = launcher.communicate(timeout=120)
    assert launcher.returncode != 0
    assert 'SIGKILL' in said
    assert not any(Path(f'/proc/{number}').exists() for number in workers)
    sound = [file.parent.name for file in (scenes/'killed').glob('checkpoint-*/files.json')]
    last = max(int(name.partition('-')[2]) for name in sound) + 4
    tool.train_in(1, scenes, 'killed', max_steps=last, resume=True)
    assert (scenes/f'killed/checkpoint-{last}/files.json').is_file()


def test_a_resumed_job_ends_where_one_that_ran_through_does(scenes, alone, tool):
    "Begun with two processes, and ended with four."
    assert same(tool.begun_in_two(scenes), alone)


def test_two_hosts(scenes, alone, tool):
    "Two network namespaces, joined by a pair of virtual devices, are two hosts with one file system."
    if not tool.HAS_NAMESPACES: pytest.skip(tool.NO_NAMESPACES)
    assert same(tool.on_two_hosts(scenes), alone)


def sharded(tool, root, name, processes, config='eight_gpus_fsdp', phase=None, **options):
    "Train with sharded weights, as accelerate reads it from one of its files; return the losses and the reports."
    job = Job(f'{root}/start', f'{root}/data', 'train2017', asdict(phase or tool.PHASE), f'{root}/{name}', 'val2017',
              save_steps=2, quiet=True, **options)
    here = Path(__file__).parent
    tiny_captioner().save_pretrained(job.model)
    job.save(root/name/'job.json')
    file = here.parent/f'tools/launch/{config}.yaml'
    command = [sys.executable, '-m', 'accelerate.commands.launch', '--config_file', file, '--num_processes',
               str(processes), '--main_process_port', '0', here/'fsdp_on_cpu.py', root/name/'job.json']
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | dict(OMP_NUM_THREADS='1'))
    assert done.returncode == 0, done.stderr[-3000:]
    log = json.loads((root/name/'log.json').read_text())
    reports = json.loads((root/name/'reports.json').read_text())
    return [(entry['step'], entry['loss']) for entry in log], reports['captions']


@pytest.fixture(scope='module')
def whole(scenes, tool):
    "Return the losses, the reports and the weights of one process that looks at the validation split."
    log = train_together(tiny_captioner(), tool.job_in(scenes, 'whole', validation='val2017', text_cache=0), 1)
    reports = json.loads((scenes/'whole/reports.json').read_text())
    weights = load_file(scenes/'whole/outcome.safetensors')
    return [(entry['step'], entry['loss']) for entry in log], reports['captions'], weights


@pytest.mark.slow
def test_sharded_weights_train_as_whole_ones(scenes, whole, tool):
    "FSDP with gradient checkpointing, two processes: losses, validation losses, and the weights that are left."
    losses, reports = sharded(tool, scenes, 'sharded', 2)
    assert same(losses, whole[0])
    assert len(reports) == len(whole[1]) == 3
    for entry, expected in zip(reports, whole[1]):
        assert abs(entry['validation_loss'] - expected['validation_loss']) < 1e-4
    found = load_file(scenes/'sharded/outcome.safetensors')
    assert found.keys() == whole[2].keys()
    for name, weight in whole[2].items():
        if name.endswith('k_proj.bias'): continue # moves no attention: its gradient is rounding, which AdamW scales up
        assert (found[name] - weight).abs().max() < 1e-3, name


@pytest.mark.slow
def test_sharded_weights_resume_and_checkpoint_on_one_card(scenes, whole, tool):
    "Begun with two processes and ended with one, which shards nothing, from the file for gradient checkpointing."
    sharded(tool, scenes, 'resharded', 2)
    shutil.rmtree(scenes/'resharded/checkpoint-6')
    losses, _ = sharded(tool, scenes, 'resharded', 1, 'one_gpu_checkpointing', resume=True)
    assert same(losses, whole[0])


@pytest.mark.slow
def test_sharded_weights_train_in_bfloat16(scenes, whole, tool):
    losses, _ = sharded(tool, scenes, 'half', 2, phase=replace(tool.PHASE, precision='bf16'))
    for (_, loss), (_, expected) in zip(losses, whole[0], strict=True): assert 0 < abs(loss - expected) < .05


def test_a_moving_average_needs_whole_weights(scenes, tool):
    with pytest.raises(AssertionError, match='weight_average 0'):
        sharded(tool, scenes, 'averaged', 2, phase=replace(tool.PHASE, weight_average=.9))


FILES = [('one_gpu', 1, 1), ('eight_gpus', 8, 1), ('two_hosts', 16, 2)]
SHARDING_FILES = [('one_gpu_checkpointing', 1, 1), ('eight_gpus_fsdp', 8, 1), ('two_hosts_fsdp', 16, 2)]


@pytest.mark.parametrize('name, processes, machines', FILES + SHARDING_FILES)
def test_accelerate_reads_its_files(root, name, processes, machines):
    config = load_config_from_file(str(root/f'tools/launch/{name}.yaml'))
    assert (config.num_processes, config.num_machines) == (processes, machines)
    assert config.mixed_precision == 'no'
    assert bool(config.fsdp_config) == ((name, processes, machines) in SHARDING_FILES)


def launch_arguments(*words):
    "Return the arguments of `accelerate launch` as it understands them, with its file."
    return _validate_launch_command(launch_command_parser().parse_args(list(words)))[0]


@pytest.mark.parametrize('name, processes, machines', SHARDING_FILES)
def test_accelerate_understands_how_to_shard(root, name, processes, machines):
    file = str(root/f'tools/launch/{name}.yaml')
    args = launch_arguments('--config_file', file, '-m', 'qvision.training.phase', 'JOB')
    assert (args.use_fsdp, args.num_processes) == (True, processes)
    environment = prepare_multi_gpu_env(args)
    assert environment['ACCELERATE_USE_FSDP'] == 'true'
    assert environment['FSDP_VERSION'] == '2'
    assert environment['FSDP_ACTIVATION_CHECKPOINTING'] == 'true'
    assert environment['FSDP_AUTO_WRAP_POLICY'] == 'TRANSFORMER_BASED_WRAP'
    assert environment['FSDP_RESHARD_AFTER_FORWARD'] == ('false' if processes == 1 else 'true')


STUBS = dict(scontrol='printf "host1\\nhost2\\n"', qvision='printf "%s\\n" "$@" >asked',
             srun='for SLURM_NODEID in 0 1; do export SLURM_NODEID; "$@"; done',
             accelerate='shift; printf "%s\\n" "$@" >node$SLURM_NODEID',
             torchrun='printf "%s\\n" "$@" >node$SLURM_NODEID')


@pytest.mark.parametrize('script', ['slurm', 'slurm_fsdp'])
def test_slurm_starts_the_phase_on_every_node(root, tmp_path, script):
    "With stubs for SLURM's programs: what each node is told, after the script, the phase's launcher and a shell."
    (tmp_path/'.venv/bin').mkdir(parents=True)
    (tmp_path/'.venv/bin/activate').write_text('')
    (tmp_path/'stubs').mkdir()
    for name, body in STUBS.items():
        (tmp_path/'stubs'/name).write_text(f'#!/bin/bash\n{body}\n')
        (tmp_path/'stubs'/name).chmod(0o755)
    env = os.environ | dict(PATH=f'{tmp_path}/stubs:{os.environ["PATH"]}', SLURM_JOB_NODELIST='host[1-2]')
    batch = ['bash', root/f'tools/launch/{script}.sh', 'big', '-p', 'seed', '1']
    subprocess.run(batch, cwd=tmp_path, env=env, check=True)
    asked = (tmp_path/'asked').read_text().splitlines()
    assert asked[:6] == ['run', 'train', '--name', 'big', '-p', 'launch']
    assert asked[7:] == ['-p', 'seed', '1']
    command = [*shlex.split(asked[6]), '-m', 'qvision.training.phase', 'a job.json']
    subprocess.run(command, cwd=tmp_path, env=env, check=True)
    for node in range(2):
        told = (tmp_path/f'node{node}').read_text().splitlines()
        assert told[-3:] == ['-m', 'qvision.training.phase', 'a job.json']
        if script == 'slurm': continue # torchrun numbers the nodes itself
        told[told.index('--config_file') + 1] = str(root/told[told.index('--config_file') + 1])
        args = launch_arguments(*told)
        assert (args.machine_rank, args.main_process_ip, args.num_processes, args.use_fsdp) == (node, 'host1', 16, True)
