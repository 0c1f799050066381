"""Build the docs site from the notebooks with their saved outputs and from archived runs: nbdev's processing, rendered
by smalldocs. No Quarto, no network."""
import html
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

import nbformat
from nbdev.config import get_config
from nbdev.doclinks import _build_modidx
from nbdev.quarto import refresh_quarto_yml
from nbdev.serve import proc_nbs

from qvision.runs.archive import list_runs
from qvision.runs.compare import flatten
from qvision.runs.verdicts import usual
from qvision.tables import render_table

ROOT = Path(__file__).resolve().parent.parent
PROC = ROOT/'_proc'
SITE = ROOT/'_docs'
WIDGET = 'application/vnd.jupyter.widget-view+json'


def latest(runs)->dict: # kind -> its newest usual run
    "Return the run that each experiment's page shows."
    return {run.info['kind']: run for run in runs if usual(run)}


def clean(outputs:list)->list:
    "Return a cell's outputs without progress bars and warnings; what was printed in pieces is joined."
    kept = []
    for output in outputs:
        if output.get('name') == 'stderr' or WIDGET in output.get('data', {}): continue
        goes_on = kept and output.output_type == 'stream' and kept[-1].output_type == 'stream'
        if goes_on: kept[-1].text += output.text
        else: kept.append(output)
    return kept


def find_figures(outputs:list, run)->list:
    "Let references to a run's figures/ lead to where the site keeps them."
    for output in outputs:
        text = output.get('data', {}).get('text/markdown')
        if not text: continue
        output.data['text/markdown'] = ''.join(text).replace('](figures/', f'](experiments/{run.name}/figures/')
    return outputs


def show_what_was_run(runs)->None:
    "Make an experiment's page from its newest archived run: the same notebook, with outputs."
    for kind, run in latest(runs).items():
        page = PROC/f'{kind}.ipynb'
        done = run.path/f'{kind}.ipynb'
        if not (page.is_file() and done.is_file()): continue
        head = nbformat.read(page, 4).cells[0]
        nb = nbformat.read(done, 4)
        nb.cells = [cell for cell in nb.cells if 'injected-parameters' not in cell.metadata.get('tags', [])]
        for cell in nb.cells:
            if cell.cell_type == 'code': cell.outputs = find_figures(clean(cell.get('outputs', [])), run)
            else: cell.pop('outputs', None)
        origin = f'*Shown as archived in the run [{run.name}](archive/{run.name}.html).*'
        nb.cells = [head, nbformat.v4.new_markdown_cell(origin), *nb.cells[1:]]
        nbformat.write(nb, page)


def _without_links(block:re.Match)->str:
    return re.sub(r'\[(`[^`\n]+`)\]\(https?://[^)\s]+\)', r'\1', block[0])


def plain_signatures()->None:
    "Undo nbdev's links to names in signatures' comments, where a link is only its text."
    for page in PROC.rglob('*.ipynb'):
        nb = nbformat.read(page, 4)
        outputs = [output for cell in nb.cells for output in cell.get('outputs', [])]
        for data in (output.get('data', {}) for output in outputs):
            if 'text/markdown' not in data: continue
            data['text/markdown'] = re.sub(r'(?s)```python.*?```', _without_links, data['text/markdown'])
        nbformat.write(nb, page)


def write_generated()->None:
    "Make the pages whose tables come from archived runs: home from README.md, and the results."
    for name, source in (('index', 'README.md'), ('results', 'RESULTS.md')):
        page = PROC/f'{name}.ipynb'
        nb = nbformat.read(page, 4)
        text = (ROOT/source).read_text(encoding='utf8').replace('](RESULTS.md)', '](results.html)')
        text = text[text.index('\n\n', text.index('\n> ')):] # title and summary are front matter already
        nb.cells = [nb.cells[0], nbformat.v4.new_markdown_cell(text.strip())]
        nbformat.write(nb, page)


def as_text(value): # numbers stay what they are
    "Return a value from a run as Markdown that shows it: no tag in it is HTML, no quote ends an attribute."
    if isinstance(value, (int, float)): return value
    return html.escape(str(value)).replace('`', '&#96;').replace('[', '&#91;')


def as_code(command)->str:
    "Return a command as code, in which Markdown and HTML mean nothing."
    return '`' + str(command).replace('`', "'") + '`'


def _facts(run)->list[tuple]: # (name, value)
    info = run.info
    parent = as_text(info.get('parent') or '')
    if parent: parent = f'[{parent}]({quote(info["parent"])}.html)'
    memory = f'{info["peak_memory_mb"]} MB' if 'peak_memory_mb' in info else ''
    machine = as_text(f'{info["machine"]["processor"]}, {info["machine"]["cores"]} cores')
    return [('kind', as_text(info['kind'])),
            ('status', as_text(run.status)),
            ('continues or evaluates', parent),
            ('started', as_text(info['started'])),
            ('seconds', info.get('seconds', '')),
            ('peak memory', memory),
            ('machine', machine),
            ('data', as_text(info.get('data', {}).get('path', ''))),
            ('made again by', as_code(info['command']))]


def _short_metrics(run)->list[tuple]: # (name, value), the first 150, without long texts
    rows = []
    for name, value in flatten(run.metrics).items():
        if not isinstance(value, str) or len(value) < 200: rows.append((as_text(name), as_text(value)))
    return rows[:150]


def run_page(run)->str:
    "Return the page of a run: parameters, data, metrics, figures."
    figures = run.path/'figures'
    files = sorted(figures.glob('*.png')) + sorted(figures.glob('*.gif'))
    folder = f'../experiments/{quote(run.name)}/figures'
    images = [f'![{as_text(f.stem.replace("_", " "))}]({folder}/{quote(f.name)})' for f in files]
    params = [(as_text(name), as_text(value)) for name, value in run.params.items()]
    parts = [f'---\ntitle: {as_text(run.name)}\n---', render_table(_facts(run), ['', '']), *images,
             '## Parameters', render_table(params, ['parameter', 'value']),
             '## Metrics', render_table(_short_metrics(run), ['metric', 'value'])]
    return '\n\n'.join(parts) + '\n'


def _thumbnail(run)->str: # the run's first figure; nothing where it has none
    for file in sorted((run.path/'figures').glob('*.png')):
        source = f'experiments/{quote(run.name)}/figures/{quote(file.name)}'
        return f'<img src="{source}" alt="{html.escape(file.stem)}" width="220">'
    return ''


def write_run_pages(runs)->None:
    "Write a page for each run, and the page that lists them."
    (PROC/'archive').mkdir(exist_ok=True)
    for run in runs: (PROC/f'archive/{run.name}.md').write_text(run_page(run), encoding='utf8')
    rows = []
    for run in reversed(runs):
        data = as_text(run.info.get('data', {}).get('path', ''))
        seconds = f'{run.info.get("seconds", 0):.0f}'
        link = f'[{as_text(run.name)}](archive/{quote(run.name)}.html)'
        rows.append((link, as_text(run.info['kind']), as_text(run.status), data, seconds, _thumbnail(run)))
    head = ('---\ntitle: Archived runs\n'
            'description: Every run that is in the repository, newest first.\n---\n\n')
    text = head + render_table(rows, ['run', 'kind', 'status', 'data', 'seconds', '']) + '\n'
    (PROC/'experiments.md').write_text(text, encoding='utf8')


def add_pages(runs)->None:
    "Add the pages that are no notebooks: archived runs, the changelog."
    write_run_pages(runs)
    changes = re.sub(r'^# .*\n', '', (ROOT/'CHANGELOG.md').read_text(encoding='utf8'))
    (PROC/'changelog.md').write_text('---\ntitle: Changelog\n---\n\n' + changes, encoding='utf8')
    sidebar = (PROC/'sidebar.yml').read_text().rstrip()
    archive = ('\n      - section: Archive\n'
               '        contents:\n'
               '          - experiments.md\n'
               '          - changelog.md\n')
    (PROC/'sidebar.yml').write_text(sidebar + archive)


def rename(site:Path)->None:
    """Name pages as nbdev does, without their notebooks' numbers, and turn its links to symbols, which lead to the
    published site, into links inside the site."""
    pages = [page.relative_to(PROC).with_suffix('.html') for page in PROC.rglob('[0-9]*.ipynb')]
    names = {page.name: re.sub(r'^\d+_', '', page.name) for page in pages}
    published = f'{get_config().doc_host}{get_config().doc_baseurl}/'
    pattern = re.compile('|'.join(map(re.escape, names)))
    for path in [*site.rglob('*.html'), site/'search.json', site/'sitemap.xml']:
        text = pattern.sub(lambda m: names[m[0]], path.read_text(encoding='utf8'))
        up = '../'*(len(path.relative_to(site).parts) - 1)
        if path.suffix == '.html': text = text.replace(f'href="{published}', f'href="{up}')
        path.write_text(text, encoding='utf8')
    for page in pages:
        new = page.with_name(names[page.name])
        if (site/new).exists(): sys.exit(f'{page} and another page are both {new}: rename a notebook')
        (site/page).rename(site/new)


class Links(HTMLParser):
    "Where a page points to (`targets`), and the places in it that can be pointed at (`ids`)."
    def __init__(self, text):
        super().__init__()
        self.targets = []
        self.ids = set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.ids |= {found[k] for k in ('id', 'name') if found.get(k)}
        self.targets += [found[k] for k in ('href', 'src') if found.get(k)]


def drop_missing_places(site:Path)->None:
    "Let links to a method, which has no heading of its own, lead to its page."
    ids = {page.resolve(): Links(page.read_text(encoding='utf8')).ids for page in site.rglob('*.html')}

    def mended(link:re.Match, folder:Path)->str:
        page, place = link.groups()
        known = ids.get((folder/page).resolve())
        return f'href="{page}"' if known is not None and place not in known and '.' in place else link[0]

    for path in site.rglob('*.html'):
        text = path.read_text(encoding='utf8')
        fixed = re.sub(r'href="([\w./]+\.html)#([\w.]+)"', lambda link: mended(link, path.parent), text)
        if fixed != text: path.write_text(fixed, encoding='utf8')


def _destination(site:Path, page:Path, path:str)->Path:
    "Return the file that a link's path leads to."
    if not path: to = page
    elif path.startswith('/'): to = site/path.lstrip('/')
    else: to = page.parent/unquote(path)
    to = to.resolve()
    return to/'index.html' if to.is_dir() else to


def broken_links(site:Path)->list[str]:
    "Return links inside the site that lead nowhere, anchors included."
    pages = {page: Links(page.read_text(encoding='utf8')) for page in site.rglob('*.html')}
    broken = set()
    for page, links in pages.items():
        for target in links.targets:
            url = urlsplit(target)
            if url.scheme or url.netloc or target.startswith(('data:', 'javascript:')): continue
            to = _destination(site, page, url.path)
            link = f'{page.relative_to(site)} → {target}'
            if not to.is_file(): broken.add(link)
            elif url.fragment and to in pages and unquote(url.fragment) not in pages[to].ids:
                broken.add(f'{link} (no such place on the page)')
    return sorted(broken)


def copy_figures(runs, folder:Path)->None:
    "Copy the runs' figures to where their pages look for them."
    for run in runs:
        figures = run.path/'figures'
        copy = folder/f'experiments/{run.name}/figures'
        if figures.is_dir(): shutil.copytree(figures, copy, dirs_exist_ok=True)


def build()->None:
    "Write the site into _docs."
    # 1. the notebooks as nbdev prepares them, in _proc
    refresh_quarto_yml()
    _build_modidx()
    proc_nbs(n_workers=2, force=True)
    plain_signatures()
    # 2. what the archive adds
    runs = list_runs()
    write_generated()
    show_what_was_run(runs)
    add_pages(runs)
    copy_figures(runs, PROC)
    # 3. HTML
    subprocess.run([str(Path(sys.executable).parent/'smalldocs'), 'render', '_proc'], cwd=ROOT, check=True)
    rendered = next(folder for folder in (PROC/'_docs', PROC/'_site') if folder.is_dir())
    shutil.rmtree(SITE, ignore_errors=True)
    shutil.move(rendered, SITE)
    copy_figures(runs, SITE)
    # 4. links
    rename(SITE)
    drop_missing_places(SITE)
    if broken := broken_links(SITE): sys.exit('broken links:\n' + '\n'.join(broken))
    print(f'{len(list(SITE.rglob("*.html")))} pages in _docs; open _docs/index.html')


if __name__ == '__main__': build()
