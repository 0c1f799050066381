"The long tests of kills and of fuzzing, in small: that they pass, and that they notice what is lost."
import ast
import importlib
import json
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from qvision.runs.robustness import CASES, kind_of

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope='module')
def kills(load_tool): return load_tool('kills')


@pytest.fixture(scope='module')
def fuzz(load_tool): return load_tool('fuzz')


def test_four_kills_are_survived_and_archived(qvision, workplace):
    "By the notebook's quick form, which calls the scripts: a training run is killed twice, and so is from-csv."
    qvision('run', 'robustness', '-p', 'quick', 'true', '-p', 'quiet', 'true', '-p', 'name', 'robustness', cwd=ROOT)
    folder = Path(workplace['QVISION_EXPERIMENTS'])/'robustness'
    rows = [json.loads(line) for line in (folder/'kills.jsonl').read_text().splitlines()]
    assert [(row['moment'], row['signal']) for row in rows] == [
        ('data writing', 'SIGTERM'), ('data writing', 'SIGTERM'), ('training', 'SIGKILL'), ('saving', 'SIGKILL')]
    for row in rows: assert row['survived'], row
    assert [row['state'] for row in rows] == ['absent', 'absent', 'died', 'failed']
    assert rows[2]['stack'][-1].endswith('Trainer._run_epoch')
    metrics = json.loads((folder/'metrics.json').read_text())
    assert metrics['finding'].startswith('4 of 4 kills survived')
    assert {row['kind'] for row in metrics['cases']} == {'annotation files', 'tables'}
    for row in metrics['cases']: assert row['survived'] == row['tried'] > 20
    assert bool(metrics['fuzzing']) == bool(find_spec('atheris'))
    assert [row['captions'] for row in metrics['memory']] == [1000, 4000]
    assert metrics['memory'][1]['peak_mb'] < 1.1*metrics['memory'][0]['peak_mb']
    for name in ('kills', 'cases', 'memory'): assert (folder/f'figures/{name}.png').is_file()


@pytest.mark.slow
def test_every_kill_is_survived(kills, tmp_path):
    rows = kills.run(tmp_path/'kills.jsonl', tmp_path/'work', kills.CHAINS)
    assert len(rows) >= 60
    assert [row for row in rows if not row['survived']] == []


@pytest.mark.slow
def test_a_minute_of_fuzzing_finds_no_fault(fuzz, tmp_path):
    pytest.importorskip('atheris', reason='atheris, the fuzzer, is not installed')
    found = fuzz.run(tmp_path/'fuzzing.json', 20)
    for row in found['readers'].values():
        assert row['lines'] > row['lines_of_seeds'] > 0
        assert row['faults'] == []


WRITE = '''
import os
import sys
from pathlib import Path
folder, careful = Path(sys.argv[1]), sys.argv[2] == 'carefully'
folder.mkdir(exist_ok=True)
(folder/'mark').unlink(missing_ok=True)
file = folder/('new-data' if careful else 'data')
if not (folder/'data').exists(): file.write_text('content'*100)
if file.exists(): os.replace(file, folder/'data')
(folder/'mark').touch()
'''


@pytest.fixture
def bench(kills, tmp_path):
    "A bench without data, on which a file is written twice."
    (tmp_path/'data').mkdir()
    (tmp_path/'data/t.csv').touch()
    return kills.Bench(tmp_path)


@pytest.mark.parametrize('how, survived', [('carefully', True), ('carelessly', False)])
def test_what_is_lost_is_noticed(kills, bench, monkeypatch, how, survived):
    def command(folder, data): return [sys.executable, '-c', WRITE, folder/'drawn', how]
    monkeypatch.setitem(kills.JOBS, 'file', kills.Writing(command, 'mark'))
    moment = kills.writing(kills.WRITE_TEXT, mode='half', where='data')
    row, = kills.run_chain(bench, 'file', 'file', [moment], 'KILL')
    assert (row['reached'], row['ended'], row['exit'], row['state']) == (True, True, -9, 'incomplete')
    assert row['survived'] == survived
    assert row['differences'] == ([] if survived else ['data'])


def test_a_moment_that_is_not_reached_is_not_survived(kills, bench, monkeypatch):
    def command(folder, data): return [sys.executable, '-c', WRITE, folder/'drawn', 'carefully']
    monkeypatch.setitem(kills.JOBS, 'file', kills.Writing(command, 'mark'))
    moment = kills.writing(kills.WRITE_TEXT, where='data', call=2)
    row, = kills.run_chain(bench, 'file', 'file', [moment], 'TERM')
    assert (row['reached'], row['survived'], row['differences']) == (False, False, [])


def test_the_moments_are_of_every_kind_and_their_functions_exist(kills):
    moments = [moment for _, chain in kills.CHAINS.values() for moment in chain]
    assert {moment.kind for moment in moments} == set(kills.KINDS)
    assert len(moments)*len(kills.SIGNALS) >= 60
    for moment in moments:
        module, _, function = moment.place.partition(':')
        found = importlib.import_module(module)
        for name in function.split('.'): found = getattr(found, name)
        assert callable(found)


@pytest.mark.parametrize('file', ['test_bad_input', 'test_hostile'])
def test_every_test_of_bad_input_has_its_kind(file):
    tests = [node.name for node in ast.parse((ROOT/f'tests/{file}.py').read_text()).body
             if isinstance(node, ast.FunctionDef) and node.name.startswith('test_')]
    assert len(tests) > 10
    assert [name for name in tests if kind_of(name) == 'properties'] == []


def test_every_kind_has_its_tests():
    text = ''.join((ROOT/f'tests/{file}.py').read_text() for file in ('test_bad_input', 'test_hostile'))
    for tests in CASES.values():
        for name in tests: assert f'def test_{name}(' in text, name


# Fuzzing, without the fuzzer

class Fragile:
    "A reader with a fault: it ends with an IndexError at the letter x before the letter y."
    def run(self, data):
        if b'x' in data and b'y' in data[data.index(b'x'):]: [][0]


def test_a_fault_is_found_and_its_input_made_smaller(fuzz):
    what, message = fuzz.fault(Fragile(), b'abcxdefyg')
    assert what.startswith('IndexError') and 'IndexError' in message
    assert fuzz.fault(Fragile(), b'yx') is None
    assert fuzz.smaller(Fragile(), b'abcxdefyg'*20, what) == b'xy'


@pytest.mark.parametrize('name', ['annotations', 'tables'])
def test_sound_files_have_no_fault_and_their_mutations_are_others(fuzz, tmp_path, name):
    reader = fuzz.READERS[name]()
    reader.prepare(tmp_path)
    for data in reader.seeds(): assert fuzz.fault(reader, data) is None
    data = next(data for data in reader.seeds() if b'{' in data)
    mutations = {fuzz.changed(reader, data, seed) for seed in range(40)} - {data, None}
    assert len(mutations) > 20


@pytest.mark.parametrize('message', ['two\nlines', 'long '*400 + 'a.csv', 'a file is broken', 'a.csv \ud800'])
def test_a_message_that_is_not_as_promised_is_a_fault(fuzz, message):
    class Reader:
        def run(self, data): fuzz.one_line(ValueError(message), 'a.csv')
    assert fuzz.fault(Reader(), b'')
