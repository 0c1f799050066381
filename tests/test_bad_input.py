"Broken input of many kinds: each is named in one line with its reason, and the rest goes on."
import json
import logging
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qvision.data.caption_tables import read_rows
from qvision.data.coco import CocoData, check
from qvision.data.convert import from_csv
from qvision.data.images import ImageError, image_files, load_batches, open_rgb
from qvision.data.integrity import DataError, NothingUsable
from qvision.inference.speculative import NgramDrafter

ROOT = Path(__file__).resolve().parent.parent


def one_line(error):
    "Return an error's message, which the command line prints as it is."
    message = str(error)
    assert message and '\n' not in message, message
    assert not message.startswith(type(error).__name__)
    return message


# Images

SIDE = 64


def picture():
    values = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    return Image.fromarray(values)


def saved(folder, form, **options):
    path = folder/f'source.{form}'
    picture().save(path, **options)
    return path.read_bytes()


def bytes_of(start, length=64): return lambda folder: start + bytes(length)


def share_of(form, share): return lambda folder: (content := saved(folder, form))[:int(len(content)*share)]


def bomb(form, place, size): # a small file whose header, at a place in it, claims 20,000 by 20,000 pixels
    def write(folder):
        content = bytearray(saved(folder, form))
        content[place:place + 2*size] = (20_000).to_bytes(size, 'little')*2
        return bytes(content)
    return write


def png_bomb(folder):
    Image.new('1', (20_000, 20_000)).save(folder/'source.png')
    return (folder/'source.png').read_bytes()


def png_of(width, height): # a small PNG whose header claims this size, with the right checksum
    def write(folder):
        content = bytearray(saved(folder, 'png'))
        content[16:24] = struct.pack('>II', width, height)
        content[29:33] = struct.pack('>I', zlib.crc32(content[12:29]))
        return bytes(content)
    return write


def of_floats(value):
    def write(folder):
        Image.fromarray(np.array([[0, value]], np.float32)).save(folder/'source.tif')
        return (folder/'source.tif').read_bytes()
    return write


IMAGES = { # name -> (content, reason)
    'text.jpg': (lambda _: b'hello', 'not an image'),
    'page.jpg': (lambda _: b'<!doctype html><html></html>', 'not an image'),
    'vector.png': (lambda _: b'<svg xmlns="http://www.w3.org/2000/svg"/>', 'not an image'),
    'empty.jpg': (lambda _: b'', 'the file is empty'),
    'zeros.jpg': (bytes_of(b''), 'not an image'),
    'resources.jpg': (bytes_of(b'\0\x05\x16\x07'), 'macOS'),
    'apple.heic': (bytes_of(b'\0\0\0\x18ftypheic'), 'pillow-heif'),
    'apple.heif': (bytes_of(b'\0\0\0\x18ftypmif1'), 'pillow-heif'),
    'new.jxl': (bytes_of(b'\xff\x0a'), 'JPEG XL'),
    'half.jpg': (share_of('jpg', .5), 'truncated'),
    'half.png': (share_of('png', .5), 'truncated'),
    'half.gif': (share_of('gif', .5), 'truncated'),
    'half.bmp': (share_of('bmp', .5), 'truncated'),
    'half.ppm': (share_of('ppm', .5), 'truncated'),
    'half.tif': (share_of('tif', .5), ''),
    'half.webp': (share_of('webp', .5), ''),
    'start.jpg': (share_of('jpg', .01), ''),
    'start.png': (share_of('png', .002), ''),
    'bomb.png': (png_bomb, 'too large: 400 megapixels, limit 179'),
    'bomb.gif': (bomb('gif', 6, 2), 'too large: 400 megapixels, limit 179'),
    'bomb.bmp': (bomb('bmp', 18, 4), 'too large: 400 megapixels, limit 179'),
    'bomb.ppm': (lambda _: b'P6 99999999 99999999 255\n', 'too large'),
    'wide.png': (png_of(2**31 - 1, 1), 'too large: 2147 megapixels'),
    'nothing.png': (png_of(0, 0), ''),
    'flat.png': (png_of(5, 0), ''),
    'nothing.gif': (lambda _: b'GIF89a' + bytes(20), ''),
    'nothing.bmp': (lambda _: b'BM' + bytes(60), ''),
    'nothing.ppm': (lambda _: b'P6 0 0 255\n', ''),
    'negative.ppm': (lambda _: b'P6 -5 5 255\n', ''),
    'nan.tif': (of_floats(np.nan), 'NaN or infinite'),
    'infinite.tif': (of_floats(-np.inf), 'NaN or infinite'),
}


@pytest.mark.parametrize('name', IMAGES)
def test_a_broken_image_is_named_with_its_reason(tmp_path, name):
    write, reason = IMAGES[name]
    path = tmp_path/name
    path.write_bytes(write(tmp_path))
    with pytest.raises(ImageError) as caught: open_rgb(path)
    message = one_line(caught.value)
    assert message.startswith(f'{path}: ')
    assert reason in message
    assert caught.value.reason and 'Error' not in caught.value.reason


@pytest.mark.parametrize('name, reason', [('folder.jpg', 'a folder'), ('gone.jpg', 'no such file'),
                                          ('x'*300 + '.jpg', 'too long'), ('a\0b.jpg', 'no file can have this name'),
                                          ('two\nlines.jpg', 'no such file'), ('\ud800.jpg', 'no file can have')])
def test_a_path_that_is_no_file_is_named(tmp_path, name, reason):
    (tmp_path/'folder.jpg').mkdir()
    with pytest.raises(ImageError) as caught: open_rgb(tmp_path/name)
    assert reason in one_line(caught.value)
    one_line(caught.value).encode() # a terminal can show it


def test_the_rest_of_a_folder_goes_on(tmp_path):
    from transformers import CLIPImageProcessorPil
    for name, (write, _) in IMAGES.items(): (tmp_path/name).write_bytes(write(tmp_path))
    for source in tmp_path.glob('source.*'): source.unlink()
    for name in ('a.png', 'z.jpg'): picture().save(tmp_path/name)
    (tmp_path/'._a.png').write_bytes(b'\0\x05\x16\x07')
    files = image_files([tmp_path])
    assert sorted(file.name for file in files) == sorted([*IMAGES, 'a.png', 'z.jpg'])
    skipped = {}
    def skip(i, error): skipped[files[i].name] = error.reason
    processor = CLIPImageProcessorPil(size=dict(shortest_edge=32), crop_size=dict(height=32, width=32))
    read = [files[i].name for some, _ in load_batches(files, processor, 4, skip) for i in some]
    assert read == ['a.png', 'z.jpg']
    assert set(skipped) == set(IMAGES)


@pytest.mark.parametrize('missing', [1, 2, 10])
def test_a_jpeg_without_its_end_is_read_with_a_warning(tmp_path, caplog, missing):
    path = tmp_path/'cut.jpg'
    picture().resize((160, 160)).save(tmp_path/'source.jpg', subsampling=0)
    path.write_bytes((tmp_path/'source.jpg').read_bytes()[:-missing])
    with caplog.at_level(logging.WARNING): opened = open_rgb(path)
    whole = np.asarray(Image.open(tmp_path/'source.jpg'))
    assert (np.asarray(opened)[:144] == whole[:144]).all()
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith(f'{path}: truncated, but read')


@pytest.mark.parametrize('mode, colours', [('RGBA', [(0, 0, 0, 0), (255, 0, 0, 0), (9, 99, 200, 0)]),
                                           ('LA', [(0, 0), (200, 0)])])
def test_what_lies_below_transparent_pixels_does_not_matter(mode, colours):
    for colour in colours: assert open_rgb(Image.new(mode, (2, 2), colour)).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize('values, grey', [(np.int32([[-5, 0, 5]]), [0, 128, 255]),
                                          (np.int32([[0, 2**30, 2**31 - 1]]), [0, 128, 255]),
                                          (np.float32([[0, .25, 1]]), [0, 64, 255]),
                                          (np.float32([[-3e38, 0, 3e38]]), [0, 128, 255]),
                                          (np.int32([[7, 7, 7]]), [128]*3), (np.float32([[0, 0, 0]]), [128]*3)])
def test_wide_values_are_scaled_from_their_own_range(values, grey):
    assert np.abs(np.asarray(open_rgb(Image.fromarray(values)))[0, :, 0].astype(int) - grey).max() <= 1


# Annotation files

def sound(root, count=3):
    "Write a folder in COCO layout with captions and instances, and return their contents."
    (root/'val2017').mkdir(parents=True)
    (root/'annotations').mkdir()
    images = [dict(id=i, file_name=f'{i}.png', width=40, height=30) for i in range(count)]
    for i in range(count): Image.new('RGB', (40, 30)).save(root/f'val2017/{i}.png')
    captions = [dict(id=i, image_id=i, caption=f'Picture {i}') for i in range(count)]
    square = [[0, 0, 10, 0, 10, 10, 0, 10]]
    instances = [dict(id=i, image_id=i, category_id=1, segmentation=square) for i in range(count)]
    return (dict(images=images, annotations=captions),
            dict(images=images, annotations=instances, categories=[dict(id=1, name='cup')]))


def write(root, captions, instances, encoding='utf-8'):
    for kind, content in dict(captions=captions, instances=instances).items():
        (root/f'annotations/{kind}_val2017.json').write_text(json.dumps(content), encoding=encoding)


def changed(where, **fields): # the last record of a list, 'images' or 'annotations', of captions or instances
    def change(captions, instances):
        kind, name = where.split()
        content = captions if kind == 'captions' else instances
        content[name] = [*content[name][:-1], content[name][-1] | fields]
    return change


def lacking(where, field):
    def change(captions, instances):
        kind, name = where.split()
        content = captions if kind == 'captions' else instances
        content[name] = [*content[name][:-1], {k: v for k, v in content[name][-1].items() if k != field}]
    return change


def replaced(where, record):
    def change(captions, instances):
        kind, name = where.split()
        content = captions if kind == 'captions' else instances
        content[name] = [*content[name][:-1], record]
    return change


RECORDS = { # what is wrong -> (change, kind of fault, images that are left of 3, instances that are left of 3)
    'image id is a list': (changed('captions images', id=[2]), 'malformed', 2, 2),
    'image id is a record': (changed('captions images', id={}), 'malformed', 2, 2),
    'image id is null': (changed('captions images', id=None), 'malformed', 2, 2),
    'image id is text': (changed('captions images', id='2'), 'malformed', 2, 2),
    'image id is a truth value': (changed('captions images', id=True), 'malformed', 2, 2),
    'image id is a fraction': (changed('captions images', id=2.5), 'malformed', 2, 2),
    'image without id': (lacking('captions images', 'id'), 'malformed', 2, 2),
    'image without file name': (lacking('captions images', 'file_name'), 'malformed', 2, 2),
    'image is null': (replaced('captions images', None), 'malformed', 2, 2),
    'file name is a number': (changed('captions images', file_name=2), 'malformed', 2, 2),
    'file name too long': (changed('captions images', file_name='x'*300), 'bad_name', 2, 2),
    'path too long': (changed('captions images', file_name='x/'*5000), 'bad_name', 2, 2),
    'file name with a null': (changed('captions images', file_name='a\0.png'), 'bad_name', 2, 2),
    'file name with half a pair': (changed('captions images', file_name='\ud800.png'), 'bad_name', 2, 2),
    'empty file name': (changed('captions images', file_name=''), 'bad_name', 2, 2),
    'file name leads out': (changed('captions images', file_name='../x.png'), 'outside_folder', 2, 2),
    'file name is a folder': (changed('captions images', file_name='.'), 'folder', 2, 2),
    'caption of a list': (changed('captions annotations', image_id=[2]), 'malformed', 2, 2),
    'caption of text': (changed('captions annotations', image_id='2'), 'malformed', 2, 2),
    'caption of nothing': (lacking('captions annotations', 'image_id'), 'malformed', 2, 2),
    'caption id is a list': (changed('captions annotations', id=[1]), 'malformed', 2, 2),
    'caption is text': (replaced('captions annotations', 'A cup'), 'malformed', 2, 2),
    'caption is a number': (changed('captions annotations', caption=5), 'empty_captions', 2, 2),
    'caption is half a pair': (changed('captions annotations', caption='\udc00'), 'not_text', 2, 2),
    'instance of a list': (changed('instances annotations', image_id=[1]), 'malformed', 3, 2),
    'instance of text': (changed('instances annotations', image_id='1'), 'malformed', 3, 2),
    'instance id is a list': (changed('instances annotations', id=[1]), 'malformed', 3, 2),
    'category is a list': (changed('instances annotations', category_id=[1]), 'malformed', 3, 2),
    'instance without category': (lacking('instances annotations', 'category_id'), 'malformed', 3, 2),
    'category without name': (replaced('instances categories', dict(id=1)), 'malformed', 3, 3),
    'no segmentation': (lacking('instances annotations', 'segmentation'), 'no_mask', 3, 2),
    'null segmentation': (changed('instances annotations', segmentation=None), 'no_mask', 3, 2),
    'empty segmentation': (changed('instances annotations', segmentation=[]), 'no_mask', 3, 2),
    'text as segmentation': (changed('instances annotations', segmentation='x'), 'no_mask', 3, 2),
    'short polygon': (changed('instances annotations', segmentation=[[1, 1]]), 'no_mask', 3, 2),
    'box as polygon': (changed('instances annotations', segmentation=[[1, 1, 5, 5]]), 'no_mask', 3, 2),
    'odd polygon': (changed('instances annotations', segmentation=[[1, 1, 5, 5, 9, 9, 3]]), 'no_mask', 3, 2),
    'flat polygon': (changed('instances annotations', segmentation=[1, 1, 5, 1, 5, 5]), 'no_mask', 3, 2),
    'polygon of a number with 400 digits': (changed('instances annotations', segmentation=[[1, 1, 10**400, 1, 5, 5]]),
                                            'no_mask', 3, 2),
    'runs of a fraction': (changed('instances annotations', segmentation=dict(size=[30., 40.], counts='0`U1')),
                           'no_mask', 3, 2),
    'endless polygon': (changed('instances annotations', segmentation=[[1, 1, 1e12, 1, 5, 5]]), 'no_mask', 3, 2),
    'runs too short': (changed('instances annotations', segmentation=dict(size=[30, 40], counts=[9])),
                       'no_mask', 3, 2),
    'runs of another size': (changed('instances annotations', segmentation=dict(size=[9, 9], counts=[81])),
                             'no_mask', 3, 2),
    'runs of no text': (changed('instances annotations', segmentation=dict(size=[30, 40], counts='~')),
                        'no_mask', 3, 2),
}


@pytest.mark.parametrize('wrong', RECORDS)
def test_a_broken_record_is_left_out_and_named(tmp_path, wrong):
    change, fault, images, instances = RECORDS[wrong]
    contents = sound(tmp_path)
    change(*contents)
    write(tmp_path, *contents)
    data = CocoData(tmp_path, 'val2017', progress=False)
    assert (len(data), data.report.instances) == (images, instances)
    assert data.report.counts()[fault] == 1
    for line in str(data.report).splitlines(): line.encode()
    for image in data.images:
        for annotation in image.annotations: assert data.mask(annotation).sum() > 0
    assert not check(tmp_path, progress=False)[0].ok


@pytest.mark.parametrize('categories', [5, 'cup', {}, True])
def test_categories_that_are_no_list(tmp_path, categories):
    captions, instances = sound(tmp_path)
    write(tmp_path, captions, instances | dict(categories=categories))
    data = CocoData(tmp_path, 'val2017', progress=False)
    assert (len(data), data.report.instances) == (3, 3)
    assert data[0].annotations[0]['category'] == '1' # its number


def test_sides_as_fractions_are_whole(tmp_path):
    captions, instances = sound(tmp_path)
    for image in captions['images']: image |= dict(width=40., height=30.)
    write(tmp_path, captions, instances)
    data = CocoData(tmp_path, 'val2017', strict=True, progress=False)
    assert data.mask(data[0].annotations[0]).shape == (30, 40)


def test_run_lengths_are_a_mask(tmp_path):
    captions, instances = sound(tmp_path)
    instances['annotations'][0]['segmentation'] = dict(size=[30, 40], counts=[0, 100, 1100])
    write(tmp_path, captions, instances)
    data = CocoData(tmp_path, 'val2017', strict=True, progress=False)
    assert data.mask(data[0].annotations[0]).sum() == 100


@pytest.mark.parametrize('encoding', ['utf-8-sig', 'utf-16'])
def test_a_byte_order_mark_is_no_fault(tmp_path, encoding):
    write(tmp_path, *sound(tmp_path), encoding)
    assert check(tmp_path, progress=False)[0].ok


@pytest.mark.parametrize('content, reason', [('', 'is not JSON'), ('{', 'is not JSON'), ('[]', 'lacks images'),
                                             ('null', 'lacks images'),
                                             ('{"images": 5, "annotations": []}', 'not a list'),
                                             ('['*100_000, 'nested too deeply'), ('1'*5000, 'is not JSON')])
def test_a_split_that_cannot_be_used_leaves_the_others(tmp_path, content, reason):
    write(tmp_path, *sound(tmp_path))
    (tmp_path/'annotations/captions_train2017.json').write_text(content)
    broken, whole = check(tmp_path, progress=False)
    assert whole.ok and whole.images == 3
    assert reason in str(broken)
    with pytest.raises(DataError) as caught: CocoData(tmp_path, 'train2017', progress=False)
    assert 'captions_train2017.json' in one_line(caught.value)


def test_nothing_usable_is_an_error(tmp_path):
    captions, instances = sound(tmp_path)
    for annotation in captions['annotations']: annotation['image_id'] = str(annotation['image_id'])
    write(tmp_path, captions, instances)
    with pytest.raises(NothingUsable, match='has text as image_id where the images have a whole number'):
        CocoData(tmp_path, 'val2017', progress=False)


# Tables

TABLES = { # name -> (content, reason)
    'empty.csv': ('', 'it is empty'),
    'header.csv': ('file,caption\n', 'has no rows'),
    'doubled.csv': ('file,caption,caption\na.png,A,B\n', "2 columns 'caption'"),
    'doubled.jsonl': ('{"file": "a.png", "caption": "A", "caption": "B"}', "2 fields 'caption'"),
    'open.csv': ('file,caption\na.png,"A man\nb.png,A dog\n', 'is a quote left open?'),
    'commas.csv': ('file,caption\na.png,A man, a dog\n', 'line 2: more fields'),
    'nameless.csv': ('file,caption\n,A man\n', 'line 2: a caption without a file name'),
    'columns.csv': ('name;words\na.png;A man\n', "no column 'file'"),
    'deep.json': ('['*100_000, 'nested too deeply'),
    'broken.jsonl': ('{"file": "a.png", "caption": "A"}\n{', 'line 2 is not JSON'),
    'number.jsonl': ('{"file": "a.png", "caption": 5}', "'caption' is missing or no text"),
    'half.jsonl': ('{"file": "a.png", "caption": "\\ud800"}', 'not valid Unicode'),
    'zeros.csv': (bytes(200), "no column 'file'"),
    'zeros.tsv': (bytes(200), "no column 'file'"),
    'nameless.jsonl': ('{"file": "", "caption": "A"}', 'a caption without a file name'),
    'list.jsonl': ('{"file": "a.png", "caption": ["A"]}', "'caption' is missing or no text"),
    'null.json': ('[null]', 'is not a record'),
    'deep.jsonl': ('{"a":'*100_000, 'nested too deeply'),
    'large.csv': ('file,caption\na.png,' + 'x'*200_000, 'field larger than field limit'),
    'picture.csv': (b'\x89PNG\r\n\x1a\n' + bytes(50), 'is not UTF-8'),
    'latin.csv': ('file,caption\na.png,un café\n'.encode('cp1252'), 'is not UTF-8'),
}


@pytest.mark.parametrize('name', TABLES)
def test_a_broken_table_is_refused(tmp_path, name):
    content, reason = TABLES[name]
    (tmp_path/name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError) as caught: read_rows(tmp_path/name)
    assert name in one_line(caught.value)
    assert reason in str(caught.value)


@pytest.mark.parametrize('suffix, rows', [('tsv', ['file\tcaption', 'a.png\t"Halt" on a sign', 'b.png\tA 6" board']),
                                          ('csv', ['file;caption', 'a.png;"""Halt"" on a sign"',
                                                   'b.png;"A 6"" board"'])])
@pytest.mark.parametrize('newline', ['\n', '\r\n'])
@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'utf-16'])
def test_quotes_newlines_and_encodings_of_tables(tmp_path, suffix, rows, newline, encoding):
    table = tmp_path/f't.{suffix}'
    table.write_bytes(newline.join(rows).encode(encoding))
    assert read_rows(table) == {'a.png': ['"Halt" on a sign'], 'b.png': ['A 6" board']}


@pytest.mark.parametrize('count, share', [(2, .999), (12, .999), (2, .8), (1, .1)])
def test_a_training_split_is_never_empty(tmp_path, count, share):
    (tmp_path/'pictures').mkdir()
    for i in range(count): Image.new('RGB', (4, 4)).save(tmp_path/f'pictures/{i}.png')
    rows = ['file,caption', *(f'{i}.png,Picture {i}' for i in range(count))]
    (tmp_path/'t.csv').write_text('\n'.join(rows))
    with pytest.raises(DataError) as caught: from_csv(tmp_path/'t.csv', tmp_path/'pictures', tmp_path/'own', share)
    one_line(caught.value)
    assert not (tmp_path/'own').exists()


# A checkpoint's n-grams

@pytest.mark.parametrize('content', ['', '{', 'null', '[3, null]', '[3, [[[], 0, [[5, 5]]]]]', '[3, [[[0], 1, [[5]]]]]',
                                     '[3, [[[0], 1, [[-5, 1]]]]]', '['*100_000])
def test_broken_phrases_are_named(tmp_path, content):
    path = tmp_path/'phrases.json'
    path.write_text(content)
    with pytest.raises(ValueError) as caught: NgramDrafter.load(path)
    assert one_line(caught.value).startswith(f'{path} is not')


# One image

def test_one_image_has_scores_and_reasons_for_what_is_missing(qvision, workplace, tmp_path):
    captions, _ = sound(tmp_path/'one', 1)
    texts = ('A large red dog sits in the snow.', 'Two people beside a green car.')
    captions['annotations'] = [dict(id=i, image_id=0, caption=text) for i, text in enumerate(texts)]
    (tmp_path/'one/annotations/captions_val2017.json').write_text(json.dumps(captions))
    qvision('run', 'evaluate', '-p', 'model', 'package:captioner-drawings', '-p', 'data', tmp_path/'one',
            '-p', 'name', 'one-image', '-p', 'metrics', "['BLEU', 'ROUGE-L', 'CIDEr']", '-p', 'tokenizer', 'python',
            cwd=ROOT)
    metrics = json.loads((Path(workplace['QVISION_EXPERIMENTS'])/'one-image/metrics.json').read_text())
    assert set(metrics['missing']) == {'CIDEr', 'blind', 'CHAIR', 'copied', 'object probe', 'scene: colour',
                                      'scene: count', 'scene: relation'}
    assert 'one image' in metrics['missing']['CIDEr']
    assert 'blind' not in metrics['scores']
    model = metrics['scores']['model']
    assert 'CIDEr' not in model
    assert 0 < model['BLEU-1'] < 1 and 0 < model['ROUGE-L'] < 1 # neither reference is what the captioner writes
    assert metrics['scores']['people']['BLEU-1'] < 1
