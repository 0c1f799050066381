"""The docs site: names, commands and runs are shown as they are; it builds, its links hold, and in a browser its pages
fit, nothing is cut, its search finds."""
import base64
import html
import io
import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image, ImageDraw

from qvision.cli import app
from qvision.commands.data import data_coco
from qvision.config import Preset, get_preset
from qvision.data.download import DownloadError
from qvision.runs.archive import get_run, list_runs

CHROMIUM = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
needs_browser = pytest.mark.skipif(not CHROMIUM, reason='there is no Chromium here')
PAGES = ('index.html', 'tutorial.html', 'model/captioner.html', 'archive/phase2-mini.html', 'experiments.html',
         'claims.html', 'command_line.html', 'config.html', 'training/phase.html', 'try.html')
ASKED = { # question -> pages of which one answers it, among the first three found
    'how to train on my own photos': ('index.html', 'tutorial.html'),
    'install': ('index.html',),
    'hallucination': ('evaluation/chair.html', 'bridges.html'),
    'try it in the browser': ('try.html',),
    'pointing game': ('evaluation/grounding.html',),
    '--num-captions': ('command_line.html',)}
HARNESS = '''<iframe id="f" src="{page}" style="width:{width}px;height:900px;border:0"></iframe><pre id="out"></pre>
<script>
const done = x => document.getElementById('out').textContent = JSON.stringify(x)
document.getElementById('f').onload = () => setTimeout(() => {{
  const frame = document.getElementById('f').contentWindow
  {script}
}}, 1000)
</script>'''
FITS = '''const page = frame.document
  const cut = [...page.querySelectorAll('pre')].filter(p => p.offsetParent && p.scrollWidth > p.clientWidth + 1)
  done([page.documentElement.scrollWidth, page.querySelector("h1").innerText,
        [...page.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src),
        cut.map(p => p.innerText.slice(0, 80))])'''
SEARCH = '''const input = frame.document.querySelector('.docs-search input')
  const list = frame.document.querySelector('.docs-search-results')
  const asked = {asked}
  const found = {{}}
  const ask = () => {{
    const question = asked.shift()
    const style = frame.getComputedStyle(list)
    if (!question) return done([found, style.color, style.backgroundColor])
    input.value = question
    input.dispatchEvent(new frame.Event('input', {{bubbles: true}}))
    setTimeout(() => {{
      found[question] = [...list.querySelectorAll('a')].map(a => a.getAttribute('href'))
      ask()
    }}, 700)
  }}
  input.focus()
  setTimeout(ask, 1500)'''
SIDEBAR = '''const links = [...frame.document.querySelectorAll('#quarto-sidebar a.sidebar-link')]
  done(links.filter(a => a.offsetParent).map(a => a.innerText))'''
SORT = '''const names = () => [...frame.document.querySelectorAll('.sortable tbody tr')].map(r => r.cells[0].innerText)
  const before = names()
  frame.document.querySelector('.sortable th button').click()
  done([before, names()])'''
COMPARE = '''const page = frame.document
  const texts = row => [...row.cells].map(cell => cell.innerText)
  const state = () => {
    const curves = page.querySelectorAll('figure.curve')
    return [frame.location.search, curves.length,
            [...curves[0].querySelectorAll('path')].map(path => path.getAttribute('class')),
            [...page.querySelectorAll('#compared-metrics tbody tr')].map(texts),
            page.getElementById('compared-told').innerText]
  }
  const first = state()
  page.querySelector('#compare button').click()
  setTimeout(() => done([first, state()]), 1000)'''
LIVE = '''const live = frame.document.querySelector('iframe.live')
  live.scrollIntoView()
  setTimeout(() => {
    const page = live.contentDocument
    const word = page.querySelector('.words button')
    const lit = () => [...page.querySelectorAll('.on')].map(element => element.tagName)
    const before = lit()
    word.dispatchEvent(new live.contentWindow.Event('mouseenter'))
    const during = lit()
    const told = page.getElementById('told').innerText
    word.dispatchEvent(new live.contentWindow.Event('mouseleave'))
    done([before, during, told, lit(), live.clientHeight - page.body.offsetHeight])
  }, 2000)'''
DARK = '''const look = () => frame.getComputedStyle(frame.document.body).backgroundColor
  const light = look()
  frame.document.querySelector('.quarto-color-scheme-toggle').click()
  setTimeout(() => done([light, look()]), 1500)'''


@pytest.fixture(scope='module')
def docs(load_tool): return load_tool('build_docs')


@pytest.fixture(scope='module')
def reference(docs): return sys.modules['docs_reference']


@pytest.fixture(scope='module')
def finish(docs): return sys.modules['docs_finish']


def test_classes_and_parameters_are_shown_as_such(reference):
    assert 'class DownloadError\n' in reference.describe(DownloadError, 'DownloadError')
    preset = reference.describe(Preset, 'Preset')
    assert 'class Preset(' in preset and 'def Preset' not in preset
    function = reference.describe(get_preset, 'get_preset')
    assert 'def get_preset(' in function and '**overrides' in function
    assert '<td>one of <code>presets</code></td>' in function
    command = reference.describe(data_coco, 'data_coco')
    assert '<td>Folder to write to.</td>' in command and '<code>list[str]</code>' in command
    for shown in (preset, function, command):
        assert not re.search('VAR_KEYWORD|VAR_POSITIONAL|Annotated|Call self as', shown)


def test_what_a_docstring_says_survives(reference):
    assert reference.prose('with <START> and *args, a_b') == r'with &lt;START&gt; and \*args, a\_b'
    assert reference.prose('`<START> a_b` is code') == '`<START> a_b` is code'
    example = reference.describe(data_coco, 'data_coco')
    assert '--split' in example and '–' not in example


def test_dashes_stay_in_the_settings(root):
    assert 'from: markdown-smart' in (root/'nbs/_quarto.yml').read_text()


def test_every_command_and_option_has_its_row(reference, root):
    import typer.main
    page = reference.command_page(app, [root/'nbs/90_cli.ipynb'])
    commands = list(reference._commands(typer.main.get_command(app), 'qvision'))
    assert len(commands) > 10
    for path, command in commands:
        assert f'## {path}\n' in page
        for param in command.params:
            if param.name == 'help': continue
            said = param.opts[0] if param.opts[0].startswith('-') else param.name.upper()
            assert f'<code>{said}</code>' in page, (path, said)
    assert '$ qvision params --frozen-ratio 0.7' in page # a session from the notebook


def test_tests_are_folded_and_figures_told(finish):
    picture = new_output('display_data', {'image/png': 'x', 'text/plain': '<Figure>'})
    nb = new_notebook(cells=[
        new_code_cell('import os'), new_code_cell('from pathlib import Path'), new_code_cell('assert os'),
        new_code_cell('print(1)', outputs=[new_output('stream', text='1')]),
        new_markdown_cell('## Maps\nThe [map](x.html) of `boat`: where it lies. More.'),
        new_code_cell('plot()', outputs=[picture]),
        new_code_cell("ax.set_title('Fewer words, fewer errors')", outputs=[picture])])
    finish.fold_and_tell(nb)
    first, second, check, example, _, said, titled = (cell.source for cell in nb.cells)
    assert '#|' not in first + example
    assert 'code-summary: "Imports"' in second and 'code-summary: "Tests"' in check
    assert 'fig-alt: "The map of boat"' in said
    assert 'fig-alt: "Fewer words, fewer errors"' in titled


def _png(image:Image.Image)->str:
    data = io.BytesIO()
    image.save(data, 'PNG')
    return f'data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}'


def test_plots_are_told_from_pictures(finish):
    plot = Image.new('RGB', (600, 300), 'white')
    ImageDraw.Draw(plot).line([(20, 280), (580, 20)], '#0072B2', 3)
    photograph = Image.linear_gradient('L').convert('RGB')
    page = f'<main><img alt="a" src="{_png(plot)}"><img alt="b" src="{_png(photograph)}"></main>'
    shown = finish.mark_pictures(page, Path('page.html'))
    assert '<span class="figure-scroll"><img class="img-fluid plot" width="600" height="300"' in shown
    assert '<img class="img-fluid picture" width="256"' in shown


def test_nothing_is_fetched_from_elsewhere(finish):
    css = '@import url(https://fonts.example/css2?family=A:wght@300;400;700&display=swap);body{color:red}'
    assert finish.without_imports(css) == 'body{color:red}'


def test_sections_are_what_search_knows(finish):
    page = ('<title>Tutorial – qvision</title><meta name="description" content="Go."><main><h1>Tutorial</h1>'
            '<p>First.</p><h2 data-anchor-id="two">Two &amp; three</h2><pre><code>pip install .</code></pre></main>'
            '<p>not this</p>')
    top, section = finish.search_entries('tutorial.html', page)
    assert (top['href'], top['title'], top['description']) == ('tutorial.html', 'Tutorial', 'Go.')
    assert (section['href'], section['section']) == ('tutorial.html#two', 'Two & three')
    assert section['text'] == 'pip install .'
    assert section['place'] == 'Guide'


def test_a_run_begins_with_its_numbers_and_names_its_family(docs):
    children = docs.children_of(list_runs())
    page = docs.run_page(get_run('phase2-mini'), children['phase2-mini'], 'https://example.org/q', {'train'})
    first, facts = page.split('## The run')
    assert 'validation_loss' in first and '[train](../train.html)' in first and 'train.ipynb' in first
    assert '[phase1-mini](phase1-mini.html)' in facts and '[phase2-mini-val2017](phase2-mini-val2017.html)' in facts
    assert 'captions.tsv' in docs.run_page(get_run('phase2-mini-val2017'))
    row = next(line for line in docs.run_list(list_runs()).splitlines() if '[phase2-mini-val2017]' in line)
    assert 'drawings' in row and 'CIDEr 2.576' in row and '2026-11-26' in row


def test_what_a_comparison_shows_is_what_was_archived(docs):
    run = get_run('phase2-mini')
    shown = sys.modules['docs_compare'].shown_of(run)
    loss = shown['curves']['loss']
    assert loss['axis'] == 'step'
    assert loss['points'] == [[row['step'], row['loss']] for row in run.metrics['log'] if 'loss' in row]
    assert shown['metrics']['validation_loss'] == run.metrics['validation_loss']
    assert shown['parameters']['phase'] == 2
    assert shown['facts']['parent'] == 'phase1-mini'
    parts = sys.modules['docs_compare'].curves(get_run('mini-pretrain').metrics)
    assert {'encoder: loss', 'language model: loss'} <= set(parts)
    log = [dict(step=1, loss=-.1, reward=.2)] # self-critical: another loss than cross-entropy, and none for one picture
    assert set(sys.modules['docs_compare'].curves(dict(log=log))) == {'self-critical loss', 'reward'}


def test_a_run_is_compared_with_its_parent_or_one_of_its_split(docs):
    compare = sys.modules['docs_compare']
    runs = list_runs()
    assert compare.beside(get_run('phase2-mini'), runs).name == 'phase1-mini'
    other = compare.beside(get_run('phase2-mini-val2017'), runs)
    assert (other.info['kind'], other.metrics['split']) == ('evaluate', 'val2017')
    assert '../compare.html?a=phase1-mini&b=phase2-mini' in compare.compare_link(get_run('phase2-mini'), runs)
    assert compare.compare_link(get_run('phase2-mini'), [get_run('phase2-mini')]) == ''
    page = compare.compare_page(runs)
    for run in runs: assert page.count(f'<option value="{run.name}"') == 2, run.name
    assert page.count(' selected>') == 2


def test_pages_of_a_run_are_shown_live(docs, tmp_path):
    run = get_run('phase2-mini')
    shutil.copytree(run.path, tmp_path/'own')
    own = get_run('own', tmp_path)
    assert 'iframe' not in docs.run_page(own)
    for name in ('explain-loss.html', 'explain-coffee.html'): (own.path/name).write_text('<p>A page</p>')
    page = docs.run_page(own)
    assert page.count('<iframe class="live" src="../experiments/own/explain-') == 2
    outputs = [new_output('display_data', {'text/markdown': '![a](figures/loss.png)'}),
               new_output('display_data', {'text/markdown': '![a](figures/other.png)'})]
    first, second = (output.data['text/markdown'] for output in docs.find_figures(outputs, own))
    assert first.startswith('![a](experiments/own/figures/loss.png)')
    assert '<iframe class="live" src="experiments/own/explain-loss.html"' in first
    assert second == '![a](experiments/own/figures/other.png)'
    docs.copy_files([own], tmp_path/'site')
    assert (tmp_path/'site/experiments/own/explain-coffee.html').is_file()


def test_links_of_the_readme_lead_somewhere_from_the_site(docs, root):
    text = docs.lead_outside('[results](RESULTS.md), [rules](tools/README.md), [a](https://x.org/b.md)')
    outside = f'{docs.get_config().git_url}/blob/main/tools/README.md'
    assert text == f'[results](results.html), [rules]({outside}), [a](https://x.org/b.md)'
    for page in ('README.md', 'RESULTS.md'): # or the site's check of links fails, which takes minutes
        assert not re.search(r'\]\((?!\w+:)[^)]+\.md\)', docs.lead_outside((root/page).read_text(encoding='utf8')))


def test_no_two_pages_have_one_title(root):
    heads = [nbformat.read(path, 4).cells[0].source.splitlines()[0].lower() for path in (root/'nbs').rglob('*.ipynb')]
    assert [title for title, n in Counter(heads).items() if n > 1] == []


@pytest.fixture(scope='module')
def site(root):
    "Build the site as `make docs` does, which ends with a check of every link."
    done = subprocess.run([sys.executable, 'tools/build_docs.py'], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return root/'_docs'


@pytest.fixture(scope='module')
def server(site, serve): return serve(site)


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


@pytest.mark.slow
def test_the_site_is_whole(site):
    names = {p.relative_to(site).as_posix() for p in site.rglob('*.html')}
    assert set(PAGES) <= names
    assert len(names) > 50
    assert 'experiments/' in (site/'index.html').read_text()
    entries = json.loads((site/'search.json').read_text())
    assert any('Captioner' in e.get('title', '') + e.get('text', '') for e in entries)


@pytest.mark.slow
def test_pages_say_what_they_are(site):
    for page in site.rglob('*.html'):
        text = page.read_text()
        if '<main' not in text: continue
        name = page.relative_to(site)
        assert not re.search('VAR_KEYWORD|:Annotated|Call self as a function', text), name
        assert all(re.search(r'\balt="[^"]', tag) for tag in re.findall('<img[^>]*>', text)), name
        assert 'class="skip-link"' in text and 'rel="icon"' in text and '<footer' in text, name
    assert not any('googleapis' in css.read_text() for css in site.rglob('*.css'))


@pytest.mark.slow
@needs_browser
@pytest.mark.parametrize('page', PAGES)
@pytest.mark.parametrize('width', [1280, 400])
def test_pages_fit_their_width(site, server, page, width):
    needed, title, broken_images, cut = in_browser(site, server, page, width, FITS)
    assert needed <= width
    assert title
    assert not broken_images
    assert not cut


def luminance(colour:str)->float: # 'rgb(1, 2, 3)'
    parts = [int(n)/255 for n in re.findall(r'\d+', colour)[:3]]
    linear = [c/12.92 if c <= .04045 else ((c + .055)/1.055)**2.4 for c in parts]
    return .2126*linear[0] + .7152*linear[1] + .0722*linear[2]


@pytest.mark.slow
@needs_browser
def test_search_answers_questions_and_can_be_read(site, server):
    script = SEARCH.format(asked=json.dumps(list(ASKED)))
    found, ink, paper = in_browser(site, server, 'index.html', 1280, script)
    for question, pages in ASKED.items():
        first = [link.split('#')[0].removeprefix('./') for link in found[question][:3]]
        assert set(first) & set(pages), (question, found[question])
    low, high = sorted((luminance(ink), luminance(paper)))
    assert (high + .05)/(low + .05) >= 4.5


@pytest.mark.slow
@needs_browser
def test_the_sidebar_is_open_where_the_reader_is(site, server):
    shown = in_browser(site, server, 'model/captioner.html', 1280, SIDEBAR)
    assert 'Captioner' in shown and 'Greedy decoding with shared prefixes' not in shown
    assert len(shown) == len(set(shown)) < 40


@pytest.mark.slow
@needs_browser
def test_runs_can_be_sorted(site, server):
    before, after = in_browser(site, server, 'experiments.html', 1280, SORT)
    assert after != before and after == sorted(after, key=str.lower)


@pytest.mark.slow
@needs_browser
def test_light_and_dark(site, server):
    light, dark = in_browser(site, server, 'index.html', 1280, DARK)
    assert light != dark


@pytest.mark.slow
@needs_browser
def test_two_runs_are_compared(site, server):
    first, swapped = in_browser(site, server, 'compare.html?a=phase1-mini&b=phase2-mini', 1280, COMPARE)
    address, curves, lines, rows, told = first
    assert address == '?a=phase1-mini&b=phase2-mini'
    assert curves >= 2
    assert lines == ['line-a', 'line-b']
    assert told == ''
    losses = [get_run(name).metrics['validation_loss'] for name in ('phase1-mini', 'phase2-mini')]
    found = next(row for row in rows if row[0] == 'validation_loss')
    assert [float(value) for value in found[1:3]] == pytest.approx(losses, abs=1e-3)
    assert found[3].startswith('−')
    assert swapped[0] == '?a=phase2-mini&b=phase1-mini'
    back = next(row for row in swapped[3] if row[0] == 'validation_loss')
    assert back[1:3] == found[2:0:-1]
    missing, _ = in_browser(site, server, 'compare.html?a=no-such-run', 1280, COMPARE)
    assert 'no-such-run' in missing[4]


@pytest.mark.slow
@needs_browser
@pytest.mark.parametrize('width', [1280, 400])
def test_the_comparison_fits_its_width(site, server, width):
    both = 'compare.html?a=photo-mlp-mixed-phase2&b=photo-mlp-mixed-phase3'
    needed, _, _, cut = in_browser(site, server, both, width, FITS)
    assert needed <= width
    assert not cut


@pytest.mark.slow
@needs_browser
def test_a_word_shows_its_map_until_the_mouse_leaves(site, server):
    page = next((page for page in site.glob('archive/*.html') if 'explain-' in page.read_text()), None)
    if page is None: pytest.skip('no archived gallery has pages yet')
    before, during, told, after, room = in_browser(site, server, f'archive/{page.name}', 1280, LIVE)
    assert before == after == []
    assert during == ['BUTTON', 'FIGURE', 'CANVAS']
    assert 'probability' in told
    assert 0 <= room < 12 # nothing is cut
