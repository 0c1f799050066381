"The docs site from the notebooks with their saved outputs and from archived runs: nbdev's processing, rendered by smalldocs. No Quarto, no network."
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
from nbdev.config import get_config
from nbdev.doclinks import _build_modidx
from nbdev.quarto import refresh_quarto_yml
from nbdev.serve import proc_nbs

from qvision.claims import usual
from qvision.runs import flatten, list_runs

ROOT = Path(__file__).resolve().parent.parent
PROC, SITE = ROOT/'_proc', ROOT/'_docs'


def latest(runs)->dict: # kind -> its newest usual run
    return {r.info['kind']: r for r in runs if usual(r)}


def show_what_was_run(runs)->None:
    "An experiment's page is its newest archived run: the same notebook, with outputs."
    for kind, run in latest(runs).items():
        page, done = PROC/f'{kind}.ipynb', run.path/f'{kind}.ipynb'
        if not (page.is_file() and done.is_file()): continue
        head, nb = nbformat.read(page, 4).cells[0], nbformat.read(done, 4)
        nb.cells = [c for c in nb.cells if 'injected-parameters' not in c.metadata.get('tags', [])]
        for c in nb.cells: c.outputs = clean(c.get('outputs', [])) if c.cell_type == 'code' else None
        for c in nb.cells:
            if c.cell_type != 'code': del c['outputs']
        nb.cells[0] = nbformat.v4.new_markdown_cell(f'*Shown as archived in the run [{run.name}](runs/{run.name}.html).*'); nb.cells.insert(0, head)
        nbformat.write(nb, page)


def plain_signatures()->None:
    "nbdev links names in a signature's comments too, where a link is only its text."
    for page in PROC.rglob('*.ipynb'):
        nb = nbformat.read(page, 4)
        for c in nb.cells:
            for data in (o['data'] for o in c.get('outputs', []) if 'text/markdown' in o.get('data', {})):
                data['text/markdown'] = re.sub(r'(?s)```python.*?```', lambda block: re.sub(r'\[(`[^`\n]+`)\]\(https?://[^)\s]+\)', r'\1', block[0]), data['text/markdown'])
        nbformat.write(nb, page)


def write_home()->None:
    "The home page is the README, tables of archived runs included."
    page = PROC/'index.ipynb'; nb = nbformat.read(page, 4)
    text = (ROOT/'README.md').read_text(encoding='utf8'); text = text[text.index('\n\n', text.index('\n> ')):] # title and summary are front matter already
    nb.cells = [nb.cells[0], nbformat.v4.new_markdown_cell(text.strip())]; nbformat.write(nb, page)


def clean(outputs:list)->list: # without progress bars and warnings; what was printed in pieces is one
    kept = []
    for o in outputs:
        if o.get('name') == 'stderr' or 'application/vnd.jupyter.widget-view+json' in o.get('data', {}): continue
        if kept and o.output_type == 'stream' and kept[-1].output_type == 'stream': kept[-1].text += o.text
        else: kept.append(o)
    return kept


def table(header:list, rows:list)->str:
    cell = lambda v: str(v).replace('|', '\\|').replace('\n', ' ')
    return '\n'.join('| ' + ' | '.join(map(cell, r)) + ' |' for r in (header, ['---']*len(header), *rows))


def plain(value): return f'{value:.4g}' if isinstance(value, float) else value


def run_page(run)->str:
    "Parameters, data, metrics, figures of a run."
    info = run.info; figures = sorted((run.path/'figures').glob('*.png')) + sorted((run.path/'figures').glob('*.gif'))
    facts = [('kind', info['kind']), ('status', run.status), ('continues or evaluates', f'[{info["parent"]}]({info["parent"]}.html)' if info.get('parent') else ''), ('started', info['started']), ('seconds', info.get('seconds', '')),
             ('peak memory', f'{info["peak_memory_mb"]} MB' if 'peak_memory_mb' in info else ''), ('machine', f'{info["machine"]["processor"]}, {info["machine"]["cores"]} cores'), ('data', info.get('data', {}).get('path', '')), ('made again by', f'`{info["command"]}`')]
    metrics = [(k, plain(v)) for k, v in flatten(run.metrics).items() if not isinstance(v, str) or len(v) < 200][:150]
    return '\n\n'.join([f'---\ntitle: {run.name}\n---', table(['', ''], facts), *(f'![{f.stem.replace("_", " ")}](../experiments/{run.name}/figures/{f.name})' for f in figures),
                        '## Parameters', table(['parameter', 'value'], [(k, plain(v)) for k, v in run.params.items()]), '## Metrics', table(['metric', 'value'], metrics)]) + '\n'


def write_run_pages(runs)->None:
    (PROC/'runs').mkdir(exist_ok=True)
    for run in runs: (PROC/f'runs/{run.name}.md').write_text(run_page(run), encoding='utf8')
    thumbnail = lambda r: next((f'<img src="experiments/{r.name}/figures/{f.name}" alt="{f.stem}" width="220">' for f in sorted((r.path/'figures').glob('*.png'))), '')
    rows = [(f'[{r.name}](runs/{r.name}.html)', r.info['kind'], r.status, r.info.get('data', {}).get('path', ''), f'{r.info.get("seconds", 0):.0f}', thumbnail(r)) for r in reversed(runs)]
    (PROC/'experiments.md').write_text('---\ntitle: Archived runs\ndescription: Every run that is in the repository, newest first.\n---\n\n' + table(['run', 'kind', 'status', 'data', 'seconds', ''], rows) + '\n', encoding='utf8')


def add_pages(runs)->None:
    "What the notebooks are not: archived runs, the changelog."
    write_run_pages(runs)
    (PROC/'changelog.md').write_text('---\ntitle: Changelog\n---\n\n' + re.sub(r'^# .*\n', '', (ROOT/'CHANGELOG.md').read_text(encoding='utf8')), encoding='utf8')
    sidebar = (PROC/'sidebar.yml').read_text().rstrip()
    (PROC/'sidebar.yml').write_text(sidebar + '\n      - section: Archive\n        contents:\n          - experiments.md\n          - changelog.md\n')


def rename(site:Path)->None:
    "nbdev names a page without its notebook's number, and links symbols to the published site: do the same here, with links inside the site."
    names = {}
    for page in PROC.glob('[0-9]*.ipynb'): names[f'{page.stem}.html'] = re.sub(r'^\d+[a-z]?_', '', page.stem) + '.html'
    published = f'{get_config().doc_host}{get_config().doc_baseurl}/'
    pattern = re.compile('|'.join(map(re.escape, names)))
    for path in [*site.rglob('*.html'), site/'search.json', site/'sitemap.xml']:
        text = pattern.sub(lambda m: names[m[0]], path.read_text(encoding='utf8'))
        if path.suffix == '.html': text = text.replace(f'href="{published}', 'href="' + '../'*(len(path.relative_to(site).parts) - 1))
        path.write_text(text, encoding='utf8')
    for old, new in names.items():
        if (site/new).exists() and new not in names: sys.exit(f'{old} and another page are both {new}: rename a notebook')
        (site/old).rename(site/new)


def drop_missing_places(site:Path)->None:
    "A method has no heading of its own: links to one lead to its page."
    ids = {p.name: Links(p.read_text(encoding='utf8')).ids for p in site.glob('*.html')}
    for path in site.rglob('*.html'):
        text = path.read_text(encoding='utf8')
        fixed = re.sub(r'href="((?:\.\./)*)(\w+\.html)#([\w.]+)"', lambda m: m[0] if m[3] in ids.get(m[2], {m[3]}) or '.' not in m[3] else f'href="{m[1]}{m[2]}"', text)
        if fixed != text: path.write_text(fixed, encoding='utf8')


class Links(HTMLParser):
    "Where a page points to, and what it can be pointed at."
    def __init__(self, text): super().__init__(); self.targets, self.ids = [], set(); self.feed(text)
    def handle_starttag(self, tag, attrs):
        found = dict(attrs); self.ids |= {found[k] for k in ('id', 'name') if found.get(k)}
        self.targets += [found[k] for k in ('href', 'src') if found.get(k)]


def broken_links(site:Path)->list[str]:
    "Links inside the site that lead nowhere, anchors included."
    pages, out = {p: Links(p.read_text(encoding='utf8')) for p in site.rglob('*.html')}, []
    for page, links in pages.items():
        for target in links.targets:
            url = urlsplit(target)
            if url.scheme or url.netloc or target.startswith(('data:', 'javascript:')): continue
            to = (page if not url.path else site/url.path.lstrip('/') if url.path.startswith('/') else page.parent/unquote(url.path)).resolve()
            if to.is_dir(): to = to/'index.html'
            if not to.is_file(): out.append(f'{page.relative_to(site)} → {target}')
            elif url.fragment and to in pages and unquote(url.fragment) not in pages[to].ids: out.append(f'{page.relative_to(site)} → {target} (no such place on the page)')
    return sorted(set(out))


if __name__ == '__main__':
    refresh_quarto_yml(); _build_modidx()
    proc_nbs(n_workers=2, force=True)
    plain_signatures()
    runs = list_runs()
    write_home(); show_what_was_run(runs); add_pages(runs)
    for run in runs:
        if (run.path/'figures').is_dir(): shutil.copytree(run.path/'figures', PROC/f'experiments/{run.name}/figures', dirs_exist_ok=True)
    subprocess.run([str(Path(sys.executable).parent/'smalldocs'), 'render', '_proc'], cwd=ROOT, check=True)
    shutil.rmtree(SITE, ignore_errors=True); shutil.move(next(p for p in (PROC/'_docs', PROC/'_site') if p.is_dir()), SITE)
    for run in runs:
        if (run.path/'figures').is_dir(): shutil.copytree(run.path/'figures', SITE/f'experiments/{run.name}/figures', dirs_exist_ok=True)
    rename(SITE); drop_missing_places(SITE)
    if broken := broken_links(SITE): sys.exit('broken links:\n' + '\n'.join(broken))
    print(f'{len(list(SITE.rglob("*.html")))} pages in _docs; open _docs/index.html')
