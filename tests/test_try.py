"""The docs site's page "Try it": it says why its captioner is left out; in Chromium it preprocesses, captions and maps
words as Python does, and fetches nothing from elsewhere."""
import shutil
import sys
from random import Random

import numpy as np
import pytest
from PIL import Image
from transformers import ViTImageProcessorPil

from qvision import Captioner
from qvision.analysis.attribution import explain, words_of_ids
from qvision.analysis.gallery import PHOTOGRAPHS, open_photograph
from qvision.data.synthetic.scenes import paint, sample_scene
from qvision.model.captioner import tiny_captioner
from qvision.model.onnx import EXPORTING, export_onnx

CHROMIUM = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
RESIZE = '''async ([values, width, height, newWidth, newHeight, resample]) => {
  const {resize} = await import('/docs/try/pixels.js')
  return [...resize({data: Uint8Array.from(values), width, height}, newWidth, newHeight, 3, resample).data]
}'''
WORDS = '''async ([tokenizer, ids]) => {
  const {Detokenizer} = await import('/docs/try/text.js')
  const text = new Detokenizer(JSON.parse(tokenizer))
  return [text.decode(ids), text.words(ids)]
}'''
CAPTION = '''async ([values, width, height]) => {
  const {BrowserCaptioner} = await import('/docs/try/captioner.js')
  const ort = await import('/docs/try/ort/ort.wasm.min.mjs')
  ort.env.wasm.wasmPaths = new URL('/docs/try/ort/', location.href).href
  ort.env.wasm.numThreads = 1
  const read = async name => new Uint8Array(await (await fetch(`/docs/try/model/${name}`)).arrayBuffer())
  const captioner = await BrowserCaptioner.load(ort, read)
  const found = await captioner.caption({data: Uint8Array.from(values), width, height})
  return {...found, words: found.words.map(word => ({...word, map: [...word.map]}))}
}'''
VEIL = '''() => {
  const veil = document.querySelector('.try-veil')
  return veil.hidden ? null : veil.toDataURL()
}'''


@pytest.fixture(scope='module')
def try_page(root, load_tool):
    "Return tools/docs_try.py as a module."
    sys.path.append(str(root/'tools'))
    return load_tool('docs_try')


def test_the_page_says_why_it_does_not_caption(try_page, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(try_page, 'require_packages', lambda names: None)
    monkeypatch.setattr(try_page.shutil, 'which', lambda name: None)
    (tmp_path/'try').mkdir()
    found, page = try_page.prepare(tmp_path/'try', tmp_path/'npm')
    assert found is None
    assert 'built without the captioner: npm, which comes with Node.js, is not installed.' in page
    assert 'is not installed' in capsys.readouterr().out
    assert not (tmp_path/'try').exists() # nothing of an earlier build
    monkeypatch.undo()
    monkeypatch.setattr('qvision.model.onnx.find_spec', lambda name: None)
    assert "pip install 'qvision[onnx]'" in try_page.prepare(tmp_path/'try', tmp_path/'npm')[1].replace('&#x27;', "'")


def test_another_archive_than_the_pinned_one_is_an_error(try_page, tmp_path):
    (tmp_path/f'{try_page.PACKAGE}-{try_page.VERSION}.tgz').write_bytes(b'not it')
    with pytest.raises(ValueError, match='has the SHA-256'): try_page.fetch_runtime(tmp_path)


def test_page_and_home_lead_to_each_other_and_nowhere_else(try_page):
    found = dict(trained_on='photographs', beams=5, loaded=39_500_598, model=25_260_701, runtime=14_314_404,
                 example='Somebody, CC0')
    page = try_page.page(found)
    assert '25 MB of captioner' in page and '14 MB of onnxruntime' in page and 'with 5 beams' in page
    assert 'data-bytes="39500598"' in page and 'Somebody, CC0' in page
    assert '//' not in page
    assert 'class="try-example"' not in try_page.page(found | dict(example=None))
    home = try_page.with_link('Said.\n\n## First\nText\n\n## Second\n')
    assert home.startswith('Said.\n\n**[Try it](try.html)**') and home.count('try.html') == 1


def test_scripts_name_no_other_host(root):
    files = sorted((root/'tools/docs/try').iterdir())
    assert len(files) > 6
    for path in files:
        for place in ('http://', 'https://'):
            found = path.read_text(encoding='utf8').replace('http://localhost:8000/', '')
            assert place not in found, path.name


@pytest.fixture(scope='module')
def browser():
    playwright = pytest.importorskip('playwright.sync_api', reason='Playwright is not installed (extra dev)')
    if not CHROMIUM: pytest.skip('there is no Chromium here')
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox', '--disable-gpu'])
        yield chromium
        chromium.close()


@pytest.fixture
def view(browser):
    "Open a page, note where it asks and what goes wrong."
    page = browser.new_page(viewport=dict(width=1280, height=1000))
    page.set_default_timeout(120_000)
    page.asked = []
    page.errors = []
    page.on('request', lambda request: page.asked.append(request.url))
    page.on('pageerror', lambda error: page.errors.append(str(error)))
    yield page
    page.close()


@pytest.fixture(scope='module')
def scripts(root, serve): return serve(root/'tools')


@pytest.fixture(scope='module')
def runtime(root, try_page):
    "Return the archive of onnxruntime-web."
    for package in EXPORTING: pytest.importorskip(package, reason=f'{package} is not installed (extra onnx)')
    try: return try_page.fetch_runtime(root/'build/npm')
    except try_page.LeftOut as reason: pytest.skip(str(reason))


def write_site(root, folder, widget):
    "Put a bare page around what the captioner needs."
    shutil.copytree(root/'tools/docs', folder/'docs', dirs_exist_ok=True)
    page = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Try it</title><main>{widget}</main></html>'
    (folder/'try.html').write_text(page, encoding='utf8')


@pytest.fixture(scope='module', params=['qformer', 'mlp'])
def tiny(request, root, runtime, serve, try_page, tmp_path_factory):
    "Return a tiny captioner that takes five beams, and the address of a page for it."
    folder = tmp_path_factory.mktemp('tiny')
    model = tiny_captioner(bridge=request.param)
    model.config.decoding = 'beam'
    model.image_processor = ViTImageProcessorPil(size=dict(height=32, width=32))
    export_onnx(model, folder/'docs/try/model', attentions=True)
    try_page.unpack_runtime(runtime, folder/'docs/try/ort')
    write_site(root, folder, '')
    return model, serve(folder)


@pytest.fixture(scope='module')
def shipped(root, runtime, serve, try_page, tmp_path_factory):
    "Return the address of the page, with what it loads."
    folder = tmp_path_factory.mktemp('shipped')
    found = try_page.collect(folder/'docs/try', root/'build/npm')
    write_site(root, folder, try_page._widget(found))
    return serve(folder)


def noise(width, height, seed=0): return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
def draw(seed): return paint(sample_scene(Random(seed)), Random(seed))[0]


def flat(picture): # what the scripts take
    return [np.asarray(picture).reshape(-1).tolist(), picture.width, picture.height]


@pytest.mark.slow
def test_pictures_are_resized_as_pillow_does_it(view, scripts):
    view.goto(f'{scripts}/docs/try/try.css')
    sizes = (((301, 123), (96, 96)), ((40, 30), (96, 96)), ((96, 50), (96, 200)))
    for resample in (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC):
        for size, new in sizes:
            picture = Image.fromarray(noise(*size))
            found = view.evaluate(RESIZE, [*flat(picture), *new, int(resample)])
            assert found == np.asarray(picture.resize(new, resample)).reshape(-1).tolist(), (size, new, resample)


@pytest.mark.slow
def test_tokens_become_the_words_of_python(view, scripts):
    view.goto(f'{scripts}/docs/try/try.css')
    tokenizer = tiny_captioner().tokenizer
    for text in ('A café, 2 naïve "birds".', '  🐈 on\na mat\t', 'x'):
        ids = [tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
        decoded, words = view.evaluate(WORDS, [tokenizer.backend_tokenizer.to_str(), ids])
        assert decoded == tokenizer.decode(ids, skip_special_tokens=True) == text
        expected = words_of_ids(tokenizer, ids)
        assert [(word['text'], word['places']) for word in words] == [(word.text, word.tokens) for word in expected]
    broken = list(range(200, 230)) # bytes that are no text
    assert view.evaluate(WORDS, [tokenizer.backend_tokenizer.to_str(), broken])[0] == tokenizer.decode(broken)


def assert_words_are_those_of(expected, words, tolerance):
    "Compare the page's words with `explain`: text, how much they need the picture, maps."
    assert [word['text'] for word in words] == [word.text for word in expected.words]
    assert [word['needs'] for word in words] == pytest.approx(expected.visual, abs=tolerance)
    assert all(0 < word['probability'] <= 1 for word in words)
    for word, rollout in zip(words, expected.maps.get('rollout', ()), strict=True):
        assert word['map'] == pytest.approx(rollout, abs=float(tolerance*rollout.max()))


@pytest.mark.slow
def test_a_tiny_captioner_with_beams(view, tiny):
    model, address = tiny
    view.goto(f'{address}/try.html')
    pictures = [Image.fromarray(noise(50, 40, seed)) for seed in range(4)] + [draw(1)]
    captions = model.caption(pictures)
    assert len(set(captions)) > 1
    for picture, caption in zip(pictures, captions):
        found = view.evaluate(CAPTION, flat(picture))
        assert found['caption'] == caption
        assert_words_are_those_of(explain(model, [picture], methods=('rollout',))[0], found['words'], 1e-3)
    assert not view.errors


def upload(view, content, name='picture.png', kind='image/png'):
    view.set_input_files('.try-file', dict(name=name, mimeType=kind, buffer=content))
    view.wait_for_function("() => !document.getElementById('try').hasAttribute('aria-busy')")
    return view.inner_text('.try-status')


@pytest.mark.slow
def test_a_photograph_is_captioned_as_in_python(view, shipped, tmp_path):
    try: cat = open_photograph(PHOTOGRAPHS[0])
    except ModuleNotFoundError as error: pytest.skip(str(error))
    model = Captioner.from_pretrained('package:captioner')
    expected = explain(model, [cat], methods=('rollout',))[0]
    cat.save(tmp_path/'cat.png')
    view.goto(f'{shipped}/try.html')
    # 1. a file that is no picture: a message, and the page goes on
    said = upload(view, b'not a picture', 'broken.jpg', 'image/jpeg')
    assert said == 'broken.jpg cannot be read: it is damaged, or no picture that browsers show.'
    assert view.locator('.try-status.try-wrong').count() == 1
    assert view.locator('.try-words button').count() == 0
    # 2. the cat
    assert 'seconds in this browser' in upload(view, (tmp_path/'cat.png').read_bytes())
    words = view.evaluate("() => [...document.querySelectorAll('.try-words button')].map(b => ({...b.word,"
                          ' map: [...b.word.map]}))')
    assert ' '.join(word['text'] for word in words) == model(cat)
    assert_words_are_those_of(expected, words, .05)
    # 3. maps come with the mouse and the focus, and leave with them
    assert view.evaluate(VEIL) is None
    buttons = view.locator('.try-words button')
    buttons.nth(0).hover()
    first = view.evaluate(VEIL)
    buttons.nth(1).hover()
    second = view.evaluate(VEIL)
    assert first and second and first != second
    view.locator('.try-status').hover()
    assert view.evaluate(VEIL) is None
    buttons.nth(1).focus()
    assert view.evaluate(VEIL) == second
    view.keyboard.press('Escape')
    assert view.evaluate(VEIL) is None
    # 4. all of it from this site
    assert not view.errors
    assert len(view.asked) > 5 and all(url.startswith((shipped, 'blob:' + shipped)) for url in view.asked)


@pytest.mark.slow
def test_photographs_are_taken_from_example_paste_and_drop(view, shipped, tmp_path):
    view.goto(f'{shipped}/try.html')
    dark = Image.fromarray(noise(64, 48)//8)
    dark.save(tmp_path/'dark.png')
    send = '''async ([values, kind]) => {
      const data = new DataTransfer()
      data.items.add(new File([Uint8Array.from(values)], 'dark.png', {type: 'image/png'}))
      document.dispatchEvent(kind === 'paste' ? new ClipboardEvent('paste', {clipboardData: data})
                                              : new DragEvent('drop', {dataTransfer: data}))
    }'''
    captions = {}
    for kind in ('paste', 'drop'):
        view.evaluate(send, [list((tmp_path/'dark.png').read_bytes()), kind])
        view.wait_for_function("() => document.querySelector('.try-status').innerText.includes('seconds')")
        captions[kind] = view.inner_text('.try-words')
        view.evaluate("() => document.querySelector('.try-status').textContent = ''")
    assert captions['paste'] == captions['drop'] != ''
    if view.locator('.try-example').count() == 0: pytest.skip('scikit-image, which has the example, is not installed')
    view.click('.try-example')
    view.wait_for_function("() => document.querySelector('.try-status').innerText.includes('seconds')")
    assert view.inner_text('.try-words') != captions['paste']
    assert not view.errors
