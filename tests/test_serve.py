"The server of captions, from outside: answers, limits, what it counts, and its end."
import ast
import http.client
import io
import json
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from random import Random

import pytest
from PIL import Image

from qvision.data.images import ImageError, open_rgb
from qvision.model.captioner import Captioner, tiny_captioner

EXTRA = "the packages of the extra `serve` are not installed: pip install 'qvision[serve]'"
for package in ('fastapi', 'uvicorn', 'python_multipart', 'prometheus_client'):
    pytest.importorskip(package, reason=EXTRA)

from qvision.serving.server import CaptionServer, ServerLimits, make_app, open_port, url_of # noqa: E402

DRAWINGS = 'package:captioner-drawings'


def encoded(image, kind='PNG')->bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def noise(seed=0)->bytes: # a PNG
    rng = Random(seed)
    return encoded(Image.frombytes('RGB', (40, 30), rng.randbytes(3600)))


@contextmanager
def serving(captioner, **limits):
    "Serve a captioner on a free port; yield the server and its URL."
    import uvicorn
    server = CaptionServer(captioner, ServerLimits(**limits), name='tested')
    bound = open_port(port=0)
    web = uvicorn.Server(uvicorn.Config(make_app(server), log_level='warning', access_log=False))
    server.stop = lambda: setattr(web, 'should_exit', True)
    thread = threading.Thread(target=web.run, kwargs=dict(sockets=[bound]))
    thread.start()
    try: yield server, url_of(bound)
    finally:
        server.stop()
        thread.join(60)
    assert not thread.is_alive()


def ask(url, content, timeout=60, **headers)->tuple: # status, answer
    "Post to /caption."
    headers = {name.replace('_', '-'): value for name, value in headers.items()}
    request = urllib.request.Request(f'{url}/caption', content, headers)
    try:
        with urllib.request.urlopen(request, timeout=timeout) as got: return got.status, json.load(got)
    except urllib.error.HTTPError as error: return error.code, json.load(error)


def form(*parts)->dict: # content and content_type of a form with parts (name, file name, content)
    body = b''
    for name, file, content in parts:
        file = f'; filename="{file}"' if file else ''
        body += f'--cut\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode() + content + b'\r\n'
    return dict(content=body + b'--cut--\r\n', content_type='multipart/form-data; boundary=cut')


def counted(url)->dict: # name with labels -> number
    "Read /metrics."
    from prometheus_client.parser import text_string_to_metric_families
    text = urllib.request.urlopen(f'{url}/metrics', timeout=60).read().decode()
    samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
    return {(name, *labels.values()): value for name, labels, value, *_ in samples}


def until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, 'it never came to this'
        time.sleep(.01)


@pytest.fixture(scope='module')
def tiny(): return tiny_captioner()


@pytest.fixture(scope='module')
def drawings():
    from qvision.data.synthetic.scenes import paint, sample_scene
    return [paint(sample_scene(Random(n)), Random(n))[0] for n in range(12)]


def test_each_client_has_the_captioners_own_caption(drawings):
    "Many at once, as a body and as a form: the words, the scores and the warning of their own picture."
    captioner = Captioner.from_pretrained(DRAWINGS)
    pictures = [*drawings, Image.new('RGB', (60, 40), 'red')]
    expected = captioner.caption(pictures, scores=True)
    assert len({scored.caption for scored in expected}) > 6
    everyone = threading.Barrier(len(pictures))

    def client(n):
        content = encoded(pictures[n])
        everyone.wait(60)
        return ask(url, **form(('image', 'x.png', content))) if n % 2 else ask(url, content)

    with serving(captioner, max_batch=5, max_wait=.5) as (server, url):
        with ThreadPoolExecutor(len(pictures)) as pool: answers = list(pool.map(client, range(len(pictures))))
        numbers = counted(url)
    assert [status for status, _ in answers] == [200]*len(pictures)
    for (_, answer), scored in zip(answers, expected):
        assert answer['caption'] == scored.caption
        assert answer['score'] == pytest.approx(scored.score, abs=1e-3)
        assert [word for word, _ in answer['words']] == [word for word, _ in scored.words]
        assert [score for _, score in answer['words']] == pytest.approx([score for _, score in scored.words], abs=1e-3)
    assert [answer['outside'] for _, answer in answers] == [False]*len(drawings) + [True]
    assert numbers['qvision_requests_total', '200'] == len(pictures)
    assert numbers['qvision_batch_size_sum', ] == len(pictures)
    assert numbers['qvision_batch_size_count', ] < len(pictures) # some were captioned together
    assert numbers['qvision_batch_size_bucket', '8.0'] == numbers['qvision_batch_size_count', ]
    assert numbers['qvision_request_seconds_count', ] == len(pictures)
    assert numbers['qvision_waiting', ] == 0


def test_what_cannot_be_captioned_is_refused(tiny, drawings, tmp_path):
    "Status and reason of each, what is counted, and that a picture is captioned after all of them."
    photo = encoded(drawings[0], 'JPEG')
    bomb = tmp_path/'bomb.png'
    Image.new('1', (15_000, 15_000)).save(bomb)
    with pytest.raises(ImageError) as said: open_rgb(bomb)
    large = noise() + bytes(200_000)
    cases = [
        (415, 'not an image', dict(content=b'<html></html>')),
        (415, 'heic images need pillow-heif', dict(content=b'\0\0\0\x18ftypheic' + bytes(30))),
        (415, "'application/json' is no picture", dict(content=b'{}', content_type='application/json')),
        (413, 'the picture has more than 0.1 MB', dict(content=large)),
        (413, 'the picture has more than 0.1 MB', dict(content=iter([large[:150_000], large[150_000:]]))), # chunked
        (413, 'the picture has more than 0.1 MB', form(('image', 'x.png', large))),
        (413, said.value.reason, dict(content=bomb.read_bytes())),
        (400, 'no picture was sent', dict(content=b'')),
        (400, 'truncated: ', dict(content=photo[:len(photo)//2])),
        (400, 'damaged (', dict(content=encoded(drawings[2])[:60] + b'0'*99)),
        (400, 'the form has no file', form(('image', '', noise()))),
        (400, 'the form is broken: ', form(('image', 'a.png', noise()), ('image', 'b.png', noise()))),
        (400, 'the form is broken: ', dict(content=noise(), content_type='multipart/form-data; boundary=cut')),
    ]
    assert 'limit 179' in said.value.reason
    with serving(tiny, max_bytes=100_000) as (server, url):
        for status, reason, request in cases:
            got, answer = ask(url, **request)
            assert (got, answer['detail'][:len(reason)]) == (status, reason)
            assert len(answer['detail'].splitlines()) == 1
        assert ask(url, noise())[0] == 200
        numbers = counted(url)
    kinds = dict(unsupported=3, too_large=4, bad_request=6)
    assert {kind: numbers['qvision_errors_total', kind] for kind in kinds} == kinds
    assert [numbers['qvision_requests_total', status] for status in ('200', '400', '413', '415')] == [1, 6, 4, 3]
    assert server.batcher.taken == 0 # no refusal keeps a place


@contextmanager
def held(server):
    "Hold the model back; yield the batches that it was given, which go on afterwards."
    compute = server.batcher.compute
    batches = []
    may_go = threading.Event()
    def slowly(items):
        batches.append(items)
        may_go.wait(60)
        return compute(items)
    server.batcher.compute = slowly
    try: yield batches
    finally: may_go.set()


def test_a_full_queue_is_503_and_says_so_at_once(tiny):
    with serving(tiny, max_waiting=2) as (server, url), ThreadPoolExecutor(2) as pool:
        with held(server) as batches:
            first = pool.submit(ask, url, noise(1))
            until(lambda: batches)
            second = pool.submit(ask, url, noise(2))
            until(lambda: server.batcher.taken == 2)
            assert ask(url, noise(3)) == (503, dict(detail='all 2 places are taken: try again later'))
            assert urllib.request.urlopen(f'{url}/health', timeout=60).status == 200 # busy, but well
            assert counted(url)['qvision_waiting', ] == 2
        captions = [answer['caption'] for status, answer in (first.result(), second.result()) if status == 200]
        assert captions == tiny.caption([Image.open(io.BytesIO(noise(n))) for n in (1, 2)])
        assert ask(url, noise(3))[0] == 200
        assert counted(url)['qvision_errors_total', 'busy'] == 1


def test_what_was_accepted_is_answered_before_the_end(tiny):
    with serving(tiny, max_batch=2) as (server, url), ThreadPoolExecutor(5) as pool:
        with held(server) as batches:
            coming = [pool.submit(ask, url, noise(n)) for n in range(5)]
            until(lambda: server.batcher.taken == 5 and batches)
            server.stop()
            until(lambda: not is_listening(url))
            assert not any(answer.done() for answer in coming)
        captions = [answer.result()[1]['caption'] for answer in coming]
        until(lambda: server.batcher.closed)
    assert captions == tiny.caption([Image.open(io.BytesIO(noise(n))) for n in range(5)])
    assert server.health()[0] == 503
    assert not server.batcher.is_alive


def is_listening(url)->bool:
    host, port = url.removeprefix('http://').split(':')
    try: socket.create_connection((host, int(port)), timeout=5).close()
    except OSError: return False
    return True


def test_an_error_of_the_model_is_500_and_in_the_log(tiny, caplog):
    with serving(tiny) as (server, url):
        compute = server.batcher.compute
        server.batcher.compute = lambda items: 1/0
        status, answer = ask(url, noise())
        assert status == 500
        assert 'ZeroDivisionError' not in answer['detail']
        server.batcher.compute = compute
        assert ask(url, noise())[0] == 200 # the thread of the model lives
        assert counted(url)['qvision_errors_total', 'internal'] == 1
    assert 'ZeroDivisionError' in caplog.text


def test_slow_and_leaving_clients_give_their_places_back(tiny):
    with serving(tiny, upload_seconds=.5) as (server, url):
        host = url.removeprefix('http://')
        slow = http.client.HTTPConnection(host, timeout=60)
        leaving = http.client.HTTPConnection(host, timeout=60)
        for client in (slow, leaving):
            client.putrequest('POST', '/caption')
            client.putheader('Content-Length', '1000')
            client.endheaders(b'begun')
        leaving.close()
        answer = slow.getresponse()
        assert (answer.status, json.load(answer)['detail']) == (408, 'the picture did not arrive within 0.5 seconds')
        slow.close()
        until(lambda: sum(number for (name, *_), number in counted(url).items() if name == 'qvision_errors_total') == 2)
        assert server.batcher.taken == 0
        assert ask(url, noise())[0] == 200


def test_health_and_usage(tiny):
    with serving(tiny) as (server, url):
        health = json.load(urllib.request.urlopen(f'{url}/health', timeout=60))
        assert (health['status'], health['captioner']) == ('ok', 'tested')
        assert f'curl -F image=@photo.jpg {url}/caption' in urllib.request.urlopen(url, timeout=60).read().decode()
        described = json.load(urllib.request.urlopen(f'{url}/openapi.json', timeout=60))
        assert set(described['paths']) == {'/caption', '/health', '/metrics', '/'}
        with pytest.raises(urllib.error.HTTPError, match='404'): urllib.request.urlopen(f'{url}/docs', timeout=60)


@contextmanager
def command(model, *options):
    "Run `qvision serve` on a free port; yield the process and its first line."
    program = [Path(sys.executable).parent/'qvision', 'serve', '--port', '0', '--model', model, *options]
    process = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try: yield process, process.stdout.readline()
    finally:
        process.kill()
        process.communicate()


def dockerfile(root)->str: return (root/'Dockerfile').read_text().replace('\\\n', ' ')


@pytest.mark.parametrize('ending', [signal.SIGINT, signal.SIGTERM])
def test_the_command_serves_until_it_is_told_to_end(root, drawings, ending):
    with command(DRAWINGS) as (process, line):
        url, what = re.fullmatch(r'(http://127\.0\.0\.1:\d+)/caption: (.+)\n', line).groups()
        assert what == f'captioner {DRAWINGS}, trained on drawings'
        assert ask(url, encoded(drawings[0]))[0] == 200
        if ending == signal.SIGTERM: check_health_as_docker(root, url)
        process.send_signal(ending)
        rest = process.communicate(timeout=60)
        assert (process.returncode, *rest) == (0, '', '')
        assert not is_listening(url)


def check_health_as_docker(root, url):
    "The Dockerfile's health check passes here, and fails where nobody listens."
    check = shlex.split(re.search(r'^HEALTHCHECK .*CMD (python -c .+)$', dockerfile(root), re.M)[1])[2]
    assert 'http://127.0.0.1:8000/health' in check
    for where, code in ((url, 0), ('http://127.0.0.1:9', 1)):
        program = [sys.executable, '-c', check.replace('http://127.0.0.1:8000', where)]
        assert subprocess.run(program, capture_output=True).returncode == code


def test_the_container_runs_the_command_as_nobody_special(root):
    text = dockerfile(root)
    entry = ast.literal_eval(re.search(r'^ENTRYPOINT (\[.+\])$', text, re.M)[1])
    assert entry == ['qvision', 'serve', '--host', '0.0.0.0']
    assert re.search(r'^USER (?!root)\w+$', text, re.M)
    assert 'qvision[serve]' in text or '.[serve]' in text
    for source in re.findall(r'^COPY (?!--from)(.+) \S+$', text, re.M):
        for name in source.split(): assert (root/name).exists(), name


def test_other_machines_are_warned_of(tmp_path):
    tiny_captioner().save_pretrained(tmp_path/'model')
    with command(tmp_path/'model', '--host', '0.0.0.0') as (process, line):
        assert line.startswith('http://0.0.0.0:')
        process.send_signal(signal.SIGTERM)
        warned = process.communicate(timeout=60)[1]
    assert warned == ('listening on 0.0.0.0: other machines may send pictures; there is no password and no TLS\n')


def test_a_taken_port_is_one_line(qvision, tmp_path):
    with open_port(port=0) as bound:
        port = bound.getsockname()[1]
        done = qvision('serve', '--port', port, '--model', DRAWINGS, cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert done.stderr == f'qvision: 127.0.0.1:{port}: address already in use (--host, --port)\n'


def test_the_extra_that_is_missing_is_named(tmp_path):
    program = ("import sys, importlib.util as u; from qvision.cli import main; find = u.find_spec\n"
               "u.find_spec = lambda name, *a: None if name == 'fastapi' else find(name, *a)\n"
               "sys.argv = ['qvision', 'serve']; main()")
    done = subprocess.run([sys.executable, '-c', program.replace('; ', '\n')], cwd=tmp_path, capture_output=True,
                          text=True)
    assert done.returncode == 1
    assert done.stderr == "qvision: a server needs fastapi: pip install 'qvision[serve]'\n"


@pytest.fixture
def load_test(root, monkeypatch):
    monkeypatch.syspath_prepend(root/'tools')
    import load_test
    return load_test


@pytest.mark.slow
def test_under_load_nothing_is_lost_or_exchanged(load_test):
    for load in load_test.run(DRAWINGS, [1, 8, 32], 96):
        assert (load.lost, load.wrong, len(load.latencies)) == ([], 0, 96)
        assert load.batch_size > (1.5 if load.clients > 1 else .99)


@pytest.mark.slow
def test_memory_does_not_grow(load_test, tmp_path):
    "Over 10,000 requests, after the first 1000."
    tiny_captioner().save_pretrained(tmp_path)
    load = load_test.run(str(tmp_path), [32], 10_000)[0]
    assert (load.lost, load.wrong, len(load.latencies)) == ([], 0, 10_000)
    assert load.growth < 20, load.memory # MB
