"Properties that hold for any input: readers, splits, captions and metrics, tried on examples that hypothesis makes."
import csv
import io
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from qvision.data.caption_tables import read_rows, read_table
from qvision.data.coco import CocoData, CocoImage, split_images
from qvision.data.convert import tidy_caption
from qvision.data.images import change_caption
from qvision.data.integrity import DataError
from qvision.evaluation.chair import SYNONYMS, chair, mentions, singulars, words_of
from qvision.evaluation.diversity import diversity
from qvision.evaluation.metrics import score
from qvision.evaluation.object_probe import Answers, best_threshold
from qvision.evaluation.scene_accuracy import CLAIMS, describe_objects, relations_in, scene_accuracy, scene_facts

TRIED = settings(derandomize=True, database=None, deadline=None, max_examples=60,
                 suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])

PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
ODD = st.sampled_from(['\ud800', 'a\0b', '../x', 'x'*300, '', 10**400, -1, 1e308, float('nan'), float('inf'), 2**63])
VALUES = st.recursive(PLAIN | ODD, lambda inner: st.lists(inner, max_size=4)
                      | st.dictionaries(st.text(max_size=4), inner, max_size=3), max_leaves=8)
LETTERS = st.characters(exclude_categories=['Cs', 'Cc']) # no half pairs, no control characters
TEXTS = st.text(LETTERS, min_size=1, max_size=30).filter(lambda text: text.strip() == text)
NAMES = st.text('abcxyz0189 _-é', min_size=1, max_size=12).map(lambda name: f'n{name}n.png')


@pytest.fixture(scope='module')
def pictures(tmp_path_factory):
    "Make a folder in COCO layout with two pictures, without its annotation files."
    root = tmp_path_factory.mktemp('coco')
    (root/'val2017').mkdir()
    (root/'annotations').mkdir()
    for i in range(2): Image.new('RGB', (4, 3)).save(root/f'val2017/{i}.png')
    return root


def sound():
    images = [dict(id=i, file_name=f'{i}.png', width=4, height=3) for i in range(2)]
    captions = [dict(id=i, image_id=i, caption=f'Picture {i}') for i in range(2)]
    square = [[0, 0, 2, 0, 2, 2, 0, 2]]
    objects = [dict(id=i, image_id=i, category_id=1, iscrowd=0, bbox=[0, 0, 2, 2], segmentation=square)
               for i in range(2)]
    return dict(captions=dict(images=images, annotations=captions),
                instances=dict(images=images, annotations=objects, categories=[dict(id=1, name='cup')]))


def written(root, contents):
    for kind, content in contents.items():
        (root/f'annotations/{kind}_val2017.json').write_text(json.dumps(content))


PLACES = [('captions', 'images', field) for field in ('id', 'file_name', 'width', 'height', 'scene')]
PLACES += [('captions', 'annotations', field) for field in ('id', 'image_id', 'caption')]
PLACES += [('instances', 'images', field) for field in ('id', 'width', 'height')]
OBJECT = ('id', 'image_id', 'category_id', 'segmentation', 'iscrowd')
PLACES += [('instances', 'annotations', field) for field in OBJECT]
PLACES += [('instances', 'categories', field) for field in ('id', 'name')]


@settings(TRIED, max_examples=250)
@given(st.sampled_from(PLACES), VALUES)
@example(('instances', 'annotations', 'segmentation'), [[0, 0, 10**400, 0, 1, 1]])
@example(('instances', 'annotations', 'segmentation'), dict(size=[3., 4.], counts='0<'))
@example(('captions', 'images', 'width'), 4.)
def test_any_value_in_a_record_is_read_or_named(pictures, place, value):
    kind, records, field = place
    contents = sound()
    contents[kind][records] = [dict(contents[kind][records][0], **{field: value}), *contents[kind][records][1:]]
    written(pictures, contents)
    try: data = CocoData(pictures, 'val2017', progress=False)
    except DataError as error:
        str(error).encode()
        return
    str(data.report).encode()
    assert 1 <= len(data) <= 2
    for image in data.images:
        assert image.captions and image.path.is_file()
        for annotation in image.annotations: assert data.mask(annotation).ndim == 2


@TRIED
@given(st.sampled_from(['captions', 'instances']), st.sampled_from(['images', 'annotations', 'categories', '']), VALUES)
@example('instances', 'categories', 5)
def test_any_value_as_a_list_of_records_is_read_or_named(pictures, kind, name, value):
    contents = sound()
    if name: contents[kind][name] = value
    else: contents[kind] = value
    written(pictures, contents)
    try: data = CocoData(pictures, 'val2017', progress=False)
    except DataError as error: str(error).encode()
    else: str(data.report).encode()


@TRIED
@given(st.lists(st.lists(TEXTS, min_size=1, max_size=3), min_size=2, max_size=2))
def test_captions_are_read_as_they_were_written(pictures, captions):
    contents = sound()
    rows = [(i, text) for i, texts in enumerate(captions) for text in texts]
    contents['captions']['annotations'] = [dict(id=k, image_id=i, caption=text) for k, (i, text) in enumerate(rows)]
    written(pictures, contents)
    assert CocoData(pictures, 'val2017', progress=False).references() == dict(enumerate(captions))


# Tables

def as_csv(rows, delimiter):
    text = io.StringIO(newline='')
    csv.writer(text, delimiter=delimiter).writerows([('file', 'caption'), *rows])
    return text.getvalue()


def as_tsv(rows): return '\n'.join('\t'.join(row) for row in [('file', 'caption'), *rows])
def as_lines(rows): return '\n'.join(json.dumps(dict(file=file, caption=caption)) for file, caption in rows)
def as_list(rows): return json.dumps([dict(file_name=file, text=caption) for file, caption in rows])


FORMS = {'comma.csv': lambda rows: as_csv(rows, ','), 'semicolon.csv': lambda rows: as_csv(rows, ';'), 't.tsv': as_tsv,
         't.jsonl': as_lines, 't.json': as_list}
ENCODINGS = ('utf-8', 'utf-8-sig', 'utf-16')


@pytest.mark.parametrize('form', FORMS)
@TRIED
@given(st.dictionaries(NAMES, st.lists(TEXTS, min_size=1, max_size=3), min_size=1, max_size=4),
       st.sampled_from(ENCODINGS))
def test_a_table_is_read_as_it_was_written(tmp_path, form, captions, encoding):
    rows = [(file, caption) for file, texts in captions.items() for caption in texts]
    (tmp_path/form).write_bytes(FORMS[form](rows).encode(encoding))
    assert read_rows(tmp_path/form) == captions


@TRIED
@given(st.binary(max_size=60) | st.text('{}[]",:;\t\n#01.file,caption"', max_size=60).map(str.encode))
def test_any_bytes_are_a_table_or_named(tmp_path, content):
    for name in ('t.csv', 't.tsv', 't.json'):
        (tmp_path/name).write_bytes(content)
        try: read_table(tmp_path/name)
        except DataError as error: assert name in str(error)


@TRIED
@given(st.dictionaries(st.sampled_from(['file', 'caption', 'image', 'text', 'x']), VALUES), st.booleans())
def test_any_record_of_a_table_is_read_or_named(tmp_path, record, in_list):
    content = json.dumps([record] if in_list else record)
    (tmp_path/'t.json').write_text(content)
    try: rows = read_rows(tmp_path/'t.json')
    except DataError as error: assert 't.json' in str(error)
    else: assert all(isinstance(text, str) for texts in rows.values() for text in texts)


KARPATHY = dict(filename='a.jpg', split='train', cocoid=1, filepath='', sentences=[dict(raw='A man')])


@TRIED
@given(st.sampled_from([*KARPATHY, 'raw', 'entry', 'images']), VALUES)
def test_any_value_in_karpathys_file_is_read_or_named(tmp_path, field, value):
    entry = dict(KARPATHY, **{field: value}) if field in KARPATHY else KARPATHY
    if field == 'raw': entry = dict(KARPATHY, sentences=[dict(raw=value)])
    content = dict(images=value if field == 'images' else [value if field == 'entry' else entry])
    (tmp_path/'t.json').write_text(json.dumps(content))
    try: table = read_table(tmp_path/'t.json')
    except DataError as error: assert 't.json' in str(error)
    else: assert list(table.captions) == [entry['filename']]


# Splits

@TRIED
@given(st.lists(st.integers(), min_size=2, max_size=60, unique=True), st.floats(.01, .99), st.integers(0, 99))
def test_a_split_is_a_partition_that_the_order_does_not_change(ids, fraction, seed):
    try: first, second = split_images(ids, fraction, seed)
    except DataError:
        assert round(fraction*len(ids)) >= len(ids) # nothing would be left
        return
    assert sorted([*first, *second]) == sorted(ids)
    assert first and second
    assert abs(len(second) - fraction*len(ids)) <= 1
    assert split_images(ids[::-1] + ids[:1], fraction, seed) == (first, second)


# Captions

SIDES = st.lists(st.sampled_from(['left', 'right', 'Left', 'Right', 'leftmost', 'bright', 'a', 'left-handed', '.']))


@TRIED
@given(SIDES.map(' '.join))
@example('a man on the left looks right')
def test_mirrored_twice_is_the_caption(caption):
    once = change_caption(caption, 'flip')
    assert change_caption(once, 'crop1-flip') == caption
    assert change_caption(caption, 'crop1') == caption
    words = caption.lower().replace('-', ' ').split()
    assert (once != caption) == bool({'left', 'right'} & set(words))


@TRIED
@given(st.text(max_size=40) | SIDES.map(' '.join).map(str.upper))
@example('r\u0131ght')
@example('R\u0130GHT')
def test_any_caption_can_be_mirrored(caption):
    twice = change_caption(change_caption(caption, 'flip'), 'flip')
    assert twice.lower() == caption.lower() # LEFT becomes Right


@TRIED
@given(st.text(max_size=60))
def test_a_tidy_caption_has_one_line_and_an_end(caption):
    tidy = tidy_caption(caption)
    assert tidy == ' '.join(tidy.split())
    assert not tidy or tidy.endswith('.')


OBJECTS = sorted((word, category) for category, words in SYNONYMS.items() for word in words)


@TRIED
@given(st.text(max_size=60) | st.lists(st.sampled_from([word for word, _ in OBJECTS])).map(' '.join))
def test_words_and_mentions_of_any_caption(caption):
    words = words_of(caption)
    assert words_of(' '.join(words)) == words
    assert all(word == word.lower() and word.strip() for word in words)
    found = mentions(caption)
    ends = [0, *(m.end for m in found)]
    for m, end in zip(found, ends): assert end <= m.start < m.end <= len(words)
    assert {m.category for m in found} <= set(SYNONYMS)
    assert [m for m in found if m.category == 'dog'] == mentions(caption, ['dog'])


@TRIED
@given(st.lists(st.sampled_from(OBJECTS), min_size=1, max_size=5), st.sampled_from([str, str.upper, str.title]))
def test_every_object_of_a_caption_is_found(objects, case):
    caption = case(' beside the '.join(word for word, _ in objects))
    assert [m.category for m in mentions(f'{caption}!')] == [category for _, category in objects]


@TRIED
@given(st.text('abcdehikosxyz', min_size=1, max_size=8))
def test_a_plural_leads_to_its_word(word):
    assert singulars(word)[0] == word
    assert word in singulars(word + 's') or word.endswith('s')
    assert all(singulars(word))


# Metrics

SAID = st.lists(st.sampled_from(['a', 'dog', 'cat', 'red', 'on', 'the', 'grass', '!', 'runs', 'horse']), max_size=9)
SCORED = st.lists(st.tuples(SAID.map(' '.join), st.lists(SAID.map(' '.join), min_size=1, max_size=3)), min_size=2,
                  max_size=5)
MOST = dict.fromkeys(('BLEU-1', 'BLEU-2', 'BLEU-3', 'BLEU-4', 'ROUGE-L'), 1) | dict(CIDEr=10)


def scored(pairs, ids):
    candidates = {i: caption for i, (caption, _) in zip(ids, pairs)}
    references = {i: texts for i, (_, texts) in zip(ids, pairs)}
    return score(candidates, references, ('BLEU', 'ROUGE-L', 'CIDEr'), 'python')


@TRIED
@given(SCORED, st.data())
def test_scores_are_in_range_and_the_order_of_images_changes_nothing(pairs, data):
    found = scored(pairs, range(len(pairs)))
    has_words = any(words_of(text) for _, texts in pairs for text in texts)
    assert found.corpus.keys() == MOST.keys() - (set() if has_words else {'CIDEr'})
    for name, value in found.corpus.items(): assert 0 <= value <= MOST[name] + 1e-6, name
    ids = data.draw(st.permutations(range(len(pairs))))
    again = scored(pairs, ids) # each pair under another number, so in another order
    assert again.corpus == pytest.approx(found.corpus, rel=1e-9, abs=1e-12)
    renamed = {i: found.cider[k] for k, i in enumerate(ids) if found.cider}
    assert again.cider == pytest.approx(renamed, abs=1e-9)


@TRIED
@given(SCORED)
def test_nothing_scores_above_the_reference_itself(pairs):
    assume(all(words_of(texts[0]) for _, texts in pairs))
    best = scored([(texts[0], texts) for _, texts in pairs], range(len(pairs))).corpus
    found = scored(pairs, range(len(pairs))).corpus
    for name in ('BLEU-1', 'ROUGE-L'):
        assert best[name] == pytest.approx(1, abs=1e-6)
        assert found[name] <= best[name] + 1e-6


@TRIED
@given(SCORED, st.lists(st.sets(st.sampled_from(['dog', 'cat', 'horse', 'cow'])), min_size=5, max_size=5), st.data())
def test_hallucinations_are_shares_and_the_order_of_images_changes_nothing(pairs, truth, data):
    captions = {i: caption for i, (caption, _) in enumerate(pairs)}
    there = dict(enumerate(truth))
    found = chair(captions, there)
    for share in (found.chair_i, found.chair_s, found.recall): assert 0 <= share <= 1
    assert (found.chair_i == 0) == (found.chair_s == 0)
    order = data.draw(st.permutations(list(captions)))
    again = chair({order[i]: captions[i] for i in captions}, {order[i]: there[i] for i in captions})
    assert (again.chair_i, again.chair_s, again.recall) == (found.chair_i, found.chair_s, found.recall)
    everything = chair(captions, dict.fromkeys(captions, set(SYNONYMS)))
    assert everything.chair_i == 0


@TRIED
@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=1, max_size=12))
def test_auc_and_best_threshold_are_what_counting_gives(rows):
    score = np.array([value for value, _ in rows], float)
    present = np.array([there for _, there in rows])
    pairs = [(a > b) + .5*(a == b) for a in score[present] for b in score[~present]]
    auc = Answers(len(rows), np.arange(len(rows)), score, present).auc()
    if pairs: assert auc == pytest.approx(np.mean(pairs))
    else: assert np.isnan(auc)
    found = ((score > best_threshold(score, present)) == present).mean()
    assert found == max(((score > t) == present).mean() for t in np.arange(-4, 4, .5))


@TRIED
@given(st.lists(TEXTS, min_size=1, max_size=6))
def test_diversity_is_made_of_shares(captions):
    found = diversity(captions, captions)
    assert found.pop('copied') == 1
    for name in ('different', 'distinct-1', 'distinct-2', 'repeats', 'unfinished'): assert 0 <= found[name] <= 1
    twice = diversity(captions*2)
    assert twice['different'] == pytest.approx(found['different']/2)
    assert twice['vocabulary'] == found['vocabulary']


WORDS = st.lists(st.sampled_from(['a', 'two', 'pair', 'of', 'red', 'blue', 'small', 'dogs', 'dog', 'bus', 'to', 'the',
                                  'left', 'behind', 'next', 'near', 'and']), max_size=14).map(' '.join)
INSTANCES = st.lists(st.fixed_dictionaries(
    dict(category=st.sampled_from(['dog', 'bus', 'cat'])),
    optional=dict(colour=PLAIN | st.sampled_from(['red', 'blue']), iscrowd=st.sampled_from([0, 1]),
                  bbox=PLAIN | st.lists(st.floats(0, 100) | PLAIN, min_size=4, max_size=4))), max_size=5)


class Scenes:
    "A split with one image per list of instances."
    def __init__(self, all_instances):
        self.images = [CocoImage(i, None, 9, 9, [], found, {}) for i, found in enumerate(all_instances)]


@TRIED
@given(st.lists(st.tuples(WORDS, INSTANCES), min_size=1, max_size=4))
def test_scene_accuracy_of_any_annotations(pairs):
    captions = {i: caption for i, (caption, _) in enumerate(pairs)}
    for caption in captions.values():
        objects = describe_objects(caption, ('red', 'blue'))
        spans = [k for found in objects for k in range(found.start, found.end)]
        assert spans == sorted(set(spans)) # no word describes two objects
        assert len(relations_in(caption, objects)) < max(len(objects), 1)
    facts, missing = scene_facts(Scenes([instances for _, instances in pairs]))
    assert missing.keys() <= set(CLAIMS)
    found = scene_accuracy(captions, facts, missing)
    assert (found.right <= found.claims).all()
    assert not set(missing) & set(found.summary())
    for claim in found.summary().values(): assert 0 <= claim['interval'][0] <= claim['interval'][1] <= 1
