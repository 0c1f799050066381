"""End experiments and data writing by SIGKILL and SIGTERM at named moments, go on with each, and compare what came out
with what an undisturbed one made.

    python tools/kills.py --out build/kills.jsonl     # every chain with both signals
    python tools/kills.py --out build/kills.jsonl --chains from-csv,saving --signals KILL

A chain is one run (or one writing of a data set) that is ended at several moments, one after the other, resumed after
each, and at last compared file by file: weights, metrics.json, figures, captions. Its kills survived if everything is
the same to the byte (but seconds and commit on a model card, the order of a header), each moment was reached (hit.json,
written by the process itself just before its end, has the stack), and the archive said after each how things stood.
OUT gets a JSON line per kill when its chain is over; what is there already is not done again. SUMMARY (OUT with the
suffix .json) counts by moment."""
import argparse
import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from qvision.data.synthetic.minicoco import write_minicoco
from qvision.runs.archive import find_run
from qvision.runs.provenance import process_start, provenance

ROOT = Path(__file__).resolve().parent.parent
HOOK = ROOT/'tools/kill_hook.py'
QVISION = str(Path(sys.executable).parent/'qvision')
SIGNALS = ('KILL', 'TERM')
KINDS = ('training', 'saving', 'feature cache', 'text-state cache', 'evaluation', 'data writing')
LONGEST = 1200 # seconds of one command


@dataclass(frozen=True)
class Moment:
    "A place in the code at which a process is ended."
    kind:str              # of KINDS
    place:str             # module:function, or module:Class.method
    mode:str='before'     # before, after, or half: with half of the file that it wrote
    call:int=1            # which call
    where:str=''          # words in an argument, as a file's name; other calls do not count
    victim:str='process'  # which is ended: the process itself (a kernel), the command that started it, or both
    ended:bool=False      # whether the run is over by then: its metrics are written, and its status is done

    def plan(self, number:int, only:str)->dict:
        "Return what the hook reads."
        module, _, function = self.place.partition(':')
        return dict(module=module, function=function, mode=self.mode, call=self.call, where=self.where,
                    victim=self.victim, signal=number, only=only)

    def __str__(self):
        named = f' of {self.where}' if self.where else ''
        return f'{self.mode} {self.place.partition(":")[2]}{named}' + (f', call {self.call}' if self.call > 1 else '')


def features(function, **options): return Moment('feature cache', f'qvision.data.features:{function}', **options)
def states(function, **options): return Moment('text-state cache', f'qvision.data.features:{function}', **options)
def trainer(function, **options): return Moment('training', f'qvision.training.trainer:{function}', **options)
def report(function, **options): return Moment('training', f'qvision.training.callbacks:{function}', **options)
def saving(place, **options): return Moment('saving', place, **options)
def scoring(place, **options): return Moment('evaluation', place, **options)
def writing(place, **options): return Moment('data writing', place, **options)


WRITE_TEXT = 'pathlib:Path.write_text'
SAVE_TENSORS = 'safetensors.torch:save_file'
SAVE_PICTURE = 'PIL.Image:Image.save'
SYNC = 'qvision.files:sync'
TO_CSV = 'pandas.core.generic:NDFrame.to_csv'

# name of a chain -> (what is run, moments in the order in which a run comes to them)
CHAINS = {
    'caches': ('train', [
        features('_open_array', mode='after'),
        features('_mark_done', where='features.npy'),
        features('_stored', where='features', call=2, victim='both'),
        Moment('feature cache', SYNC, where='done.json', call=2),
        states('_open_array', mode='after', where='states.npy', victim='both'),
        states('_mark_done', where='states.npy', call=2),
        Moment('text-state cache', WRITE_TEXT, mode='half', where='done.json'),
        states('cached_rows', mode='after', where='text-', victim='command')]),
    'training': ('train', [
        Moment('training', SAVE_TENSORS, mode='half', where='set_aside'),
        trainer('ResumableTrainer.training_step', call=3),
        trainer('ResumableTrainer._get_grad_norm', mode='after', call=5, victim='both'),
        Moment('training', 'torch.optim.adamw:AdamW.step', mode='after', call=2, victim='command'),
        report('Reports.on_log', call=2, victim='both'),
        report('validation_loss', mode='after'),
        Moment('training', 'qvision.training.frozen_cache:Offload.__exit__')]),
    'saving': ('train', [
        saving(SAVE_TENSORS, mode='half', where='checkpoint-4/model'),
        saving('torch.serialization:save', mode='half', where='checkpoint-4/optimizer', victim='both'),
        saving('qvision.training.trainer:seal', where='checkpoint-4'),
        saving('transformers.trainer_callback:TrainerState.save_to_json', mode='half', where='checkpoint-8'),
        saving(SYNC, where='checkpoint-8/rng_state', victim='both'),
        saving('os:unlink', mode='after', where='optimizer.pt', victim='both')]),
    'sealing': ('train', [saving(WRITE_TEXT, mode='half', where='files.json')]),
    'results': ('train', [
        saving(SAVE_TENSORS, mode='half', where='-model/model'),
        saving('os:replace', mode='after', where='-model/', call=3, victim='both'),
        saving(SAVE_PICTURE, mode='half', where='-loss.png'),
        saving(WRITE_TEXT, mode='half', where='-metrics.json'),
        saving('os:replace', where='-metrics.json', victim='command'),
        saving('os:replace', mode='after', where='-metrics.json'),
        saving('qvision.runs.archive:write_index', victim='both', ended=True)]),
    'evaluation': ('evaluate', [
        features('_mark_done', mode='after', where='features.npy', victim='both'),
        scoring('qvision.evaluation.evaluate:generate_captions', call=2),
        scoring('qvision.evaluation.evaluate:generate_captions', mode='after', call=3, victim='both'),
        scoring(TO_CSV, mode='half', where='captions.tsv'),
        scoring('qvision.evaluation.metrics:score_rounds', victim='command'),
        scoring(SAVE_PICTURE, mode='half', where='-scores.png'),
        scoring('os:replace', where='-metrics.json', victim='both')]),
    'from-csv': ('from-csv', [
        writing('shutil:copyfile', mode='half', where='made', call=9),
        writing(WRITE_TEXT, mode='half', where='captions_train2017'),
        writing('qvision.data.convert:_move', call=1)]),
    'minicoco': ('minicoco', [
        writing('qvision.data.synthetic.minicoco:_write', call=5, victim='both'),
        writing(SAVE_PICTURE, mode='half', where='val2017', victim='both'),
        writing(WRITE_TEXT, mode='half', where='captions_train2017'),
        writing(WRITE_TEXT, where='SHA256SUMS')]),
    'checksums': ('minicoco', [writing(WRITE_TEXT, mode='half', where='SHA256SUMS')]),
}
# four kills, for the test and the notebook's quick form: name of a chain -> (what is run, moments)
QUICK = {'quick-csv': ('from-csv', CHAINS['from-csv'][1][1:]),
         'quick-train': ('train', [trainer('ResumableTrainer.training_step', call=3, victim='both'),
                                   saving(SAVE_TENSORS, mode='half', where='checkpoint-8/model')])}
QUICK_SIGNALS = {'quick-csv': 'TERM', 'quick-train': 'KILL'}


# What is run: the first command, the one that goes on, and the files to compare

DRAW = """
import sys
from functools import partial
from qvision.data.synthetic import minicoco
small = dict(train2017=20, val2017=10)
minicoco.write_minicoco = partial(minicoco.write_minicoco, splits=small, workers=1)
minicoco.ensure_minicoco(sys.argv[1], progress=False)
"""


def options(**params)->list[str]: return [word for k, v in params.items() for word in ('-p', k, str(v))]


def content(path:Path)->bytes:
    "Return a file as it is compared: a model card without seconds and commit, tensors with their header in one order."
    found = path.read_bytes()
    if path.suffix == '.md':
        return b'\n'.join(line for line in found.split(b'\n') if not line.startswith((b'| seconds', b'| commit')))
    if path.suffix != '.safetensors': return found
    length = 8 + int.from_bytes(found[:8], 'little')
    return json.dumps(json.loads(found[8:length]), sort_keys=True).encode() + found[length:]


class Experiment:
    "A run of a notebook, archived as `one`."
    only = 'ipykernel' # the process that is ended: the kernel

    def __init__(self, kind:str, files:tuple, **params):
        self.kind = kind
        self.files = files
        self.params = params

    def first(self, folder, data)->list:
        given = options(**dict(data=data, name='one', quiet='true', show_images='false') | self.params)
        return [QVISION, 'run', self.kind, *given]

    def again(self, folder, data)->list: return [QVISION, 'run', self.kind, '--name', 'one', '--resume']

    def root(self, folder)->Path: return folder/'experiments/one'

    def results(self, folder)->dict: # name -> bytes
        root = self.root(folder)
        found = [path for pattern in self.files for path in sorted(root.glob(pattern)) if path.name[0] != '.']
        return {path.relative_to(root).as_posix(): content(path) for path in found if path.is_file()}

    def state(self, folder)->str: # what the archive says
        run = find_run('one', folder/'experiments')
        return run.status if run else 'no run'

    def says_so(self, state:str, ended:bool)->bool: return state == 'done' if ended else state in ('died', 'failed')


class Writing:
    "The writing of a data set to the folder `made`."
    only = ''

    def __init__(self, command, mark:str): # mark: the file without which the folder is no data set
        self.command = command
        self.mark = mark

    def first(self, folder, data)->list: return self.command(folder, data)

    def again(self, folder, data)->list: return self.command(folder, data)

    def root(self, folder)->Path: return folder/'drawn'

    def results(self, folder)->dict: # name -> bytes
        root = self.root(folder)
        return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob('*'))
                if path.is_file()}

    def state(self, folder)->str:
        if not self.root(folder).exists(): return 'absent'
        return 'complete' if (self.root(folder)/self.mark).is_file() else 'incomplete'

    def says_so(self, state:str, ended:bool)->bool: return (state == 'complete') == ended


def csv_command(folder, data): return [QVISION, 'data', 'from-csv', data/'t.csv', data/'train2017', folder/'drawn']
def draw_command(folder, data): return [sys.executable, '-c', DRAW, folder/'drawn']


JOBS = {
    'train': Experiment('train', ('model/*', 'metrics.json', 'figures/*'), max_steps=12, save_steps=4),
    'evaluate': Experiment('evaluate', ('captions.tsv', 'metrics.json', 'figures/*'),
                           model='package:captioner-drawings', metrics='BLEU,ROUGE-L,CIDEr', tokenizer='python'),
    'from-csv': Writing(csv_command, 'annotations/captions_val2017.json'),
    'minicoco': Writing(draw_command, 'SHA256SUMS')}


# Running and ending

@dataclass
class Bench:
    "A folder with the data, the undisturbed results, and a folder per chain."
    folder:Path
    data:Path=field(init=False)

    def __post_init__(self):
        self.data = self.folder/'data'
        if (self.data/'t.csv').is_file(): return
        splits = dict(train2017=130, val2017=70) # features in three blocks and in two, states of captions in three
        write_minicoco(self.data, splits=splits, workers=1, progress=False)
        drawn = json.loads((self.data/'annotations/captions_train2017.json').read_text())
        names = {image['id']: image['file_name'] for image in drawn['images'][:24]}
        rows = [(names[a['image_id']], a['caption']) for a in drawn['annotations'] if a['image_id'] in names]
        with open(self.data/'t.csv', 'w', newline='') as table:
            csv.writer(table).writerows([('file', 'caption'), *rows])

    def call(self, folder:Path, command:list, hook:Path|None=None)->tuple: # exit status, what it wrote
        "Run a command whose runs and caches are in a folder."
        folder.mkdir(parents=True, exist_ok=True)
        paths = [str(hook)] if hook else []
        paths += [str(ROOT), *filter(None, [os.environ.get('PYTHONPATH')])]
        environment = os.environ | dict(
            PYTHONPATH=os.pathsep.join(paths), QVISION_EXPERIMENTS=str(folder/'experiments'), OMP_NUM_THREADS='1',
            QVISION_CACHE=str(folder/'cache'), TOKENIZERS_PARALLELISM='false', HF_HUB_OFFLINE='1', CI='true')
        with open(folder/'said.txt', 'w+') as said:
            process = subprocess.Popen([str(word) for word in command], cwd=ROOT, env=environment, stdout=said,
                                       stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True)
            try: process.wait(LONGEST)
            except subprocess.TimeoutExpired: os.killpg(process.pid, signal.SIGKILL)
            status = process.wait()
            said.seek(0)
            return status, said.read()

    def undisturbed(self, job:str)->Path:
        "Return the folder of what was never ended, making it first where it is missing."
        folder = self.folder/f'undisturbed-{job}'
        if (folder/'whole').is_file(): return folder
        shutil.rmtree(folder, ignore_errors=True)
        status, said = self.call(folder, JOBS[job].first(folder, self.data))
        if status: raise RuntimeError(f'{job} fails without being disturbed:\n{said[-3000:]}')
        (folder/'whole').touch()
        return folder


def wait_until_gone(pid:int, seconds:float=60)->bool:
    "Wait for the end of a process that is not a child; return whether it ended."
    until = time.monotonic() + seconds
    while process_start(pid) and time.monotonic() < until: time.sleep(.05)
    return not process_start(pid)


def last_line(said:str)->str:
    lines = [line for line in said.splitlines() if line.strip()]
    return lines[-1][:300] if lines else ''


def own_frames(stack:list[str])->list[str]:
    "Return the calls from the notebook's cell on, without those of Jupyter that lead to it."
    cells = [i for i, frame in enumerate(stack) if frame.endswith(':<module>')]
    return stack[cells[-1]:] if cells else stack


def end_once(bench:Bench, folder:Path, command:list, job:str, moment:Moment, name:str, hook:Path)->dict:
    "Run a command that is ended at a moment; return what happened."
    hook.mkdir(parents=True)
    shutil.copy(HOOK, hook/'sitecustomize.py')
    number = getattr(signal, f'SIG{name}')
    (hook/'plan.json').write_text(json.dumps(moment.plan(number, JOBS[job].only)))
    began = time.monotonic()
    status, said = bench.call(folder, command, hook)
    file = hook/'hit.json'
    hit = json.loads(file.read_text()) if file.is_file() else None
    gone = wait_until_gone(hit['pid']) if hit else False
    state = JOBS[job].state(folder)
    return dict(moment=moment.kind, where=str(moment), victim=moment.victim, signal=f'SIG{name}',
                reached=bool(hit), ended=gone, exit=status, state=state, said_so=JOBS[job].says_so(state, moment.ended),
                last_line=last_line(said), traceback='Traceback' in said, stack=own_frames(hit['stack']) if hit else [],
                seconds=round(time.monotonic() - began, 1))


def differences(mine:dict, undisturbed:dict)->list[str]:
    "Return the names of files that are missing, too many, or not the same to the byte."
    return sorted(name for name in mine.keys() | undisturbed.keys() if mine.get(name) != undisturbed.get(name))


def leftovers(folder:Path)->list[str]:
    "Return the unfinished files and folders that lie there, hidden, without the random part of their names."
    names = {path.name for path in folder.rglob('.*')}
    unfinished = {re.sub(r'^\.new-[0-9a-f]{8}-|(?<=-unfinished-).*', '', name) for name in names
                  if name.startswith('.new-') or '-unfinished-' in name}
    return sorted(unfinished)


def run_chain(bench:Bench, name:str, job:str, moments:list[Moment], signal_name:str)->list[dict]:
    "End a run at each moment, go on after each, and compare what came out; return a row per moment."
    undisturbed = bench.undisturbed(job)
    folder = bench.folder/f'{name}-{signal_name}'
    shutil.rmtree(folder, ignore_errors=True)
    if job == 'train' and moments[0].kind != 'feature cache':
        shutil.copytree(undisturbed/'cache', folder/'cache')
    command = JOBS[job].first(folder, bench.data)
    rows = []
    for i, moment in enumerate(moments):
        rows.append(end_once(bench, folder, command, job, moment, signal_name, folder/f'hook-{i}'))
        command = JOBS[job].again(folder, bench.data)
        if not rows[-1]['reached']: break # the run is over, or failed: the others cannot be reached
    over = JOBS[job].state(folder) in ('done', 'complete')
    status, said = (0, '') if over else bench.call(folder, command)
    found = differences(JOBS[job].results(folder), JOBS[job].results(undisturbed))
    for i, row in enumerate(rows):
        clean = row['reached'] and row['ended'] and row['said_so']
        row |= dict(chain=name, number=i, resumed=status, resumed_said='' if status == 0 else last_line(said),
                    differences=found, survived=clean and status == 0 and not found, left=leftovers(folder))
    shutil.rmtree(folder, ignore_errors=True)
    return rows


# Results

def read_rows(path:Path)->list[dict]:
    "Return the rows that are there; half of a last line is left out."
    rows = []
    for line in path.read_text().splitlines() if path.is_file() else []:
        try: rows.append(json.loads(line))
        except ValueError: continue
    return rows


def summarize(rows:list[dict], seconds:float)->dict:
    "Count what was tried and what survived, by moment and signal."
    table = {kind: {} for kind in KINDS if any(row['moment'] == kind for row in rows)}
    for row in rows:
        cell = table[row['moment']].setdefault(row['signal'], dict(tried=0, survived=0))
        cell['tried'] += 1
        cell['survived'] += row['survived']
    made_with = provenance()
    return dict(tried=len(rows), survived=sum(row['survived'] for row in rows),
                reached=sum(row['reached'] for row in rows), by_moment=table, seconds=round(seconds, 1),
                tracebacks=sum(row['traceback'] for row in rows), states=Counter(row['state'] for row in rows),
                git=made_with['git'], python=made_with['python'], machine=made_with['machine'])


def run(out:Path, folder:Path, chains:dict, signals=SIGNALS, show=print)->list[dict]:
    "Run every chain with every signal that OUT does not have yet; append a line per kill, and write the summary."
    bench = Bench(folder)
    began = time.monotonic()
    known = {(row['chain'], row['signal']) for row in read_rows(out)}
    out.parent.mkdir(parents=True, exist_ok=True)
    for name, (job, moments) in chains.items():
        for signal_name in signals:
            if (name, f'SIG{signal_name}') in known: continue
            rows = run_chain(bench, name, job, moments, signal_name)
            with open(out, 'a') as file: file.writelines(json.dumps(row) + '\n' for row in rows)
            for row in rows:
                show(f'{"survived" if row["survived"] else "NOT SURVIVED"}  {row["signal"]}  {row["moment"]}: '
                     f'{row["where"]}; {row["state"]}; {row["seconds"]} s', flush=True)
    rows = read_rows(out)
    out.with_suffix('.json').write_text(json.dumps(summarize(rows, time.monotonic() - began), indent=1) + '\n')
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', type=Path, required=True, help='JSON lines, one per kill')
    parser.add_argument('--work', type=Path, help='folder of data, undisturbed results and chains (default: a new one)')
    parser.add_argument('--chains', help=f'names, with commas between them (default: all of {", ".join(CHAINS)})')
    parser.add_argument('--signals', default=','.join(SIGNALS), help='KILL, TERM (default: both)')
    parser.add_argument('--quick', action='store_true', help='four kills alone')
    asked = parser.parse_args()
    names = asked.chains.split(',') if asked.chains else list(CHAINS)
    with TemporaryDirectory() as temporary:
        folder = asked.work or Path(temporary)
        if not asked.quick: rows = run(asked.out, folder, {k: CHAINS[k] for k in names}, asked.signals.split(','))
        else:
            for name, signal_name in QUICK_SIGNALS.items():
                rows = run(asked.out, folder, {name: QUICK[name]}, [signal_name])
    survived = sum(row['survived'] for row in rows)
    print(f'{survived} of {len(rows)} kills survived')
    sys.exit(survived != len(rows))


if __name__ == '__main__': main()
