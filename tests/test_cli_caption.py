"`qvision caption`, option by option, from outside the repository."
import csv
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from qvision.model.captioner import tiny_captioner

COLOURS = ('red', 'green', 'blue', 'orange')


@pytest.fixture(scope='module')
def tiny_model(tmp_path_factory):
    "Save a captioner with random weights."
    folder = tmp_path_factory.mktemp('tiny')/'model'
    tiny_captioner().save_pretrained(folder)
    return folder


@pytest.fixture
def pictures(tmp_path):
    "Write four pictures, one of them in a folder of the folder."
    (tmp_path/'pictures/more').mkdir(parents=True)
    for colour in COLOURS[:3]: Image.new('RGB', (40, 30), colour).save(tmp_path/f'pictures/{colour}.png')
    Image.new('RGB', (40, 30), COLOURS[3]).save(tmp_path/f'pictures/more/{COLOURS[3]}.png')
    return tmp_path/'pictures'


@pytest.fixture
def caption(qvision, tiny_model, pictures, tmp_path):
    "Caption the pictures: `caption('--out', 'captions.csv')`."
    def call(*options, images=('pictures',), check=True):
        return qvision('caption', *images, '--model', tiny_model, *options, cwd=tmp_path, check=check)
    return call


def files_of(done)->list[str]: return [line.split('\t')[0] for line in done.stdout.splitlines()]
def read_csv(path, **kwargs): return list(csv.reader(path.open(newline='', encoding='utf8'), **kwargs))


def test_folders_are_searched_and_paths_stay_relative(caption):
    done = caption('--quiet')
    expected = ['pictures/blue.png', 'pictures/green.png', 'pictures/more/orange.png', 'pictures/red.png']
    assert files_of(done) == expected
    assert done.stderr == ''


def test_libraries_are_silent(caption):
    "Nothing but our own line is on stderr: no bars of weights, no advice."
    done = caption('--decoding', 'beam', '--min-length', '3')
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith('captioner: ')


@pytest.mark.parametrize('suffix, delimiter', [('csv', ','), pytest.param('tsv', '\t', marks=pytest.mark.slow)])
def test_a_table_is_written_and_continued(caption, pictures, tmp_path, suffix, delimiter):
    out = f'captions.{suffix}'
    first = caption('--out', out, images=['pictures/red.png', 'pictures/more'])
    assert first.stdout == ''
    assert first.stderr.endswith(f'written: {out}: 2 captions\n')
    before = (tmp_path/out).read_bytes()
    second = caption('--out', out)
    assert second.stderr.endswith(f'written: {out}: 2 captions; 2 of 4 files had theirs\n')
    assert (tmp_path/out).read_bytes().startswith(before)
    rows = read_csv(tmp_path/out, delimiter=delimiter)
    assert rows[0] == ['file', 'caption']
    assert [row[0] for row in rows[1:]] == ['pictures/red.png', 'pictures/more/orange.png', 'pictures/blue.png',
                                            'pictures/green.png']
    printed = {tuple(line.split('\t')) for line in caption('-q').stdout.splitlines()}
    assert {(file, text) for file, text in rows[1:]} == printed
    after = (tmp_path/out).read_bytes()
    third = caption('--out', out, '-q', images=[pictures]) # absolute: the same files
    assert third.stdout == third.stderr == ''
    assert (tmp_path/out).read_bytes() == after
    caption('--out', out, '--overwrite', images=['pictures/red.png'])
    assert len(read_csv(tmp_path/out, delimiter=delimiter)) == 2


def test_json_lines_have_scores_per_word(caption, tmp_path):
    caption('--out', 'captions.jsonl', '--scores', '--decoding', 'beam', '--num-captions', '2')
    rows = [json.loads(line) for line in (tmp_path/'captions.jsonl').read_text().splitlines()]
    assert [row['file'] for row in rows[::2]] == [row['file'] for row in rows[1::2]]
    assert len(rows) == 8
    for row in rows:
        assert list(row) == ['file', 'caption', 'score', 'words']
        assert row['score'] < 0
        assert all(score < 0 for _, score in row['words'])
    refused = caption('--out', 'captions.jsonl', check=False)
    assert refused.returncode == 1
    assert 'has the columns file, caption, score, not file, caption' in refused.stderr


def test_scores_are_a_column(caption, tmp_path):
    lines = [line.split('\t') for line in caption('--scores', '-q').stdout.splitlines()]
    caption('--scores', '--out', 'captions.csv', '-q')
    rows = read_csv(tmp_path/'captions.csv')
    assert rows[0] == ['file', 'caption', 'score']
    assert rows[1:] == lines
    assert all(float(row[2]) < 0 for row in rows[1:])
    listed = json.loads(caption('--scores', '--json', '-q').stdout)
    assert [str(row['score']) for row in listed] == [row[2] for row in rows[1:]]


def test_a_killed_process_loses_a_batch_at_most(tiny_model, workplace, tmp_path):
    "Kill it in the middle, and cut its last row: continued, the table is what an undisturbed process writes."
    (tmp_path/'many').mkdir()
    for k in range(150): Image.new('RGB', (8, 8), (k, 90, 255 - k)).save(tmp_path/f'many/{k:03}.png')
    command = [str(Path(sys.executable).parent/'qvision'), 'caption', 'many', '--model', str(tiny_model),
               '--batch-size', '2', '--decoding', 'beam', '-q', '--out']
    options = dict(cwd=tmp_path, env=workplace)
    table = tmp_path/'killed.csv'
    process = subprocess.Popen([*command, table.name], **options)
    deadline = time.monotonic() + 600
    while not table.exists() or table.read_bytes().count(b'\n') < 6:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    written = table.read_bytes()
    assert written.endswith(b'\n')
    complete = written.count(b'\n') - 1
    assert 5 <= complete < 150
    table.write_bytes(written[:-3])
    subprocess.run([*command, table.name], check=True, **options)
    subprocess.run([*command, 'whole.csv'], check=True, **options)
    assert table.read_bytes() == (tmp_path/'whole.csv').read_bytes()
    assert len(read_csv(table)) == 151


def test_caption_files_beside_the_pictures(caption, pictures):
    (pictures/'red.txt').write_text('mine')
    done = caption('--sidecar', '--decoding', 'beam', '--num-captions', '3')
    assert done.stdout == ''
    assert done.stderr.endswith('written: 3 .txt files; 1 of 4 files had theirs\n')
    assert (pictures/'red.txt').read_text() == 'mine'
    assert len((pictures/'blue.txt').read_text().split('\n')) == 4 # three lines, and nothing after the last
    assert (pictures/'more/orange.txt').exists()
    caption('--sidecar', '--overwrite', images=['pictures/red.png'])
    assert (pictures/'red.txt').read_text() != 'mine'
    assert sorted(file.suffix for file in pictures.iterdir()) == ['', '.png', '.png', '.png', '.txt', '.txt', '.txt']


def test_several_captions_are_lines(caption):
    done = caption('--decoding', 'published', '--num-captions', '6', images=['pictures/red.png', 'pictures/blue.png'])
    assert files_of(done) == ['pictures/red.png']*6 + ['pictures/blue.png']*6


def test_lengths_and_prompt(caption):
    def captions(*options): return [row['caption'] for row in json.loads(caption('-q', '--json', *options).stdout)]
    assert all(text.startswith('a photo of') for text in captions('--prompt', 'a photo  of ', '--max-length', '2'))
    short = captions('--max-length', '1')
    long = captions('--min-length', '12', '--max-length', '12')
    assert max(map(len, short)) < max(map(len, long))
    assert captions('--min-length', '12', '--no-repeat-ngram', '1') != captions('--min-length', '12')


def test_paths_from_standard_input(tiny_model, workplace, pictures, tmp_path):
    command = [str(Path(sys.executable).parent/'qvision'), 'caption', '-', 'pictures/red.png', '--model', tiny_model]
    done = subprocess.run(command, cwd=tmp_path, env=workplace, text=True, capture_output=True,
                          input='pictures/blue.png\n\npictures/more\r\npictures/none.png\n')
    assert files_of(done) == ['pictures/blue.png', 'pictures/more/orange.png', 'pictures/red.png']
    assert done.returncode == 1
    assert 'skipped pictures/none.png: no such file' in done.stderr


def test_files_that_cannot_be_read_are_tried_again(caption, pictures, tmp_path):
    (pictures/'broken.jpg').write_text('no image')
    for _ in range(2):
        done = caption('--out', 'captions.csv', '-q', check=False)
        assert done.returncode == 1
        assert done.stderr == 'skipped pictures/broken.jpg: not an image\n'
    assert len(read_csv(tmp_path/'captions.csv')) == 5


@pytest.mark.parametrize('options, message', [
    (['--num-captions', '2'], 'greedy decoding gives one caption per image, not 2'),
    (['--num-captions', '6', '--decoding', 'beam'], '5 beams give 5 captions at most, not 6'),
    (['--min-length', '5', '--max-length', '4'], 'min_length 5 is above max_length 4'),
    (['--decoding', 'nucleus'], "there is no decoding 'nucleus'"),
    (['--out', 'captions.xlsx'], 'a table of captions is a .csv, .tsv, .jsonl file'),
    (['--out', 'none/captions.csv'], 'there is no folder none'),
    (['--out', 'a.csv', '--sidecar'], 'take one of them'),
    (['--out', 'a.csv', '--json'], '--json prints captions'),
    (['--sidecar', '--json'], '--json prints captions'),
    (['--sidecar', '--scores'], 'take --out for scores'),
    (['--overwrite'], '--overwrite is for --out and --sidecar'),
    (['--device', 'tpu'], 'a device is cpu, cuda or cuda:N'),
    (['--device', 'cuda', '--precision', 'int8'], 'GPU'),
    (['--max-length', '65'], '65 tokens do not fit in the 64 positions of the decoder'),
    (['--min-length', '21'], 'min_length 21 is above 20, the longest caption'),
])
def test_bad_combinations_are_one_line(caption, tmp_path, options, message):
    done = caption(*options, '-q', check=False)
    assert done.returncode == 1
    assert done.stdout == ''
    assert done.stderr.startswith('qvision: ')
    assert done.stderr.count('\n') == 1
    assert message in done.stderr
    assert not (tmp_path/'a.csv').exists()


def test_pictures_that_share_a_caption_file_are_refused(caption, pictures):
    Image.new('RGB', (8, 8)).save(pictures/'red.jpg')
    done = caption('--sidecar', check=False)
    assert done.returncode == 1
    assert 'pictures/red.jpg and pictures/red.png would share pictures/red.txt' in done.stderr
