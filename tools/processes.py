"""Train the same small captioner in one process, in several, on two hosts, and in two processes and then four.

    python tools/processes.py --out build/processes.jsonl   # about a minute

Sixteen drawn scenes make two batches; each setting trains three epochs, without dropout, whose masks are a process's
own. Two hosts are two network namespaces (Linux, root, ip), joined by a pair of virtual devices. OUT gets a line per
setting: the loss of each logged step, or the reason why the setting cannot be tried here."""
import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

from transformers.utils.logging import disable_progress_bar

from qvision.config import Phase
from qvision.data.synthetic.minicoco import write_minicoco
from qvision.model.captioner import tiny_captioner
from qvision.training.phase import Job, train_together

PHASE = Phase(frozen_ratio=.5, learning_rate=3e-3, batch_size=40, epochs=3, accumulation=1, precision='fp32',
              captions_per_image=5)
ENTRY = '-m torch.distributed.run'
HAS_NAMESPACES = sys.platform == 'linux' and os.geteuid() == 0 and shutil.which('ip') is not None
NO_NAMESPACES = 'two network namespaces need Linux, root and ip'


def write_scenes(root:Path)->None:
    "Draw 16 scenes, and two to validate on."
    write_minicoco(root/'data', splits=dict(train2017=16, val2017=2), workers=1, progress=False)


def job_in(root:Path, name:str, **options)->Job: # options: of Job
    "Return a job of six steps."
    return Job(f'{root}/start', f'{root}/data', 'train2017', asdict(PHASE), f'{root}/{name}', save_steps=2, quiet=True,
               **options)


def train_in(processes:int, root:Path, name:str, **options)->list[tuple]: # (step, loss)
    "Return the losses of the steps."
    log = train_together(tiny_captioner(), job_in(root, name, **options), processes)
    return [(entry['step'], entry['loss']) for entry in log]


def begun_in_two(root:Path)->list[tuple]: # (step, loss)
    "Train in two processes, remove the last checkpoint, and go on in four."
    train_in(2, root, 'halves')
    shutil.rmtree(root/'halves/checkpoint-6')
    return train_in(4, root, 'halves', resume=True)


def ip(*args)->None: subprocess.run(['ip', *args], check=True, capture_output=True)


def begin_host(rank:int, namespace:str, device:str, job:Path)->subprocess.Popen:
    "Start one of two hosts."
    command = [sys.executable, *shlex.split(ENTRY), '--nnodes=2', f'--node-rank={rank}', '--nproc-per-node=1',
               '--master-addr=10.77.0.1', '--master-port=29511', '-m', 'qvision.training.phase', str(job)]
    return subprocess.Popen(['ip', 'netns', 'exec', namespace, *command], stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True,
                            env=os.environ | dict(OMP_NUM_THREADS='1', GLOO_SOCKET_IFNAME=device))


def on_two_hosts(root:Path)->list[tuple]: # (step, loss)
    "Train in two network namespaces, which are two hosts with one file system."
    names = [f'qvision{os.getpid()}{side}' for side in 'ab']
    devices = ('qva', 'qvb')
    job = job_in(root, 'hosts')
    tiny_captioner().save_pretrained(job.model)
    job.save(root/'hosts/job.json')
    processes = []
    try:
        for name in names: ip('netns', 'add', name)
        ip('link', 'add', 'qva', 'netns', names[0], 'type', 'veth', 'peer', 'name', 'qvb', 'netns', names[1])
        for number, (name, device) in enumerate(zip(names, devices), 1):
            ip('-n', name, 'addr', 'add', f'10.77.0.{number}/24', 'dev', device)
            for each in ('lo', device): ip('-n', name, 'link', 'set', each, 'up')
        for rank, (name, device) in enumerate(zip(names, devices)):
            processes.append(begin_host(rank, name, device, root/'hosts/job.json'))
        for process in processes:
            said, _ = process.communicate(timeout=180)
            if process.returncode: raise RuntimeError(said)
    finally:
        for process in processes: process.kill()
        for name in names: subprocess.run(['ip', 'netns', 'del', name], capture_output=True)
    log = json.loads((root/'hosts/log.json').read_text())
    return [(entry['step'], entry['loss']) for entry in log]


SETTINGS = {'1 process': lambda root: train_in(1, root, 'one'),
            '2 processes': lambda root: train_in(2, root, 'two'),
            '4 processes': lambda root: train_in(4, root, 'four'),
            '2 processes, then 4': begun_in_two,
            '2 hosts': on_two_hosts} # name -> function of a folder; the first is what the others are compared with


def main():
    "Try the settings, one after another."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', required=True, type=Path, help='file for the results, in JSON lines')
    parser.add_argument('--settings', nargs='+', choices=list(SETTINGS), default=list(SETTINGS))
    options = parser.parse_args()
    disable_progress_bar()
    rows = []
    with TemporaryDirectory() as folder:
        os.environ['QVISION_CACHE'] = f'{folder}/cache'
        write_scenes(Path(folder))
        for name in options.settings:
            if name == '2 hosts' and not HAS_NAMESPACES: rows.append(dict(setting=name, skipped=NO_NAMESPACES))
            else: rows.append(dict(setting=name, losses=SETTINGS[name](Path(folder))))
            print(rows[-1], flush=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(''.join(json.dumps(row) + '\n' for row in rows))


if __name__ == '__main__': main()
