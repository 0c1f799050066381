"Shared by the tests: the repository, a small embedded data set, and a place for runs outside the repository."
import functools
import http.server
import importlib.util
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
os.environ.update(TOKENIZERS_PARALLELISM='false', HF_HUB_OFFLINE='1', CI='true')

# `make test` has as many workers as there are processors: threads of each would wait for those of the others
workers = int(os.environ.get('PYTEST_XDIST_WORKER_COUNT', 1))
if workers > 1: os.environ.setdefault('OMP_NUM_THREADS', str(max(1, os.cpu_count()//workers)))


def pytest_collection_modifyitems(items):
    """Keep the tests of a file together, since they share fixtures; notebooks are on their own, and come last: the
    smallest pieces leave no worker without work at the end."""
    items.sort(key=lambda item: item.path.stem == 'test_notebooks')
    for item in items:
        if item.path.stem != 'test_notebooks': item.add_marker(pytest.mark.xdist_group(item.path.stem))


@pytest.fixture(scope='session')
def root(): return ROOT


@pytest.fixture(scope='session')
def load_tool():
    "Load a script of tools/ as a module: `load_tool('kills')`."
    def load(name):
        spec = importlib.util.spec_from_file_location(name, ROOT/f'tools/{name}.py')
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module # where dataclasses look for it
        spec.loader.exec_module(module)
        return module
    return load


@pytest.fixture(scope='session')
def minicoco(tmp_path_factory):
    "Draw a small embedded data set."
    from qvision.data.synthetic.minicoco import write_minicoco
    folder = tmp_path_factory.mktemp('data')/'minicoco'
    return write_minicoco(folder, splits=dict(train2017=60, val2017=24, shifted2017=12), workers=1, progress=False)


@pytest.fixture(scope='session')
def workplace(tmp_path_factory):
    "Return an environment in which runs and caches stay out of the repository."
    folder = tmp_path_factory.mktemp('work')
    return os.environ | dict(QVISION_EXPERIMENTS=str(folder/'experiments'), QVISION_CACHE=str(folder/'cache'))


@pytest.fixture(scope='session')
def qvision(workplace):
    "Call the command line from a given folder: `qvision('run', 'train', cwd=…)`."
    command = str(Path(sys.executable).parent/'qvision')
    def call(*args, cwd, check=True):
        done = subprocess.run([command, *map(str, args)], cwd=cwd, env=workplace, capture_output=True, text=True)
        assert not check or done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done
    return call


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args): pass


@pytest.fixture(scope='session')
def serve():
    "Serve a folder: `serve(folder)` returns its address."
    servers = []
    def start(folder):
        handler = functools.partial(QuietHandler, directory=str(folder))
        servers.append(http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f'http://127.0.0.1:{servers[-1].server_port}'
    yield start
    for server in servers: server.shutdown()
