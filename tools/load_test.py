#!/usr/bin/env python3
"""Load-test `qvision serve`: requests per second and latency at 1, 8 and 32 clients, whether every answer came and was
the right one, and how the server's memory grows.

    python tools/load_test.py                                        # the captioner that ships, 320 requests per row
    python tools/load_test.py --tiny --clients 32 --requests 10000   # memory, with a captioner of random weights

The server is a process of its own, and the clients are threads of this one, each with one connection that is kept. Both
share the machine, as they would on a desktop. The exit status is 1 if an answer is lost or wrong."""
import argparse
import http.client
import io
import json
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from random import Random

SEVERAL = 16 # different pictures


@dataclass
class Load:
    "What a number of clients saw, and what the server said of itself."
    clients:int
    requests:int
    seconds:float = 0.                            # from the first request to the last answer
    latencies:list = field(default_factory=list)  # seconds, of answers
    lost:list = field(default_factory=list)       # reasons of requests without an answer
    wrong:int = 0                                 # answers that are another picture's
    batch_size:float = 0.                         # mean
    memory:list = field(default_factory=list)     # MB of the server, at the start and after each tenth of the requests

    def latency(self, share:float)->float: # milliseconds
        "Return the latency that this share of the answers stayed below."
        ordered = sorted(self.latencies)
        if not ordered: raise SystemExit(f'no answer at all: {self.lost[0]}')
        return 1000*ordered[min(len(ordered) - 1, int(share*len(ordered)))]

    @property
    def rate(self)->float:
        "Return answers per second."
        return len(self.latencies)/self.seconds

    @property
    def growth(self)->float:
        "Return by how many MB the server's memory grew after the first tenth, in which buffers come to their size."
        return self.memory[-1] - self.memory[1]


@contextmanager
def served(model:str, *options):
    "Run `qvision serve` on a free port; yield host:port."
    program = [Path(sys.executable).parent/'qvision', 'serve', '--port', '0', '--model', model, *map(str, options)]
    process = subprocess.Popen(program, stdout=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        if not line: raise SystemExit('the server did not start')
        yield re.match(r'http://([^/]+)/', line)[1]
    finally:
        process.terminate()
        process.communicate(timeout=120)


def numbers(host:str)->dict: # name without labels -> number
    "Read what the server says of itself."
    text = urllib.request.urlopen(f'http://{host}/metrics', timeout=60).read().decode()
    lines = (line.rsplit(' ', 1) for line in text.splitlines() if not line.startswith('#') and '{' not in line)
    return {name: float(number) for name, number in lines}


def memory(host:str)->float: # MB
    "Read how much memory the server has."
    return numbers(host)['process_resident_memory_bytes']/1e6


def ask(connection:http.client.HTTPConnection, picture:bytes)->dict:
    "Post a picture; an answer that is no caption is an error."
    connection.request('POST', '/caption', picture, {'Content-Type': 'image/png'})
    answer = connection.getresponse()
    content = answer.read()
    if answer.status != 200: raise ValueError(f'{answer.status} {content.decode()}')
    return json.loads(content)


def client(host:str, waiting:SimpleQueue, pictures:list, expected:list, load:Load):
    "Send pictures, one after the other, as long as there are any."
    connection = http.client.HTTPConnection(host, timeout=120)
    while True:
        try: n = waiting.get_nowait()
        except Empty: break
        start = time.perf_counter()
        try: answer = ask(connection, pictures[n % len(pictures)])
        except (OSError, ValueError, http.client.HTTPException) as error:
            load.lost.append(repr(error))
            connection.close() # the next request opens it again
            continue
        load.latencies.append(time.perf_counter() - start)
        load.wrong += answer['caption'] != expected[n % len(pictures)]
    connection.close()


def put_under_load(host:str, pictures:list, expected:list, clients:int, requests:int)->Load:
    "Send requests from a number of clients, in ten parts between which the server's memory is read."
    load = Load(clients, requests, memory=[memory(host)])
    before = numbers(host)
    for part in range(10):
        waiting = SimpleQueue()
        for n in range(part*requests//10, (part + 1)*requests//10): waiting.put(n)
        start = time.perf_counter()
        with ThreadPoolExecutor(clients) as pool:
            working = [pool.submit(client, host, waiting, pictures, expected, load) for _ in range(clients)]
        load.seconds += time.perf_counter() - start
        for each in working: each.result() # raises what went wrong in it
        load.memory.append(memory(host))
    after = numbers(host)
    batches = after['qvision_batch_size_count'] - before['qvision_batch_size_count']
    load.batch_size = (after['qvision_batch_size_sum'] - before['qvision_batch_size_sum'])/batches
    return load


def drawings(count:int=SEVERAL)->list: # PNG files
    "Draw scenes."
    from qvision.data.synthetic.scenes import paint, sample_scene
    found = []
    for n in range(count):
        file = io.BytesIO()
        paint(sample_scene(Random(n)), Random(n))[0].save(file, 'PNG')
        found.append(file.getvalue())
    return found


def run(model:str, clients:list, requests:int, *options)->list[Load]:
    "Serve a captioner, and put it under load from each number of clients."
    pictures = drawings()
    with served(model, *options) as host:
        connection = http.client.HTTPConnection(host, timeout=120)
        expected = [ask(connection, picture)['caption'] for picture in pictures] # one by one
        connection.close()
        return [put_under_load(host, pictures, expected, each, requests) for each in clients]


HEADERS = ['clients', 'requests', 'lost', 'wrong', 'requests/s', 'median ms', '95 % ms', '99 % ms', 'pictures/batch',
           'memory MB', 'growth MB']


def row(load:Load)->list:
    latencies = [round(load.latency(share)) for share in (.5, .95, .99)]
    return [load.clients, load.requests, len(load.lost), load.wrong, round(load.rate, 1), *latencies,
            round(load.batch_size, 1), round(load.memory[-1]), round(load.growth, 1)]


def table(loads:list[Load])->str:
    "Return the figures as a Markdown table."
    from qvision.tables import render_table
    return render_table([row(load) for load in loads], HEADERS)


def main():
    "Run the command line."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--model', default='package:captioner', help='folder, hub id or package:NAME')
    parser.add_argument('--tiny', action='store_true', help='a captioner of random weights instead')
    parser.add_argument('--clients', type=int, nargs='+', default=[1, 8, 32])
    parser.add_argument('--requests', type=int, default=320, help='per number of clients (default: 320)')
    parser.add_argument('--options', default='', help='of qvision serve, such as "--decoding greedy --max-batch 32"')
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if given.tiny:
            from qvision.commands.models import quiet_libraries
            from qvision.model.captioner import tiny_captioner
            quiet_libraries()
            tiny_captioner().save_pretrained(folder)
        loads = run(folder if given.tiny else given.model, given.clients, given.requests, *given.options.split())
    print(table(loads))
    for load in loads:
        if load.lost: print(f'{load.clients} clients lost, for example: {load.lost[0]}', file=sys.stderr)
    sys.exit(any(load.lost or load.wrong for load in loads))


if __name__ == '__main__': main()
