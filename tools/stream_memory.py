"""Measure the resident memory of a process that streams captions from shards, for more and more of them.

    python tools/stream_memory.py --out build/streaming.jsonl   # 10,000 to 1,000,000 captions, some minutes

Each size is written and read in processes of their own: five captions of synthetic text per image, tiny features, an
epoch in batches as training takes them. OUT gets a line per size: captions, images, bytes on the disk, seconds that
the reading computes and captions per such second, resident memory before the epoch, and its samples during it."""
import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parent.parent
SIZES = (10_000, 31_600, 100_000, 316_000, 1_000_000) # captions
TOGETHER = 5  # captions per image
BATCH = 64    # images
SAMPLES = 50  # of the memory, per epoch
WORDS = ('a', 'the', 'red', 'small', 'dog', 'woman', 'car', 'bird', 'tree', 'table', 'runs', 'stands', 'near', 'behind',
         'on', 'under', 'green', 'grass', 'street', 'water', 'two', 'children', 'play', 'with', 'ball')


def rows(count:int, first:int):
    "Yield images whose captions are random words."
    import numpy as np
    for i in range(first, count):
        random = Random(i)
        captions = [' '.join(random.choices(WORDS, k=random.randint(6, 14))) for _ in range(TOGETHER)]
        yield dict(id=i, captions=captions, whole=np.full((2, 4), i % 1000, np.float16))


def write(folder:Path, captions:int):
    "Write shards of synthetic captions."
    from qvision.data.write_shards import write_shards
    write_shards(lambda first: rows(captions//TOGETHER, first), folder, dict(whole='synthetic'), progress=False)


def resident()->int: # bytes
    "Return the memory of this process that is in RAM and is not a file's."
    fields = dict(line.split(':') for line in Path('/proc/self/status').read_text().splitlines())
    return 1024*int(fields['RssAnon'].split()[0])


def read(folder:Path)->dict:
    "Read an epoch, and look at the memory meanwhile."
    from torch.utils.data import DataLoader
    from transformers import AutoTokenizer

    from qvision.data.shards import ShardData
    from qvision.data.stream import CaptionStream
    from qvision.layers.backbones import open_part
    data = ShardData.open(folder, 'train2017')
    stream = CaptionStream(data, open_part(AutoTokenizer, 'package:gpt_neo'), together=TOGETHER)
    batches = DataLoader(stream, BATCH, collate_fn=list)
    next(iter(batches)) # what is imported and allocated once
    every = max(1, len(batches)//SAMPLES)
    before = resident()
    samples = []
    captions = 0
    began = time.process_time()
    for number, items in enumerate(batches, 1):
        captions += sum(len(ids) for _, ids in items)
        if number % every == 0 or number == len(batches): samples.append(resident())
    seconds = time.process_time() - began
    size = sum(file['bytes'] for file in data.listed['files'])
    return dict(captions=captions, images=len(data), bytes=size, seconds=round(seconds, 3),
                captions_per_second=round(captions/seconds), before=before, samples=samples, peak=max(samples))


def measure(captions:int)->dict:
    "Write and read some captions, in processes of their own."
    with TemporaryDirectory(prefix='qvision-streaming-') as folder:
        for part in ('write', 'read'):
            command = [sys.executable, __file__, '--part', part, '--folder', folder, '--sizes', str(captions)]
            done = subprocess.run(command, cwd=ROOT, check=True, text=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout.splitlines()[-1])


def run(out:Path, sizes)->list[dict]:
    "Measure all sizes, and write a line for each."
    out.parent.mkdir(parents=True, exist_ok=True)
    found = []
    for size in sizes:
        found.append(measure(size))
        out.write_text(''.join(json.dumps(row) + '\n' for row in found))
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', type=Path, default=ROOT/'build/streaming.jsonl', help='JSON lines to write')
    parser.add_argument('--sizes', type=int, nargs='+', default=SIZES, help='captions')
    parser.add_argument('--part', choices=('write', 'read'), help=argparse.SUPPRESS)
    parser.add_argument('--folder', type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part == 'write': return write(args.folder, *args.sizes)
    if args.part == 'read': return print(json.dumps(read(args.folder)))
    for row in run(args.out, args.sizes):
        print(f'{row["captions"]:>9,} captions: {row["before"]/1e6:.0f} MB before, {row["peak"]/1e6:.0f} MB at most, '
              f'{row["captions_per_second"]:,} captions per second')


if __name__ == '__main__': main()
