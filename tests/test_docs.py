"The docs site: it builds, its links hold, and in a browser its pages fit, its search finds."
import functools
import html
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
PAGES = ('index.html', 'tutorial.html', 'model/captioner.html', 'archive/phase2-mini.html', 'experiments.html',
         'claims.html')
HARNESS = '''<iframe id="f" src="{page}" style="width:{width}px;height:900px;border:0"></iframe><pre id="out"></pre>
<script>
const done = x => document.getElementById('out').textContent = JSON.stringify(x)
document.getElementById('f').onload = () => setTimeout(() => {{
  const frame = document.getElementById('f').contentWindow
  {script}
}}, 1000)
</script>'''
FITS = '''const page = frame.document
  done([page.documentElement.scrollWidth, page.querySelector("h1").innerText,
        [...page.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src)])'''
SEARCH = '''const box = frame.document.querySelector('input[type=search], #quarto-search input, .aa-Input')
  if (!box) done('no box')
  else {
    box.focus()
    box.value = 'pointing game'
    box.dispatchEvent(new frame.Event('input', {bubbles: true}))
    const links = () => [...frame.document.querySelectorAll('a')].map(a => a.href)
    setTimeout(() => done(links().filter(link => link.includes('grounding'))), 2500)
  }'''
DARK = '''const look = () => frame.getComputedStyle(frame.document.body).backgroundColor
  const light = look()
  frame.document.querySelector('.quarto-color-scheme-toggle').click()
  setTimeout(() => done([light, look()]), 1500)'''


@pytest.fixture(scope='module')
def site(root):
    "Build the site as `make docs` does, which ends with a check of every link."
    done = subprocess.run([sys.executable, 'tools/build_docs.py'], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return root/'_docs'


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args): pass


@pytest.fixture(scope='module')
def server(site):
    handler = functools.partial(QuietHandler, directory=str(site))
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}'
    server.shutdown()


def in_browser(site, server, page, width, script):
    "Open a page in a frame of some width, run a script with `frame` (its window), and return what it passes to `done`."
    harness = site/'harness.html'
    harness.write_text(HARNESS.format(page=page, width=width, script=script))
    command = [CHROMIUM, '--headless', '--no-sandbox', '--disable-gpu', '--window-size=1600,1000',
               '--virtual-time-budget=12000', '--dump-dom', f'{server}/harness.html']
    try: dom = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
    finally: harness.unlink()
    found = re.search(r'<pre id="out">(.+?)</pre>', dom)
    assert found, dom[-1000:]
    return json.loads(html.unescape(found[1]))


def test_the_site_is_whole(site):
    names = {p.relative_to(site).as_posix() for p in site.rglob('*.html')}
    assert set(PAGES) <= names
    assert len(names) > 50
    assert 'experiments/' in (site/'index.html').read_text()
    entries = json.loads((site/'search.json').read_text())
    assert any('Captioner' in e.get('title', '') + e.get('text', '') for e in entries)


@needs_browser
@pytest.mark.parametrize('page', PAGES)
@pytest.mark.parametrize('width', [1280, 400])
def test_pages_fit_their_width(site, server, page, width):
    needed, title, broken_images = in_browser(site, server, page, width, FITS)
    assert needed <= width
    assert title
    assert not broken_images


@needs_browser
def test_search_finds(site, server):
    found = in_browser(site, server, 'index.html', 1280, SEARCH)
    assert len(found) > 1, found
    assert any('grounding.html' in link for link in found), found


@needs_browser
def test_light_and_dark(site, server):
    light, dark = in_browser(site, server, 'index.html', 1280, DARK)
    assert light != dark
