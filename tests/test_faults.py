"Kills, full disks, damaged files and races: nothing is lost, and nothing is wrong in silence."
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

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
