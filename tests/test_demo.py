"The page of `qvision demo` in a browser: upload, caption, hover, compare, broken files, and that nothing leaves it."
import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from random import Random

import pytest

from qvision.model.captioner import Captioner

CHROMIUM = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
DRAWINGS = 'package:captioner-drawings'
MODELS = (DRAWINGS, 'package:captioner')
SECONDS = 120 # for a caption on a busy machine


def test_the_extra_that_is_missing_is_named(tmp_path):
    program = ("import sys\nimport importlib.util as u\nfind = u.find_spec\n"
               "u.find_spec = lambda name, *a: None if name == 'gradio' else find(name, *a)\n"
               "from qvision.cli import main\nsys.argv = ['qvision', 'demo']\nmain()")
    done = subprocess.run([sys.executable, '-c', program], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == "qvision: the demo needs gradio: pip install 'qvision[demo]'\n"


@contextmanager
def running(folder, *options):
    "Run `qvision demo` on a free port with a folder for temporary files; yield the process and its first line."
    program = [Path(sys.executable).parent/'qvision', 'demo', '--port', '0', '--model', DRAWINGS, *options]
    environment = os.environ | dict(TMPDIR=str(folder), QVISION_EXPERIMENTS=str(folder/'archive'))
    process = subprocess.Popen(program, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               text=True)
    try: yield process, process.stdout.readline()
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope='module')
def url(tmp_path_factory):
    pytest.importorskip('gradio', reason="gradio is not installed: pip install 'qvision[demo]'")
    with running(tmp_path_factory.mktemp('demo')) as (process, line): yield line.split(': ')[0]


@pytest.fixture(scope='module')
def browser():
    playwright = pytest.importorskip('playwright.sync_api', reason='playwright is not installed')
    if not CHROMIUM: pytest.skip('there is no Chromium here')
    camera = ['--use-fake-ui-for-media-stream', '--use-fake-device-for-media-stream']
    with playwright.sync_playwright() as program:
        browser = program.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox', *camera])
        yield browser
        browser.close()


@pytest.fixture
def page(browser, url):
    "The demo in a browser, which asks nobody else for anything, and whose scripts run."
    context = browser.new_context(permissions=['camera', 'clipboard-read', 'clipboard-write'])
    page = context.new_page()
    page.set_default_timeout(SECONDS*1000)
    asked, faults = [], []
    page.on('request', lambda request: asked.append(request.url))
    page.on('pageerror', lambda error: faults.append(str(error)))
    page.goto(url)
    page.locator('#first .hint').wait_for()
    yield page
    context.close()
    assert [each for each in asked if not each.startswith((url, 'data:', 'blob:', 'about:'))] == []
    assert not faults


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    "A drawing, what is left of another one after a bad transfer, and text that is called a picture."
    from qvision.data.synthetic.scenes import paint, sample_scene
    folder = tmp_path_factory.mktemp('files')
    drawings = [paint(sample_scene(Random(n)), Random(n))[0] for n in (2, 5)]
    drawings[0].save(folder/'drawing.png')
    drawings[1].save(folder/'cut.jpg')
    (folder/'cut.jpg').write_bytes((folder/'cut.jpg').read_bytes()[:900])
    (folder/'text.png').write_text('<html></html>')
    return folder


@pytest.fixture(scope='module')
def captions(files)->dict: # captioner -> its caption of the drawing
    return {name: Captioner.from_pretrained(name).caption(files/'drawing.png') for name in MODELS}


def upload(page, file): page.set_input_files('#picture input[type=file]', file)


def choose(page, control, option):
    page.locator(f'#{control} input').click()
    page.get_by_role('option', name=option, exact=True).click()


def text_of(page, place, text):
    "Wait until a place of the page has a text."
    page.locator(place, has_text=re.compile(f'^{re.escape(text)}$')).wait_for()


@pytest.mark.slow
def test_a_picture_its_caption_and_the_map_of_a_word(page, files, captions):
    upload(page, files/'drawing.png')
    text_of(page, '#first .caption', captions[DRAWINGS])
    explained = page.frame_locator('#first iframe.explained')
    words = explained.locator('button')
    shown = [word.split('\n') for word in words.all_inner_texts()]
    assert ' '.join(word for word, _ in shown) == captions[DRAWINGS]
    assert all(re.fullmatch(r'\d+%', probability) for _, probability in shown)
    assert page.locator('#other').is_hidden()
    seen = explained.locator('.map.on')
    assert seen.count() == 0
    words.nth(1).hover()
    assert seen.get_attribute('data-k') == '1'
    page.locator('#title').hover()
    assert seen.count() == 0 # the map leaves with the mouse
    words.nth(2).click()
    page.locator('#title').hover()
    assert seen.get_attribute('data-k') == '2' # unless it was clicked
    frame = page.locator('#first iframe.explained')
    needed = frame.evaluate('frame => frame.contentDocument.documentElement.scrollHeight')
    assert abs(frame.bounding_box()['height'] - needed) < 3 # nothing is cut, and no scroll bar in the page


@pytest.mark.slow
def test_two_captioners_side_by_side(page, files, captions):
    upload(page, files/'drawing.png')
    text_of(page, '#first .caption', captions[DRAWINGS])
    choose(page, 'second', 'package:captioner')
    text_of(page, '#other .caption', captions['package:captioner'])
    assert 'package:captioner, trained on photographs' in page.locator('#other .facts').inner_text()
    assert 'trained on drawings' in page.locator('#first .facts').inner_text()
    left, right = (page.locator(place).bounding_box() for place in ('#first', '#other'))
    assert left['x'] + left['width'] <= right['x']
    choose(page, 'second', 'none')
    page.locator('#other').wait_for(state='hidden')


@pytest.mark.slow
def test_method_decoding_and_a_folder(page, files, captions, tmp_path):
    captioner = Captioner.from_pretrained(DRAWINGS)
    captioner.save_pretrained(tmp_path/'own')
    upload(page, files/'drawing.png')
    text_of(page, '#first .caption', captions[DRAWINGS])
    choose(page, 'method', 'rollout')
    page.frame_locator('#first iframe').get_by_text('(rollout)').wait_for()
    choose(page, 'decoding', 'beams: five, the best counts')
    text_of(page, '#first .caption', captioner.caption(files/'drawing.png', 'beam'))
    for folder, kind in ((tmp_path/'own', 'facts'), (tmp_path/'nothing', 'said')):
        named = page.locator('#captioner input')
        named.fill(str(folder))
        named.press('Enter')
        page.locator(f'#first .{kind}', has_text=str(folder)).wait_for()


@pytest.mark.slow
def test_broken_files_get_a_sentence_and_the_next_picture_a_caption(page, files, captions):
    for file, sentence in (('cut.jpg', 'truncated'), ('text.png', 'not an image')):
        upload(page, files/file)
        page.locator('#first .said.error', has_text=f'This picture cannot be opened: {sentence}').wait_for()
        page.get_by_label('Remove Image').click()
        page.locator('#first .hint').wait_for()
    upload(page, files/'drawing.png')
    text_of(page, '#first .caption', captions[DRAWINGS])


COPY = """async bytes => {
    const picture = new Blob([Uint8Array.from(bytes)], {type: 'image/png'});
    await navigator.clipboard.write([new ClipboardItem({'image/png': picture})]);
}"""
CARRY = """bytes => {
    const carried = new DataTransfer();
    carried.items.add(new File([Uint8Array.from(bytes)], 'drawing.png', {type: 'image/png'}));
    return carried;
}"""


@pytest.mark.slow
def test_a_picture_is_pasted_and_another_dropped(page, files, captions):
    drawing = list((files/'drawing.png').read_bytes())
    page.evaluate(COPY, drawing)
    page.locator('#picture').get_by_label('Paste from clipboard').click()
    text_of(page, '#first .caption', captions[DRAWINGS])
    page.get_by_label('Remove Image').click()
    page.locator('#first .hint').wait_for()
    page.locator('#picture').get_by_label('Upload file').click()
    carried = page.evaluate_handle(CARRY, drawing)
    page.dispatch_event('#picture [aria-dropeffect=copy]', 'drop', dict(dataTransfer=carried))
    text_of(page, '#first .caption', captions[DRAWINGS])


@pytest.mark.slow
def test_an_example_and_the_camera(page):
    page.locator('#examples button').first.click()
    page.locator('#first .caption').wait_for()
    page.get_by_label('Remove Image').click()
    page.locator('#first .hint').wait_for()
    page.locator('#picture').get_by_label('Capture from camera').click()
    page.locator('#picture').get_by_text('Access Webcam').click()
    page.wait_for_function("() => document.querySelector('#picture video')?.videoWidth > 0") # it has a picture
    page.locator('#picture').get_by_label('capture photo').click()
    page.locator('#first .caption').wait_for()


@pytest.mark.slow
def test_it_ends_when_told_and_leaves_no_pictures(browser, files, tmp_path):
    pytest.importorskip('gradio', reason="gradio is not installed: pip install 'qvision[demo]'")
    with running(tmp_path, '--host', '127.0.0.1') as (process, line):
        assert re.fullmatch(rf'http://127\.0\.0\.1:\d+: captioner {DRAWINGS}, trained on drawings\n', line)
        page = browser.new_page()
        page.goto(line.split(': ')[0])
        upload(page, files/'drawing.png')
        page.locator('#first .caption').wait_for(timeout=SECONDS*1000)
        assert [path for path in tmp_path.rglob('drawing.png')]
        process.send_signal(signal.SIGTERM) # the page is open
        rest = process.communicate(timeout=60)
        page.close()
    assert (process.returncode, *rest) == (0, '', '')
    assert not [path for path in tmp_path.rglob('*') if path.is_file()]
