"""Fuzz the readers of annotation files, of tables and of checkpoints, guided by the lines that an input reaches.

    pip install atheris                                         # Google's fuzzer for Python, on libFuzzer
    python tools/fuzz.py --out build/fuzzing.json --seconds 60  # for each of the three readers

Half of the mutations are libFuzzer's, of bytes; half put an odd value, a copy or a gap somewhere into the JSON. A fault
is any exception but the reader's own (DataError; for checkpoints OSError and ValueError), a message of several lines or
one that does not name the file, an input that computes for more than 5 s, and the end of the process. OUT has for each
reader the inputs per second, the distinct lines reached before and after, and each fault with its smallest input.
Seconds are those that the process computes: on a busy machine it takes longer."""
import argparse
import inspect
import json
import logging
import os
import resource
import struct
import subprocess
import sys
import time
import traceback
import types
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parent.parent
SLOW = 5         # seconds of computing that one input may take
MEMORY = 8*2**30 # bytes that the process may have
SEPARATOR = b'\n\x1e\n'
ODD = [None, True, False, 0, 1, -1, 2**31, 2**63, 10**400, 1.5, 1e308, float('nan'), float('inf'), '', 'x', '0', '../x',
       '/etc/passwd', 'a\0b', '\ud800', 'x'*300, [], {}, [[]], [1, 2, 3], {'a': 1}, [[0, 0, 1, 0, 1, 1]]]


class Wrong(Exception):
    "Raised where a reader's message is not as promised."


def one_line(error, name:str):
    "Check a message: one line of a bounded length, which names the file and can be printed."
    message = str(error)
    message.encode()
    cause = error if isinstance(error, BaseException) else None
    if '\n' in message: raise Wrong(f'several lines: {message[:200]!r}') from cause
    if len(message) > 1500: raise Wrong(f'too long: {message[:200]!r}') from cause
    if name not in message: raise Wrong(f'does not name {name}: {message[:200]!r}') from cause


# The readers

class Annotations:
    "A folder in COCO layout with two pictures; an input has its captions file and its instances file."
    modules = ('qvision/data/coco.py', 'qvision/data/integrity.py')

    def prepare(self, folder:Path):
        from PIL import Image
        from qvision.data.coco import CocoData
        from qvision.data.integrity import DataError, NothingUsable
        self.root, self.read, self.refusal, self.nothing = folder/'coco', CocoData, DataError, NothingUsable
        (self.root/'val2017').mkdir(parents=True, exist_ok=True)
        (self.root/'annotations').mkdir(exist_ok=True)
        for i in range(2): Image.new('RGB', (4, 3)).save(self.root/f'val2017/{i}.png')

    def seeds(self)->list[bytes]:
        images = [dict(id=i, file_name=f'{i}.png', width=4, height=3) for i in range(2)]
        captions = [dict(id=i, image_id=i, caption=f'Picture {i}') for i in range(2)]
        shapes = ([[0, 0, 2, 0, 2, 2, 0, 2]], dict(size=[3, 4], counts=[0, 6, 6]), dict(size=[3, 4], counts='06`0'))
        objects = [dict(id=i, image_id=i % 2, category_id=1, iscrowd=0, bbox=[0, 0, 2, 2], segmentation=shape)
                   for i, shape in enumerate(shapes)]
        first = json.dumps(dict(images=images, annotations=captions)).encode()
        second = json.dumps(dict(images=images, annotations=objects, categories=[dict(id=1, name='cup')])).encode()
        return [first + SEPARATOR + second, first]

    def split(self, data:bytes)->list[bytes]: return data.split(SEPARATOR)

    def join(self, pieces:list[bytes])->bytes: return SEPARATOR.join(pieces)

    def run(self, data:bytes):
        captions, *instances = data.split(SEPARATOR)
        (self.root/'annotations/captions_val2017.json').write_bytes(captions)
        other = self.root/'annotations/instances_val2017.json'
        if instances: other.write_bytes(instances[0])
        else: other.unlink(missing_ok=True)
        try: found = self.read(self.root, 'val2017', progress=False)
        except self.nothing as error: return one_line(str(error).partition('\n')[0], 'val2017') # the report follows
        except self.refusal as error: return one_line(error, 'val2017')
        str(found.report).encode()
        for image in found.images:
            for annotation in image.annotations: found.mask(annotation)


class Tables:
    "One file with captions; the first byte of an input chooses its name."
    modules = ('qvision/data/caption_tables.py',)
    NAMES = ('t.csv', 't.tsv', 't.jsonl', 't.json', 'Flickr8k.token.txt', 'captions.txt')

    def prepare(self, folder:Path):
        from qvision.data.caption_tables import read_table
        from qvision.data.integrity import DataError
        self.root, self.read, self.refusal = folder, read_table, DataError

    def seeds(self)->list[bytes]:
        sentences = [dict(raw='A man'), dict(tokens=['a', 'dog'])]
        karpathy = dict(images=[dict(filename='a.jpg', split='train', cocoid=1, filepath='x', sentences=sentences)])
        records = [dict(file='a.png', caption='A man'), dict(file='b.png', caption='A dog')]
        texts = ['file,caption\na.png,"A ""man"""\nb.png,A dog\n', 'file\tcaption\na.png\tA man\n',
                 '\n'.join(map(json.dumps, records)), json.dumps(karpathy), 'a.jpg#0\tA man\na.jpg#1\tA dog\n',
                 'image,caption\na.jpg,A man , who sits .\n']
        seeds = [bytes([i]) + text.encode() for i, text in enumerate(texts)]
        more = [b'\0file;caption\na.png;A man\n', b'\3' + json.dumps(records).encode(),
                b'\1' + 'file\tcaption\na.png\tA man\n'.encode('utf-16')]
        return seeds + more

    def split(self, data:bytes)->list[bytes]: return [data[:1], data[1:]]

    def join(self, pieces:list[bytes])->bytes: return b''.join(pieces)

    def run(self, data:bytes):
        path = self.root/self.NAMES[(data[0] if data else 0) % len(self.NAMES)]
        path.write_bytes(data[1:])
        try: self.read(path)
        except self.refusal as error: one_line(error, path.name)


class Checkpoints:
    "A captioner's folder in which one file is another; the first byte of an input chooses which."
    modules = ('qvision/model/captioner.py', 'qvision/model/checkpoint.py', 'qvision/layers/backbones.py',
               'qvision/layers/domain.py', 'qvision/inference/speculative.py')
    NAMES = ('config.json', 'model.safetensors', 'tokenizer.json', 'tokenizer_config.json', 'preprocessor_config.json',
             'phrases.json', 'domain.safetensors', 'generation_config.json')

    def prepare(self, folder:Path):
        import torch
        import transformers
        from qvision.inference.speculative import NgramDrafter
        from qvision.layers.domain import Domain
        from qvision.model.captioner import Captioner, tiny_captioner
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        logging.disable(logging.CRITICAL)
        self.root, self.read = folder/'model', Captioner.from_pretrained
        model = tiny_captioner()
        model.phrases = NgramDrafter.of([[1, 5, 6, 2]]*3)
        width = model.config.vision_config.hidden_size
        model.domain = Domain.fit(torch.randn(40, 4, width, generator=torch.Generator().manual_seed(0)))
        model.save_pretrained(self.root)
        self.sound = {name: (self.root/name).read_bytes() for name in self.NAMES}

    def _header(self, name:str)->int: # bytes of the length and of the header of a file of tensors
        return 8 + struct.unpack('<Q', self.sound[name][:8])[0]

    def seeds(self)->list[bytes]:
        contents = {name: self.sound[name] for name in self.NAMES}
        for name in contents:
            if name.endswith('.safetensors'): contents[name] = contents[name][8:self._header(name)]
        return [bytes([i]) + content for i, content in enumerate(contents.values())]

    def split(self, data:bytes)->list[bytes]: return [data[:1], data[1:]]

    def join(self, pieces:list[bytes])->bytes: return b''.join(pieces)

    def run(self, data:bytes):
        name = self.NAMES[(data[0] if data else 0) % len(self.NAMES)]
        content = data[1:]
        if name.endswith('.safetensors') and content.startswith(b'{'): # a header, which gets its length and the data
            content = struct.pack('<Q', len(content)) + content + self.sound[name][self._header(name):]
        (self.root/name).write_bytes(content)
        try: self.read(self.root)
        except (OSError, ValueError) as error: one_line(error, str(self.root))
        finally: (self.root/name).write_bytes(self.sound[name])


READERS = dict(annotations=Annotations, tables=Tables, checkpoints=Checkpoints)


# Mutations of JSON

def places(content)->list[tuple]: # (list or dictionary, key)
    found = []
    waiting = [content]
    while waiting:
        holder = waiting.pop()
        keys = range(len(holder)) if isinstance(holder, list) else list(holder)
        for key in keys:
            found.append((holder, key))
            if isinstance(holder[key], (list, dict)): waiting.append(holder[key])
    return found


def change_json(text:bytes, rng:Random)->bytes:
    "Change one value of JSON: to an odd one, to another of its values, or to nothing; or double it."
    content = json.loads(text)
    found = places(content) if isinstance(content, (list, dict)) else []
    if not found: return json.dumps(rng.choice(ODD)).encode()
    holder, key = rng.choice(found)
    way = rng.randrange(4)
    other, other_key = rng.choice(found)
    if way == 0: holder[key] = rng.choice(ODD)
    elif way == 1: holder[key] = json.loads(json.dumps(other[other_key]))
    elif way == 2: del holder[key]
    elif isinstance(holder, list): holder.append(holder[key])
    else: holder[rng.choice(['id', 'file', 'x', ''])] = holder[key]
    return json.dumps(content).encode()


def changed(reader, data:bytes, seed:int)->bytes|None: # None where there is no JSON to change
    "Change a value in the JSON of one of an input's pieces, or in one line of it."
    rng = Random(seed)
    pieces = reader.split(data)
    order = rng.sample(range(len(pieces)), len(pieces))
    for i in order:
        lines = pieces[i].split(b'\n')
        line = rng.randrange(len(lines))
        try:
            lines[line] = change_json(lines[line], rng)
            pieces[i] = b'\n'.join(lines)
            return reader.join(pieces)
        except (ValueError, RecursionError): continue
    return None


# Faults

def signature(error:BaseException)->str:
    "Return an error's type, and the last line of this package that it passed."
    frames = traceback.extract_tb(error.__traceback__)
    own = [f'{Path(f.filename).name}:{f.name}' for f in frames if '/qvision/' in f.filename.replace(os.sep, '/')]
    kind = type(error).__name__
    if isinstance(error, Wrong):
        what = str(error).partition(':')[0]
        return f'{what}, {signature(error.__cause__)}' if error.__cause__ else what
    where = own or [f.name for f in frames] or ['no function']
    return f'{kind} in {where[-1]}'


def fault(reader, data:bytes)->tuple|None: # (signature, message) of what goes wrong, None where nothing does
    began = time.process_time()
    try: reader.run(data)
    except Exception as error: return signature(error), f'{type(error).__name__}: {error}'[:300]
    seconds = time.process_time() - began
    return ('slow', f'{seconds:.0f} s') if seconds > SLOW else None


def smaller(reader, data:bytes, wanted:str, seconds:float=5)->bytes:
    "Cut pieces out of an input for as long as it has the same fault."
    until = time.process_time() + seconds
    size = len(data)//2
    while size and time.process_time() < until:
        first = 0
        while first < len(data) and time.process_time() < until:
            shorter = data[:first] + data[first + size:]
            found = fault(reader, shorter)
            if found and found[0] == wanted: data = shorter
            else: first += size
        size //= 2
    return data


# The process that fuzzes, and the one that counts lines

def write_state(folder:Path, state:dict):
    new = folder/'state.new'
    new.write_text(json.dumps(state))
    os.replace(new, folder/'state.json')


def fuzz(name:str, folder:Path, seconds:int, seed:int):
    "Fuzz one reader; state.json is written every second, since libFuzzer ends a process that an input breaks."
    import atheris
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    reader = READERS[name]()
    with atheris.instrument_imports(include=['qvision']): reader.prepare(folder)
    state = dict(inputs=0, seconds=0., faults={})
    began = time.process_time()
    written = began

    def try_input(data):
        nonlocal written
        state['inputs'] += 1
        found = fault(reader, data)
        if found:
            known = state['faults'].get(found[0])
            if not known or len(data)*2 < len(known['input']):
                state['faults'][found[0]] = dict(message=found[1], input=data.hex())
        now = time.process_time()
        if not found and now - written < 1: return
        written = now
        state['seconds'] = now - began
        write_state(folder, state)
        if now - began >= seconds: os._exit(0)

    def mutate(data, max_size, seed):
        new = changed(reader, data, seed) if seed % 2 else None
        return new if new is not None and len(new) <= max_size else atheris.Mutate(data, max_size)

    options = [f'-seed={seed}', '-timeout=600', '-report_slow_units=600', '-rss_limit_mb=6000', '-max_len=16384',
               f'-artifact_prefix={folder}/ended-', str(folder/'corpus'), str(folder/'seeds')]
    atheris.Setup([sys.argv[0], *options], try_input, custom_mutator=mutate)
    atheris.Fuzz()


def lines_of(code)->set[int]:
    "Return the lines of the functions in some code; what runs when a module is imported does not count."
    is_function = code.co_flags & inspect.CO_OPTIMIZED
    found = {line for _, _, line in code.co_lines() if line} if is_function else set()
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType): found |= lines_of(inner)
    return found


def count_lines(name:str, folder:Path)->dict:
    "Run the seeds, then every input that fuzzing kept, and count the distinct lines of the reader's modules."
    reader = READERS[name]()
    reader.prepare(folder)
    files = {str(ROOT/module) for module in reader.modules}
    reached = set()

    def trace(frame, event, argument):
        if frame.f_code.co_filename not in files: return None
        reached.add((frame.f_code.co_filename, frame.f_lineno))
        return trace

    def lines(inputs)->int:
        sys.settrace(trace)
        try:
            for path in sorted(inputs): fault(reader, path.read_bytes())
        finally: sys.settrace(None)
        return len(reached)
    everything = sum(len(lines_of(compile(Path(f).read_text(), f, 'exec'))) for f in files)
    first = lines((folder/'seeds').iterdir())
    return dict(lines_of_seeds=first, lines=lines((folder/'corpus').iterdir()), lines_there_are=everything,
                kept=len(list((folder/'corpus').iterdir())))


def smallest(name:str, folder:Path, faults:dict)->list[dict]:
    "Return the faults with the smallest inputs that were found in a few seconds more."
    reader = READERS[name]()
    reader.prepare(folder)
    found = []
    for what, entry in sorted(faults.items()):
        data = smaller(reader, bytes.fromhex(entry['input']), what)
        message = (fault(reader, data) or (what, entry['message']))[1]
        found.append(dict(fault=what, message=message.replace(str(folder), ''), bytes=len(data), input=data.hex(),
                          text=data.decode('latin-1')[:300]))
    return found


# The parent

def call(folder:Path, *arguments)->str: # what it printed
    "Run a part of this script in a process of its own; what it writes on stderr is kept in the folder."
    environment = os.environ | dict(HF_HUB_OFFLINE='1', TOKENIZERS_PARALLELISM='false', OMP_NUM_THREADS='1')
    environment['PYTHONPATH'] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get('PYTHONPATH')])])
    with open(folder/'said.txt', 'a') as said:
        done = subprocess.run([sys.executable, __file__, *map(str, arguments)], env=environment, stdout=subprocess.PIPE,
                              stderr=said, text=True, cwd=folder)
    return done.stdout


def answer(text:str)->dict:
    "Return what a process printed last; empty where it ended before."
    lines = text.splitlines()
    return json.loads(lines[-1]) if lines and lines[-1].startswith('{') else {}


def ends(folder:Path)->dict: # faults at which libFuzzer ended the process
    found = {}
    for path in sorted(folder.glob('ended-*')):
        kind = path.name.split('-')[1] # crash, timeout, oom
        data = path.read_bytes()
        if kind not in found or len(data) < len(found[kind])//2: found[kind] = data.hex()
        path.unlink()
    return {f'the process ended: {kind}': dict(message=kind, input=data) for kind, data in found.items()}


def fuzz_reader(name:str, folder:Path, seconds:int, seed:int)->dict:
    "Fuzz a reader for some seconds, starting again where the process was ended; return what is archived."
    for part in ('seeds', 'corpus'): (folder/part).mkdir(parents=True)
    reader = READERS[name]()
    reader.prepare(folder)
    for i, data in enumerate(reader.seeds()): (folder/f'seeds/{i}').write_bytes(data)
    inputs = 0
    spent = 0.
    faults = {}
    starts = 0
    while seconds - spent > 1 and starts < 50:
        (folder/'state.json').unlink(missing_ok=True)
        call(folder, '--child', name, folder, round(seconds - spent), seed + starts)
        starts += 1
        if not (folder/'state.json').is_file(): break
        state = json.loads((folder/'state.json').read_text())
        inputs += state['inputs']
        spent += state['seconds']
        found = state['faults'] | ends(folder)
        faults |= {k: entry for k, entry in found.items()
                   if k not in faults or len(entry['input']) < len(faults[k]['input'])}
    (folder/'faults.json').write_text(json.dumps(faults))
    found = answer(call(folder, '--smallest', name, folder)).get('faults') if faults else []
    if found is None: # ended while it was made smaller
        found = [dict(fault=k, message=entry['message'], bytes=len(entry['input'])//2, input=entry['input'],
                      text=bytes.fromhex(entry['input']).decode('latin-1')[:300]) for k, entry in faults.items()]
    lines = answer(call(folder, '--lines', name, folder))
    said = '' if inputs else (folder/'said.txt').read_text()[-1000:]
    return dict(inputs=inputs, seconds=round(spent, 1), inputs_per_second=round(inputs/spent, 1) if spent else 0,
                starts=starts, seeds=len(reader.seeds()), faults=found, **lines) | (dict(said=said) if said else {})


def run(out:Path, seconds:int, seed:int=0, readers=tuple(READERS), show=print)->dict:
    "Fuzz each reader, and write OUT."
    import atheris # here, so that its absence is said at once
    from importlib.metadata import version
    from qvision.runs.provenance import provenance
    found = {}
    for name in readers:
        with TemporaryDirectory() as temporary: found[name] = fuzz_reader(name, Path(temporary), seconds, seed)
        row = found[name]
        show(f'{name}: {row["inputs"]:,} inputs, {row["inputs_per_second"]:,} per second; '
             f'{row.get("lines", 0)} lines, {row.get("lines_of_seeds", 0)} by the seeds alone; '
             f'faults: {len(row["faults"])}', flush=True)
    made_with = provenance()
    result = dict(fuzzer=f'{atheris.__name__} {version("atheris")}', seconds=seconds, seed=seed, readers=found,
                  git=made_with['git'], python=made_with['python'], machine=made_with['machine'])
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + '\n')
    return result


def main():
    if sys.argv[1:2] == ['--child']: return fuzz(sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]))
    if sys.argv[1:2] == ['--lines']: return print(json.dumps(count_lines(sys.argv[2], Path(sys.argv[3]))))
    if sys.argv[1:2] == ['--smallest']:
        faults = json.loads((Path(sys.argv[3])/'faults.json').read_text())
        return print(json.dumps(dict(faults=smallest(sys.argv[2], Path(sys.argv[3]), faults))))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', type=Path, required=True, help='JSON file to write')
    parser.add_argument('--seconds', type=int, default=60, help='for each reader (default: 60)')
    parser.add_argument('--seed', type=int, default=0, help='of the mutations (default: 0)')
    parser.add_argument('--readers', default=','.join(READERS), help='with commas between them (default: all)')
    asked = parser.parse_args()
    try: result = run(asked.out, asked.seconds, asked.seed, asked.readers.split(','))
    except ModuleNotFoundError as error:
        if error.name != 'atheris': raise
        sys.exit('fuzz.py needs atheris, which is not installed: pip install atheris')
    sys.exit(any(row['faults'] for row in result['readers'].values()))


if __name__ == '__main__': main()
