"""Build the docs site from the notebooks with their saved outputs and from archived runs: nbdev's processing, rendered
by smalldocs. No Quarto, no network."""
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import yaml
from nbdev.config import get_config
from nbdev.doclinks import _build_modidx
from nbdev.quarto import refresh_quarto_yml
from nbdev.serve import proc_nbs

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT/'tools'))

from docs_compare import compare_link, compare_page, write_runs
from docs_finish import finish, prepare_pages
from docs_reference import command_page, show_names
from docs_runs import KEPT, children_of, live_frame, live_pages, run_list, run_page
from docs_try import prepare, with_link
from qvision.cli import app
from qvision.runs.archive import list_runs
from qvision.runs.verdicts import usual

PROC = ROOT/'_proc'
SITE = ROOT/'_docs'
BUILD = ROOT/'build' # what pages load and git ignores
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
    """Let references to a run's figures/ lead to where the site keeps them. Below a figure stands the page of its name
    that is shown live, where the run has one."""
    folder = f'experiments/{run.name}'
    pages = {page.stem.removeprefix('explain-'): page for page in live_pages(run)}
    for output in outputs:
        text = output.get('data', {}).get('text/markdown')
        if not text: continue
        text = ''.join(text)
        named = re.findall(r'\]\(figures/([\w-]+)\.png', text)
        frames = [live_frame(pages[name], folder) for name in named if name in pages]
        output.data['text/markdown'] = '\n\n'.join([text.replace('](figures/', f']({folder}/figures/'), *frames])
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


def add_reference()->None:
    "Show every name of the package by its own signature and parameters."
    for source in (ROOT/'nbs').rglob('*.ipynb'):
        code = '\n'.join(cell.source for cell in nbformat.read(source, 4).cells)
        module = re.search(r'(?m)^#\| ?default_exp (\S+)', code)
        page = PROC/source.relative_to(ROOT/'nbs')
        if module and page.is_file(): show_names(page, f'{get_config().lib_name}.{module[1]}')


def lead_outside(text:str)->str:
    "Make the links of a page of the repository lead to the site's results, and to the repository for other files."
    text = text.replace('](RESULTS.md)', '](results.html)')
    return re.sub(r'\]\((?!\w+:)([\w./-]+\.md)\)', rf']({get_config().git_url}/blob/main/\1)', text)


def write_generated(offer:bool)->None: # whether the site captions
    "Make the pages whose tables come from archived runs: home from README.md, and the results."
    for name, source in (('index', 'README.md'), ('results', 'RESULTS.md')):
        page = PROC/f'{name}.ipynb'
        nb = nbformat.read(page, 4)
        text = lead_outside((ROOT/source).read_text(encoding='utf8'))
        text = text[text.index('\n\n', text.index('\n> ')):] # title and summary are front matter already
        text = re.sub(r'(?m)^\[!\[.*\n', '', text) # badges are pictures from elsewhere
        if name == 'index' and offer: text = with_link(text)
        nb.cells = [nb.cells[0], nbformat.v4.new_markdown_cell(text.strip())]
        nbformat.write(nb, page)


def add_runs(runs)->None:
    "Write a page for each run, and the page that lists them."
    (PROC/'archive').mkdir(exist_ok=True)
    children = children_of(runs)
    pages = {page.stem for page in PROC.glob('*.ipynb')}
    for run in runs:
        compared = compare_link(run, runs)
        page = run_page(run, children.get(run.name, ()), get_config().git_url, pages, compared)
        (PROC/f'archive/{run.name}.md').write_text(page, encoding='utf8')
    (PROC/'experiments.md').write_text(run_list(runs), encoding='utf8')
    (PROC/'compare.md').write_text(compare_page(runs), encoding='utf8')


def with_sections(contents:list)->list: # of nbs/sidebar.yml
    "Return the sidebar: guides, commands, experiments, then the library's sections as one, and the archive."
    guides = [entry for entry in contents if isinstance(entry, str)]
    sections = [entry for entry in contents if not isinstance(entry, str)]
    experiments = [entry for entry in sections if entry['section'] == 'Experiments']
    library = [entry for entry in sections if entry not in experiments]
    archive = dict(section='Archive', contents=['experiments.md', 'compare.md', 'changelog.md'])
    guides = [guides[0], 'try.md', *guides[1:], 'command_line.md']
    return [*guides, *experiments, dict(section='Reference', contents=library), archive]


def add_pages(runs)->None:
    "Add the pages that are no notebooks: commands, archived runs, the changelog; and what stands on every page."
    add_runs(runs)
    notebooks = sorted((ROOT/'nbs').rglob('*.ipynb'))
    (PROC/'command_line.md').write_text(command_page(app, notebooks), encoding='utf8')
    changes = re.sub(r'^# .*\n', '', (ROOT/'CHANGELOG.md').read_text(encoding='utf8'))
    (PROC/'changelog.md').write_text('---\ntitle: Changelog\n---\n\n' + changes, encoding='utf8')
    sidebar = yaml.safe_load((PROC/'sidebar.yml').read_text(encoding='utf8'))
    contents = sidebar['website']['sidebar']['contents']
    sidebar['website']['sidebar']['contents'] = with_sections(contents)
    (PROC/'sidebar.yml').write_text(yaml.safe_dump(sidebar, sort_keys=False), encoding='utf8')
    settings = yaml.safe_load((PROC/'_quarto.yml').read_text(encoding='utf8'))
    shutil.copy(ROOT/'tools/docs/favicon.svg', PROC/'favicon.svg')
    config = get_config()
    footer = dict(left=f'{config.title} {config.version}, {config.license.upper()} licence',
                  right=f'[Repository]({config.git_url}) · [Changelog](/changelog.md)')
    settings['website'] |= {'favicon': 'favicon.svg', 'page-footer': footer}
    (PROC/'_quarto.yml').write_text(yaml.safe_dump(settings, sort_keys=False), encoding='utf8')


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


def copy_files(runs, folder:Path)->None:
    "Copy what the runs' pages show and link to: figures, captions, metrics."
    for run in runs:
        copy = folder/f'experiments/{run.name}'
        copy.mkdir(parents=True, exist_ok=True)
        if (run.path/'figures').is_dir(): shutil.copytree(run.path/'figures', copy/'figures', dirs_exist_ok=True)
        kept = [run.path/name for name in KEPT if (run.path/name).is_file()]
        for file in [*kept, *live_pages(run)]: shutil.copy(file, copy)


def build()->None:
    "Write the site into _docs."
    # 1. the notebooks as nbdev prepares them, in _proc
    refresh_quarto_yml()
    _build_modidx()
    proc_nbs(n_workers=2, force=True)
    add_reference()
    # 2. what the archive adds
    runs = list_runs()
    offer, try_page = prepare(BUILD/'try', BUILD/'npm')
    (PROC/'try.md').write_text(try_page, encoding='utf8')
    write_generated(bool(offer))
    show_what_was_run(runs)
    add_pages(runs)
    prepare_pages(PROC, {run.info['kind'] for run in runs})
    copy_files(runs, PROC)
    # 3. HTML
    subprocess.run([str(Path(sys.executable).parent/'smalldocs'), 'render', '_proc'], cwd=ROOT, check=True)
    rendered = next(folder for folder in (PROC/'_docs', PROC/'_site') if folder.is_dir())
    shutil.rmtree(SITE, ignore_errors=True)
    shutil.move(rendered, SITE)
    copy_files(runs, SITE)
    write_runs(runs, SITE)
    # 4. links
    rename(SITE)
    finish(SITE)
    if offer: shutil.copytree(BUILD/'try', SITE/'docs/try', dirs_exist_ok=True)
    drop_missing_places(SITE)
    if broken := broken_links(SITE): sys.exit('broken links:\n' + '\n'.join(broken))
    print(f'{len(list(SITE.rglob("*.html")))} pages in _docs; open _docs/index.html')


if __name__ == '__main__': build()
