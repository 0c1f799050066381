"Hostile files: checkpoints, runs, pages and archives from elsewhere run no code, write nowhere else, end in one line."
import builtins
import io
import json
import shutil
import stat
import struct
import subprocess
import sys
import zipfile
import zlib
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoTokenizer

from qvision import cli
from qvision.commands import run as run_command
from qvision.commands.runs import HEADLINES
from qvision.data.download import DownloadError, unpack
from qvision.inference.speculative import NgramDrafter
from qvision.layers.backbones import backbone_config, open_part
from qvision.layers.domain import Domain
from qvision.model.captioner import Captioner, tiny_captioner
from qvision.model.multimodel import multimodel_config
from qvision.model.multimodel_layout import MultimodelCheckpoint, read_multimodel
from qvision.runs.archive import Run
from qvision.runs.run_files import run_folder

ROOT = Path(__file__).resolve().parent.parent
DEEP = '['*100_000
DEEP_RECORD = '{"a":'*100_000
SCRIPT = '<img src=x onerror=alert(1)>'


def files_of(folder): return {path: path.read_bytes() for path in sorted(folder.rglob('*')) if path.is_file()}


def one_line(error, name):
    "Return an error's message, which names a file or folder in one line."
    assert isinstance(error, (OSError, ValueError)), f'{type(error).__name__}: {error}'
    message = str(error)
    assert '\n' not in message and len(message) < 1000, message
    assert name in message, message
    return message


# Checkpoints

@pytest.fixture(scope='module')
def sound(tmp_path_factory):
    "Save a captioner with random weights that has everything a checkpoint can have."
    model = tiny_captioner()
    model.phrases = NgramDrafter.of([[1, 5, 6, 2]]*3)
    width = model.config.vision_config.hidden_size
    model.domain = Domain.fit(torch.randn(40, 4, width, generator=torch.Generator().manual_seed(0)))
    folder = tmp_path_factory.mktemp('sound')/'model'
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def copy(sound, tmp_path): return Path(shutil.copytree(sound, tmp_path/'model'))


@pytest.fixture(autouse=True)
def nobody_is_asked(monkeypatch):
    def asked(*args): pytest.fail('asked at the terminal')
    monkeypatch.setattr(builtins, 'input', asked)


def test_the_sound_checkpoint_loads(copy):
    model = Captioner.from_pretrained(copy)
    assert model.phrases and model.domain and model.tokenizer and model.image_processor


def config(**fields): # with dots for the parts: vision_config__patch_size
    def change(content):
        record = json.loads(content)
        for name, value in fields.items():
            *parts, last = name.split('__')
            into = record
            for part in parts: into = into[part]
            into[last] = value
        return json.dumps(record)
    return change


def header(length, text=b''): return struct.pack('<Q', length) + text


def weights(**entry): # a file whose header says this of one tensor
    text = json.dumps(dict(x=entry)).encode()
    return header(len(text), text) + bytes(8)


def half(content): return content[:len(content)//2]
def other_shapes(content): return save({'bridge.global_token': torch.zeros(3)})
def of_a_thousand(content): return json.dumps([3, [[[999_999], 1, [[5, 1]]]]])


CHECKPOINTS = { # name -> (file, its content or a function of its content)
    'empty config': ('config.json', ''),
    'half a config': ('config.json', '{'),
    'config is a list': ('config.json', '[]'),
    'config is null': ('config.json', 'null'),
    'config is text': ('config.json', '"qvision"'),
    'config is not UTF-8': ('config.json', b'{"a": "\xff"}'),
    'deep config': ('config.json', DEEP),
    'deep record in config': ('config.json', DEEP_RECORD),
    'queries as text': ('config.json', config(num_queries='many')),
    'negative queries': ('config.json', config(num_queries=-1)),
    'layers as text': ('config.json', config(bridge_layers='2')),
    'no heads': ('config.json', config(bridge_heads=0)),
    'unknown bridge': ('config.json', config(bridge='no')),
    'bridge as number': ('config.json', config(bridge=5)),
    'bridge as list': ('config.json', config(bridge=[])),
    'fusion as record': ('config.json', config(fusion={})),
    'dropout above 1': ('config.json', config(dropout=5)),
    'tower is a number': ('config.json', config(vision_config=5)),
    'tower is a list': ('config.json', config(vision_config=[])),
    'unknown tower': ('config.json', config(vision_config__model_type='new')),
    'tower without patches': ('config.json', config(vision_config__patch_size=0)),
    'tower without heads': ('config.json', config(vision_config__num_attention_heads=0)),
    'tower width as text': ('config.json', config(vision_config__hidden_size='wide')),
    'decoder is text': ('config.json', config(text_config='gpt_neo')),
    'decoder without width': ('config.json', config(text_config__hidden_size=0)),
    'negative vocabulary': ('config.json', config(text_config__vocab_size=-5)),
    'huge vocabulary': ('config.json', config(text_config__vocab_size=10**15)),
    'backbones as text': ('config.json', config(backbones='x')),
    'backbones as list': ('config.json', config(backbones=[1])),
    'backbones outside': ('config.json', config(backbones=dict(encoder=dict(name='x')), encoder_name='../../x')),
    'a type that is none': ('config.json', config(dtype='float31')),
    'empty weights': ('model.safetensors', b''),
    'weights of zeros': ('model.safetensors', bytes(100)),
    'half of the weights': ('model.safetensors', half),
    'header longer than the file': ('model.safetensors', header(2**40)),
    'header of 2^63 bytes': ('model.safetensors', header(2**63)),
    'header is no JSON': ('model.safetensors', header(4, b'{{{{')),
    'deep header': ('model.safetensors', header(len(DEEP), DEEP.encode())),
    'tensor outside the file': ('model.safetensors', weights(dtype='F32', shape=[2], data_offsets=[0, 2**40])),
    'tensor before the file': ('model.safetensors', weights(dtype='F32', shape=[2], data_offsets=[-8, 0])),
    'shape without data': ('model.safetensors', weights(dtype='F32', shape=[2**31, 2**31], data_offsets=[0, 8])),
    'unknown number type': ('model.safetensors', weights(dtype='F31', shape=[2], data_offsets=[0, 8])),
    'weights of other shapes': ('model.safetensors', other_shapes),
    'empty tokenizer': ('tokenizer.json', ''),
    'tokenizer is a list': ('tokenizer.json', '[]'),
    'tokenizer is a record': ('tokenizer.json', '{}'),
    'half of a tokenizer': ('tokenizer.json', half),
    'deep tokenizer': ('tokenizer.json', DEEP),
    'tokenizer of numbers': ('tokenizer.json', config(model=5)),
    'tokens are numbers': ('tokenizer.json', config(model__vocab=dict(a='x'))),
    'added tokens are text': ('tokenizer.json', config(added_tokens='x')),
    'tokenizer settings are a list': ('tokenizer_config.json', '[]'),
    'deep tokenizer settings': ('tokenizer_config.json', DEEP),
    'processor is a list': ('preprocessor_config.json', '[]'),
    'half of a processor': ('preprocessor_config.json', half),
    'unknown processor': ('preprocessor_config.json', config(image_processor_type='Nothing')),
    'size as text': ('preprocessor_config.json', config(size='large')),
    'crop of nothing': ('preprocessor_config.json', config(crop_size=dict(height=0, width=0))),
    'negative size': ('preprocessor_config.json', config(size=dict(shortest_edge=-3))),
    'mean as text': ('preprocessor_config.json', config(image_mean='x')),
    'deviation of 0': ('preprocessor_config.json', config(image_std=[0, 0, 0])),
    'phrases of other tokens': ('phrases.json', of_a_thousand),
    'deep phrases': ('phrases.json', DEEP),
    'empty domain': ('domain.safetensors', b''),
    'domain of other shapes': ('domain.safetensors', other_shapes),
    'domain with a long header': ('domain.safetensors', header(2**62)),
}


@pytest.mark.parametrize('name', CHECKPOINTS)
def test_a_damaged_checkpoint_is_named(copy, tmp_path, name):
    file, content = CHECKPOINTS[name]
    path = copy/file
    if callable(content): content = content(path.read_text() if path.suffix == '.json' else path.read_bytes())
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    before = files_of(tmp_path)
    with pytest.raises(Exception) as caught: Captioner.from_pretrained(copy)
    one_line(caught.value, str(copy))
    assert files_of(tmp_path) == before


# Code of its own

CODE = '''
from pathlib import Path
Path(__file__).with_name('ran').touch()
class Code: pass
'''


def with_code(folder, file, **fields):
    "Let a configuration name code that lies in its folder."
    folder.mkdir(exist_ok=True)
    (folder/'code_of_mine.py').write_text(CODE)
    known = json.loads((folder/file).read_text()) if (folder/file).exists() else {}
    names = ('AutoConfig', 'AutoModel', 'AutoModelForCausalLM', 'AutoImageProcessor')
    auto_map = dict.fromkeys(names, 'code_of_mine.Code') | dict(AutoTokenizer=['code_of_mine.Code', None])
    (folder/file).write_text(json.dumps(known | dict(auto_map=auto_map) | fields))
    return folder


def ran(folder): return list(folder.rglob('ran'))


@pytest.mark.parametrize('auto, file', [(AutoModel, 'config.json'), (AutoTokenizer, 'tokenizer_config.json'),
                                        (AutoImageProcessor, 'preprocessor_config.json')])
def test_code_of_a_backbone_is_never_run(tmp_path, auto, file):
    folder = with_code(tmp_path/'own', 'config.json', model_type='new')
    with_code(folder, file, tokenizer_class='Code', image_processor_type='Code')
    with pytest.raises((OSError, ValueError)) as caught: open_part(auto, str(folder))
    assert 'code of its own' in one_line(caught.value, str(folder))
    assert not ran(tmp_path)


def test_code_of_a_configuration_is_never_run(tmp_path):
    folder = with_code(tmp_path/'own', 'config.json', model_type='new')
    with pytest.raises(ValueError) as caught: backbone_config(str(folder))
    assert 'code of its own' in one_line(caught.value, str(folder))
    assert not ran(tmp_path)
    with pytest.raises(ValueError): AutoConfig.from_pretrained(folder, trust_remote_code=False)


@pytest.mark.parametrize('file', ['config.json', 'tokenizer_config.json', 'preprocessor_config.json'])
def test_code_of_a_checkpoint_is_never_run(copy, tmp_path, file):
    with_code(copy, file)
    try: Captioner.from_pretrained(copy) # with the classes of this library and of transformers, which are known
    except ValueError as error: assert 'code of its own' in one_line(error, str(copy))
    assert not ran(tmp_path)


def test_code_that_generates_is_never_run(copy, tmp_path):
    (copy/'custom_generate').mkdir()
    (copy/'custom_generate/generate.py').write_text(CODE + 'def generate(model, **kwargs): return 0')
    Captioner.from_pretrained(copy)(Image.new('RGB', (40, 40)))
    assert not ran(tmp_path)


def test_nobody_is_asked_on_a_closed_terminal(copy, tmp_path):
    with_code(copy, 'tokenizer_config.json', tokenizer_class='Code')
    (copy/'tokenizer.json').unlink()
    Image.new('RGB', (40, 40)).save(tmp_path/'a.png')
    command = [str(Path(sys.executable).parent/'qvision'), 'caption', 'a.png', '--model', 'model']
    done = subprocess.run(command, cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 1
    assert 'y/N' not in done.stdout + done.stderr
    assert 'Traceback' not in done.stderr
    assert done.stderr.splitlines()[-1].startswith('qvision: model/tokenizer.json cannot be loaded: it brings code')
    assert not ran(tmp_path)


class Touch: # a pickle of which runs code
    def __init__(self, path): self.path = path
    def __reduce__(self): return Path.touch, (self.path,)


def test_a_pickle_is_refused(tmp_path, copy):
    torch.save(dict(config=Touch(tmp_path/'ran')), tmp_path/'checkpoint.pth')
    with pytest.raises(ValueError) as caught: read_multimodel(tmp_path/'checkpoint.pth')
    assert 'is refused' in one_line(caught.value, 'checkpoint.pth')
    (copy/'model.safetensors').unlink()
    torch.save(Touch(tmp_path/'ran'), copy/'pytorch_model.bin')
    with pytest.raises((OSError, ValueError)) as caught: Captioner.from_pretrained(copy)
    one_line(caught.value, str(copy))
    assert not ran(tmp_path)


@pytest.mark.parametrize('content', [b'', b'PK\x03\x04', b'\x80\x02.', b'\x80\x02K\x05.', bytes(300), b'text'])
def test_a_damaged_pickle_is_named(tmp_path, content):
    (tmp_path/'checkpoint.pth').write_bytes(content)
    with pytest.raises(ValueError) as caught: read_multimodel(tmp_path/'checkpoint.pth')
    one_line(caught.value, 'checkpoint.pth')


# The command line

@pytest.fixture
def qvision(monkeypatch, capsys, tmp_path):
    "Call the command line in this process: `status, out, err = qvision('runs')`; only a SystemExit leaves it."
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('QVISION_EXPERIMENTS', str(tmp_path/'experiments'))
    def call(*args):
        monkeypatch.setattr(sys, 'argv', ['qvision', *map(str, args)])
        with pytest.raises(SystemExit) as left: cli.main()
        said = capsys.readouterr()
        return left.value.code or 0, said.out, said.err
    return call


def refused(done, *words):
    "Return the one line that a refused command ends with."
    status, _, err = done
    assert status == 1
    assert 'Traceback' not in err
    last = err.splitlines()[-1]
    assert last.startswith('qvision: ')
    for word in words: assert word in last, last
    return last


RUN = dict(name='one', kind='train', status='done', params={}, command='papermill', parent=None, started_at=1.)
RUNS = {'empty': '', 'half': '{', 'a list': '[]', 'null': 'null', 'nothing': '{}', 'deep': DEEP, 'not UTF-8': b'\xff',
        'kind': dict(kind=5), 'status': dict(status=None), 'params': dict(params=[]), 'parent': dict(parent=[1]),
        'time': dict(started_at='today'), 'seconds': dict(seconds='many'), 'process': dict(status='running', pid='x'),
        'command': dict(command=None)}


@pytest.mark.parametrize('name', RUNS)
def test_a_damaged_run_is_named(qvision, tmp_path, name):
    content = RUNS[name]
    folder = tmp_path/'experiments/one'
    folder.mkdir(parents=True)
    if isinstance(content, dict): content = json.dumps(RUN | content)
    (folder/'run.json').write_bytes(content if isinstance(content, bytes) else content.encode())
    refused(qvision('runs'), str(folder/'run.json'), 'take it back from git')
    refused(qvision('runs', 'show', 'one'), str(folder/'run.json'))


@pytest.mark.parametrize('kind', HEADLINES)
@pytest.mark.parametrize('metrics', [dict(scores=5), dict(scores=dict(x=dict(CIDEr='high')))])
def test_metrics_of_another_form_are_listed_as_such(qvision, tmp_path, kind, metrics):
    folder = tmp_path/'experiments/one'
    folder.mkdir(parents=True)
    (folder/'run.json').write_text(json.dumps(RUN | dict(kind=kind)))
    (folder/'metrics.json').write_text(json.dumps(metrics))
    status, out, err = qvision('runs')
    assert status == 0 and 'metrics.json is not' in ' '.join(out.split()), out + err
    (folder/'metrics.json').write_text('[]')
    refused(qvision('runs'), 'metrics.json holds no metrics')


def test_brackets_are_no_markup(qvision, tmp_path):
    folder = tmp_path/'experiments/one'
    folder.mkdir(parents=True)
    (folder/'run.json').write_text(json.dumps(RUN | dict(status='failed', error='[/x] [red] :smile:')))
    status, out, _ = qvision('runs')
    assert status == 0 and '[/x] [red] :smile:' in out


@pytest.mark.parametrize('name', ['../x', 'a/b', '/x', '.', '..', '.hidden', '-x/..', 'a b', 'a\nb', 'x'*300, 'é'*150,
                                  '[/x]', '\ud800'])
@pytest.mark.parametrize('given', ['--name', '-p'])
def test_a_name_of_a_run_that_is_none(qvision, tmp_path, monkeypatch, name, given):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(run_command, '_run_papermill', lambda *args: pytest.fail('it runs'))
    args = ('--name', name) if given == '--name' else ('-p', f'name={name}')
    refused(qvision('run', 'train', *args), 'a run is named with')
    assert not files_of(tmp_path)
    with pytest.raises(ValueError): run_folder(name)


@pytest.mark.parametrize('name', ['../x', 'a/b', '', 'x'*300, '[/x]'])
def test_a_run_of_that_name_is_not_there(qvision, tmp_path, name):
    (tmp_path/'experiments').mkdir()
    for command in (('runs', 'show', name), ('runs', 'compare', name, name)):
        refused(qvision(*command), 'there is no run')
    assert not files_of(tmp_path)


TABLES = {'nul.csv': b'file,caption\na\0.png,A man\n', 'nul.jsonl': b'{"file": "a\\u0000.png", "caption": "A man"}',
          'zeros.csv': bytes(200), 'zeros.tsv': bytes(200), 'out.csv': b'file,caption\n../secret.png,A man\n',
          'root.csv': b'file,caption\n/etc/passwd,A man\n', 'long.csv': b'file,caption\n' + b'x'*300_000 + b',A man\n',
          'deep.json': DEEP_RECORD.encode(), 'key.jsonl': b'{"\\ud800": "a.png"}', 'bom.csv': b'\xff\xfe\xff',
          'odd.csv': b'\xff\xfea', 'picture.csv': b'\x89PNG\r\n\x1a\n' + bytes(50)}


@pytest.mark.parametrize('name', TABLES)
def test_a_hostile_table_is_refused(qvision, tmp_path, name):
    (tmp_path/name).write_bytes(TABLES[name])
    (tmp_path/'pictures').mkdir()
    (tmp_path/'secret.png').write_bytes(b'x')
    before = files_of(tmp_path)
    refused(qvision('data', 'from-csv', name, 'pictures', 'own'), name)
    assert files_of(tmp_path) == before


def png(width, height):
    "Return a PNG whose header claims a size."
    buffer = io.BytesIO()
    Image.new('L', (3, 3)).save(buffer, 'png')
    content = bytearray(buffer.getvalue())
    content[16:24] = struct.pack('>II', width, height)
    content[29:33] = struct.pack('>I', zlib.crc32(content[12:29]))
    return bytes(content)


PICTURES = {'zero.png': png(0, 0), 'flat.png': png(3, 0), 'wide.png': png(2**31 - 1, 1), 'bomb.png': png(2**16, 2**16),
            'zero.gif': b'GIF89a' + bytes(20), 'zero.bmp': b'BM' + bytes(60), 'zero.ppm': b'P6 0 0 255\n',
            'negative.ppm': b'P6 -5 5 255\n', 'bomb.ppm': b'P6 99999999 99999999 255\n',
            'text.jpg': b'\xff\xd8\xff' + b'x'*90, SCRIPT + '.png': b'x', '[red].png': b'x'}


def test_hostile_pictures_are_named(qvision, copy, tmp_path):
    (tmp_path/'pictures').mkdir()
    for name, content in PICTURES.items(): (tmp_path/'pictures'/name).write_bytes(content)
    Image.new('RGB', (40, 40)).save(tmp_path/'pictures/sound.png')
    before = files_of(tmp_path)
    status, out, err = qvision('caption', 'pictures', '--model', 'model', '--json')
    assert status == 1 and 'Traceback' not in err
    assert [Path(row['image']).name for row in json.loads(out)] == ['sound.png']
    for name in PICTURES: assert sum(name in line for line in err.splitlines()) == 1, err
    for name in PICTURES: refused(qvision('explain', f'pictures/{name}', '--model', 'model'), name)
    assert files_of(tmp_path) == before


@pytest.mark.parametrize('caption', ['', ' ', 'word '*500])
def test_a_caption_that_cannot_be_explained(qvision, copy, tmp_path, caption):
    Image.new('RGB', (40, 40)).save(tmp_path/'a.png')
    status, _, err = qvision('explain', 'a.png', '--model', 'model', '--caption', caption)
    assert status in (0, 1) and 'Traceback' not in err
    if status: refused((status, '', err))


PUBLISHED = {'empty': '', 'a list': '[]', 'null': 'null', 'text as size': '{"embed_size": "x"}', 'deep': DEEP,
             'a truth value': '{"embed_size": true, "vocab_size": 9, "num_img_tokens": 9}',
             'huge': '{"embed_size": 1024, "vocab_size": 1000000000000000, "num_img_tokens": 9}'}


@pytest.mark.parametrize('name', PUBLISHED)
def test_a_published_checkpoint_with_a_damaged_configuration(qvision, tmp_path, name):
    folder = tmp_path/'published'
    folder.mkdir()
    for part in ('encoder', 'decoder', 'gpt_decoder'): (folder/f'{part}.safetensors').write_bytes(save({}))
    (folder/'config.json').write_text(PUBLISHED[name])
    refused(qvision('import-multimodel', 'published', 'out'))
    assert not (tmp_path/'out').exists()


def test_a_published_checkpoint_of_a_billion_layers():
    sizes = dict(embed_size=1024, vocab_size=9, num_img_tokens=9)
    legacy = MultimodelCheckpoint('file.pth', sizes, {'decoder/self_attention_layers.999999999.x': None})
    with pytest.raises(ValueError) as caught: multimodel_config(legacy)
    assert 'layer 999,999,999' in one_line(caught.value, 'file.pth')


def test_an_error_of_any_kind_is_one_line(qvision, monkeypatch, tmp_path):
    (tmp_path/'experiments').mkdir()
    for error in (TypeError('odd'), ZeroDivisionError('odd'), MemoryError('odd'), Image.DecompressionBombError('odd'),
                  RecursionError('odd'), ValueError('odd \ud800')):
        def fails(*args, raised=error): raise raised
        monkeypatch.setattr('qvision.runs.archive.list_runs', fails)
        refused(qvision('runs'), 'odd')
    with pytest.raises(ValueError):
        monkeypatch.setattr(sys, 'argv', ['qvision', '--debug', 'runs'])
        cli.main()


# Archives

def zipped(path, members): # name -> (content, kind of file)
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
        for name, (content, kind) in members.items():
            member = zipfile.ZipInfo(name)
            member.external_attr = (kind | 0o644) << 16
            archive.writestr(member, content)
    return path


ARCHIVES = {'above': ('../x', 'x', stat.S_IFREG, 'outside'), 'root': ('/x', 'x', stat.S_IFREG, 'outside'),
            'through': ('a/../../x', 'x', stat.S_IFREG, 'outside'), 'link': ('x', '/etc', stat.S_IFLNK, 'a link'),
            'device': ('x', '', stat.S_IFCHR, 'a link or a device'), 'pipe': ('x', '', stat.S_IFIFO, 'a link or'),
            'large': ('x', '0'*10_000, stat.S_IFREG, '10,001 bytes, more than'), 'beside': ('out/x', 'x', 0, 'outside')}


@pytest.mark.parametrize('name', ARCHIVES)
def test_an_archive_stays_in_its_folder(tmp_path, name):
    file, content, kind, reason = ARCHIVES[name]
    archive = zipped(tmp_path/'a.zip', {'sound': ('1', stat.S_IFREG), file: (content, kind)})
    (tmp_path/'elsewhere').mkdir()
    (tmp_path/'into').mkdir()
    (tmp_path/'into/out').symlink_to(tmp_path/'elsewhere')
    with pytest.raises(DownloadError) as caught: unpack(archive, tmp_path/'into', False, most=9_999)
    assert reason in one_line(caught.value, 'a.zip')
    assert set(files_of(tmp_path)) == {archive}


# Pages

class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs): self.found.append((tag, dict(attrs)))


def test_a_caption_and_a_name_are_text_on_the_page(qvision, copy, tmp_path):
    Image.new('RGB', (40, 40)).save(tmp_path/f'{SCRIPT}.png')
    page = tmp_path/f'{SCRIPT}.html'
    status, _, err = qvision('explain', f'{SCRIPT}.png', '-o', page.name, '--caption', SCRIPT, '--model', 'model')
    assert status == 0, err
    tags = Tags(page.read_text()).found
    assert not [tag for tag in tags if 'onerror' in tag[1]]
    pictures = [attrs for tag, attrs in tags if tag == 'img']
    assert pictures and all(attrs['src'].startswith('data:image/') for attrs in pictures)
    assert 'onerror' in pictures[0]['alt'] # it is there, as text


def test_a_dollar_in_a_caption_is_no_formula(qvision, copy, tmp_path):
    Image.new('RGB', (40, 40)).save(tmp_path/'a.png')
    status, _, err = qvision('explain', 'a.png', '-o', 'a.pdf.png', '--caption', r'$\frac $', '--model', 'model')
    assert status == 0, err


@pytest.fixture(scope='module')
def build_docs(load_tool): return load_tool('build_docs')


def test_what_a_run_records_is_text_on_its_page(build_docs, tmp_path):
    folder = tmp_path/SCRIPT
    (folder/'figures').mkdir(parents=True)
    (folder/f'figures/{SCRIPT}.png').write_bytes(b'')
    info = dict(kind=SCRIPT, status=SCRIPT, params={SCRIPT: SCRIPT, 'list': [SCRIPT]}, parent=SCRIPT, started=SCRIPT,
                command=f'` {SCRIPT} `', data=dict(path=SCRIPT), machine=dict(processor=SCRIPT, cores=2))
    (folder/'metrics.json').write_text(json.dumps({SCRIPT: SCRIPT, 'x': {SCRIPT: SCRIPT}}))
    run = Run(folder, info)
    outside_code = build_docs.run_page(run).replace(f"`' {SCRIPT} '`", '')
    assert not Tags(outside_code).found
    assert 'onerror' in outside_code
    assert not Tags(build_docs.run_list([run])).found
