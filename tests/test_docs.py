"The docs site: it builds, its links hold, and in a browser its pages fit, its search finds."
import functools
import http.server
import json
import re
import shutil
import subprocess
import sys
import threading

import pytest

pytestmark = pytest.mark.slow
CHROMIUM = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
needs_browser = pytest.mark.skipif(not CHROMIUM, reason='there is no Chromium here')
PAGES = ('index.html', 'tutorial.html', 'captioner.html', 'runs/phase2-mini.html', 'experiments.html', 'claims.html')


@pytest.fixture(scope='module')
def site(root):
    "Built as `make docs` does, which ends with a check of every link."
    done = subprocess.run([sys.executable, 'tools/build_docs.py'], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return root/'_docs'


@pytest.fixture(scope='module')
def server(site):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args): pass
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}'
    server.shutdown()


def in_browser(site, server, page, width, script)->str:
    "Open a page in a frame of some width, run a script with `frame` (its window) once it has loaded, and return what it passes to `done`."
    harness = site/'harness.html'
    harness.write_text(f'''<iframe id="f" src="{page}" style="width:{width}px;height:900px;border:0"></iframe><pre id="out"></pre><script>
const done = x => document.getElementById('out').textContent = JSON.stringify(x);
document.getElementById('f').onload = () => setTimeout(() => {{ const frame = document.getElementById('f').contentWindow; {script} }}, 1000);</script>''')
    try: dom = subprocess.run([CHROMIUM, '--headless', '--no-sandbox', '--disable-gpu', '--window-size=1600,1000', '--virtual-time-budget=12000', '--dump-dom', f'{server}/harness.html'], capture_output=True, text=True, timeout=120).stdout
    finally: harness.unlink()
    found = re.search(r'<pre id="out">(.+?)</pre>', dom)
    assert found, dom[-1000:]
    return json.loads(found[1].replace('&amp;', '&').replace('&lt;', '<').replace('&gt;', '>'))


def test_the_site_is_whole(site):
    names = {p.relative_to(site).as_posix() for p in site.rglob('*.html')}
    assert set(PAGES) <= names and len(names) > 50
    assert 'experiments/' in (site/'index.html').read_text() and any('Captioner' in e.get('title', '') + e.get('text', '') for e in json.loads((site/'search.json').read_text()))


@needs_browser
@pytest.mark.parametrize('page', PAGES)
@pytest.mark.parametrize('width', [1280, 400])
def test_pages_fit_their_width(site, server, page, width):
    found = in_browser(site, server, page, width, 'done([frame.document.documentElement.scrollWidth, frame.document.querySelector("h1").innerText, [...frame.document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src)])')
    assert found[0] <= width and found[1] and not found[2], found


@needs_browser
def test_search_finds(site, server):
    found = in_browser(site, server, 'index.html', 1280, '''const box = frame.document.querySelector('input[type=search], #quarto-search input, .aa-Input'); if (!box) { done('no box'); return; }
        box.focus(); box.value = 'pointing game'; box.dispatchEvent(new frame.Event('input', {bubbles: true})); setTimeout(() => done([...frame.document.querySelectorAll('a')].map(a => a.href).filter(h => h.includes('grounding'))), 2500);''')
    assert any('grounding.html' in link for link in found) and len(found) > 1, found


@needs_browser
def test_light_and_dark(site, server):
    found = in_browser(site, server, 'index.html', 1280, '''const look = () => frame.getComputedStyle(frame.document.body).backgroundColor; const light = look();
        const toggle = frame.document.querySelector('.quarto-color-scheme-toggle'); toggle.click(); setTimeout(() => done([light, look()]), 1500);''')
    assert found[0] != found[1], found
