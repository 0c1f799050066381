"""End this process by a signal at a moment that plan.json beside this file names, and write down that it was reached.

tools/kills.py copies this file to a folder of its own as sitecustomize.py, which Python imports when it starts: what
is killed is the package as it is. The plan has `module`, `function` (with dots for a method), `mode` (before; after;
half: after it, with the file that it wrote cut to its first half), `call` (which one), `where` (words that an argument
has), `only` (a word of the process's command line), `victim` (process, command: its parent, or both), `signal`."""
import importlib.util
import json
import os
import sys
import time
from functools import wraps
from pathlib import Path

HERE = Path(__file__).resolve().parent
PLAN = json.loads((HERE/'plan.json').read_text())
SECONDS = 120 # that a process which was sent a signal may take to end


def texts(arguments)->list[str]:
    "Return the arguments that are texts or paths."
    return [os.fspath(a) for a in arguments if isinstance(a, (str, os.PathLike))]


def stack()->list[str]:
    "Return which functions of files are running, the innermost last, without those of this file."
    frame = sys._getframe(1)
    found = []
    while frame:
        code = frame.f_code
        if code.co_filename != __file__: found.append(f'{Path(code.co_filename).name}:{code.co_qualname}')
        frame = frame.f_back
    return found[::-1]


def write_down(arguments)->bool:
    "Record the moment in hit.json; return False where it was reached before."
    hit = dict(pid=os.getpid(), parent=os.getppid(), time=time.time(), stack=stack()[-15:], arguments=texts(arguments))
    try: file = os.open(HERE/'hit.json', os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    except FileExistsError: return False
    os.write(file, json.dumps(hit).encode())
    os.fsync(file)
    os.close(file)
    return True


def cut(arguments):
    "Leave the first half of the file that was written, as a process leaves it that ends while it writes."
    path = next(text for text in texts(arguments) if PLAN['where'] in text)
    os.truncate(path, os.stat(path).st_size//2)


def end(arguments):
    "Send the signal, and wait for it."
    if PLAN['mode'] == 'half': cut(arguments)
    if not write_down(arguments): return
    if PLAN['victim'] in ('command', 'both'): os.kill(os.getppid(), PLAN['signal'])
    if PLAN['victim'] in ('process', 'both'): os.kill(os.getpid(), PLAN['signal'])
    time.sleep(SECONDS)
    os._exit(99)


def deadly(function):
    "Return a function that does the same, and ends this process at the planned call."
    calls = 0

    @wraps(function)
    def called(*args, **kwargs):
        nonlocal calls
        arguments = [*args, *kwargs.values()]
        if any(PLAN['where'] in text for text in texts(arguments)) or not PLAN['where']: calls += 1
        else: return function(*args, **kwargs)
        if calls != PLAN['call']: return function(*args, **kwargs)
        if PLAN['mode'] == 'before': end(arguments)
        done = function(*args, **kwargs)
        if PLAN['mode'] != 'before': end(arguments)
        return done
    return called


def arm(module):
    "Put the deadly function in its place."
    *owners, name = PLAN['function'].split('.')
    holder = module
    for owner in owners: holder = getattr(holder, owner)
    setattr(holder, name, deadly(getattr(holder, name)))


class ArmWhenImported:
    "Find the planned module as Python does, once, and arm it before anyone else sees it."
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name != PLAN['module']: return None
        sys.meta_path.remove(cls)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            arm(module)
        spec.loader.exec_module = exec_module
        return spec


if PLAN['only'] in ' '.join(sys.orig_argv):
    if PLAN['module'] in sys.modules: arm(sys.modules[PLAN['module']])
    else: sys.meta_path.insert(0, ArmWhenImported)
