"""Finish the docs site's rendered pages: no third-party fonts, a skip link, alternative texts, plots that a dark page
may turn round, and an index that answers questions."""
import ast
import base64
import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import nbformat
import numpy as np
from PIL import Image

OWN = Path(__file__).resolve().parent/'docs'
SKIP = '<a class="skip-link" href="#quarto-document-content">Skip to the content</a>'
SEARCH = ('<div class="docs-search" id="quarto-search" role="search">'
          '<input type="search" class="form-control form-control-sm" placeholder="Search (press /)" '
          'aria-label="Search the documentation" autocomplete="off" role="combobox" aria-expanded="false" '
          'aria-controls="docs-search-results">'
          '<div class="docs-search-results" id="docs-search-results" role="listbox" aria-label="Sections found" '
          'hidden></div></div>')
KEYWORDS = { # what people ask -> the place that answers
    'try.html': 'try demo online browser web in the browser without installing caption my photo',
    'index.html#caption-a-photograph': 'install installation pip quick start getting started caption photo',
    'index.html#your-data-your-experiments': 'train on my own photos own data custom dataset fine-tune',
    'index.html#how-fast-is-it': 'speed latency benchmark seconds',
    'index.html#how-good-is-it': 'quality accuracy scores compared BLIP CIDEr',
    'tutorial.html': 'train on own photos own pictures custom dataset getting started example',
    'howto.html#train-on-coco': 'train full COCO GPU large',
    'howto.html#gpus-and-other-machines': 'cuda mps apple silicon multiple GPU',
    'evaluation/chair.html': 'hallucination hallucinated objects CHAIR',
    'bridges.html': 'hallucination compare bridges',
    'compare.html': 'compare two runs side by side overlay loss curves difference',
    'command_line.html': 'command line reference options flags cli help'}
QUIET = ('script', 'style', 'nav', 'button', 'summary', 'select', 'noscript') # what is in them is no text of a page
SCRIPTS = {'tables.js': 'sortable', 'compare.js': 'id="compare"', 'live.js': 'class="live"'} # of pages with such a mark
PLACES = {'experiments.html': 'Archive', 'compare.html': 'Archive', 'archive': 'Run', 'changelog.html': 'Archive'}
LIBRARY = ('config.html', 'tables.html', 'files.html', 'cli.html') # modules outside folders
GUIDES = ('index.html', 'try.html', 'tutorial.html', 'howto.html', 'results.html', 'command_line.html')


# before rendering

def _words(text:str)->str: # of Markdown
    "Return Markdown as plain words."
    text = re.sub(r'!?\[([^\]]*)\]\([^)]*\)', r'\1', text)
    return ' '.join(re.sub(r'[`*#>|]', '', text).split())


def alternative(code:str, before:str)->str: # a cell's code, and the prose before it
    "Return what a figure shows in words: its title where the code has it as plain text, else what was said of it."
    for title in re.findall(r"(?:suptitle|set_title|title)\s*[(=]\s*'([^'{}\n]{12,})'", code): return title
    said = _words('\n'.join(line for line in before.splitlines() if not line.startswith('#')))
    first = re.split(r'(?<=[.:])\s', said)[0].rstrip(':')
    if len(first) > 160: first = first[:157].rsplit(' ', 1)[0] + ' …'
    return first or _words(before.splitlines()[0] if before else '') or 'A figure'


def is_test(cell)->bool:
    "Return whether a cell checks things and shows nothing."
    return not cell.get('outputs') and bool(re.search(r'(?m)^\s*(assert |test_\w+\()', cell.source))


def is_imports(cell)->bool:
    "Return whether a cell only imports."
    if cell.get('outputs'): return False
    try: lines = ast.parse(cell.source).body
    except SyntaxError: return False
    return bool(lines) and all(isinstance(line, (ast.Import, ast.ImportFrom)) for line in lines)


def _with_options(cell, **options):
    lines = [f'#| {name.replace("_", "-")}: {json.dumps(value, ensure_ascii=False)}' for name, value in options.items()]
    cell.source = '\n'.join([*lines, cell.source])


def fold_and_tell(nb, fold_all:bool=False)->None: # a notebook of a page; on an experiment's page all code is folded
    "Fold a page's tests and all imports but the first, and give its figures alternative texts."
    before = ''
    imported = False
    for cell in nb.cells:
        if cell.cell_type != 'code':
            before = cell.source
            continue
        if 'show_doc(' in cell.source: continue
        options = {}
        if is_test(cell): options = dict(code_fold='true', code_summary='Tests')
        elif is_imports(cell):
            if imported or fold_all: options = dict(code_fold='true', code_summary='Imports')
            imported = True
        elif fold_all: options = dict(code_fold='true', code_summary='Code')
        pictures = [kind for output in cell.get('outputs', []) for kind in output.get('data', {})
                    if kind.startswith('image/')]
        if pictures: options |= dict(fig_alt=alternative(cell.source, before), fig_align='left')
        if options: _with_options(cell, **options)


def prepare_pages(folder:Path, experiments)->None: # names of notebooks whose code is folded
    "Do `fold_and_tell` for every notebook of a folder."
    for page in folder.rglob('*.ipynb'):
        nb = nbformat.read(page, 4)
        fold_and_tell(nb, page.parent == folder and page.stem in experiments)
        nbformat.write(nb, page)


# after rendering

def is_plot(image:Image.Image)->bool:
    "Return whether a picture is ink on white, which may be turned round on a dark page."
    pixels = np.asarray(image.convert('RGB').resize((64, 64), Image.NEAREST)).reshape(-1, 3).astype(int)
    white = (pixels.min(1) > 235).mean()
    coloured = ((pixels.max(1) - pixels.min(1) > 40) & (pixels.min(1) <= 235)).mean()
    return bool(white > .6 and coloured < .3)


def look(image:Image.Image)->str: # 'plot', 'slab' or 'picture'
    "Return how a picture looks on a dark page: a plot is turned round, another one on white is dimmed."
    if is_plot(image): return 'plot'
    return 'slab' if min(image.convert('RGB').getpixel((0, 0))) > 235 else 'picture'


def _picture(source:str, page:Path)->Image.Image|None: # None for what is no picture of this site
    if match := re.match(r'data:image/(?:png|jpeg|gif);base64,(.*)', source, re.S):
        return Image.open(io.BytesIO(base64.b64decode(match[1])))
    file = page.parent/unquote(source)
    return Image.open(file) if file.suffix in ('.png', '.jpg', '.gif') and file.is_file() else None


def mark_pictures(text:str, page:Path)->str: # a page's HTML, and where it is
    "Say of each figure how large it is and how it looks on a dark page; wide ones scroll on a narrow screen."
    def marked(tag:re.Match)->str:
        source = re.search(r'\bsrc="([^"]*)"', tag[0])
        picture = _picture(source[1], page) if source else None
        if picture is None: return tag[0]
        rest = re.sub(r'\s(class|loading|width|height)="[^"]*"', '', tag[0].removeprefix('<img'))
        size = f'width="{picture.width}" height="{picture.height}"'
        image = f'<img class="img-fluid {look(picture)}" {size} loading="lazy"{rest}'
        return f'<span class="figure-scroll">{image}</span>' if picture.width > 380 else image
    return re.sub(r'<img\b[^>]*>', marked, text)


def with_parts(text:str, up:str)->str: # a page's HTML, and the way to the site's root
    "Add what smalldocs has not: the skip link, own search, sortable tables."
    text = re.sub(r'(<body[^>]*>)', lambda tag: tag[0] + SKIP, text, count=1)
    text = re.sub(r'<div class="smalldocs-search".*?<div class="smalldocs-search-results[^>]*></div></div>',
                  lambda box: SEARCH, text, flags=re.S)
    text = re.sub(r'<script src="[^"]*fuse[^"]*"></script>', '', text)
    scripts = ['search.js', *(name for name, mark in SCRIPTS.items() if mark in text)]
    tags = ''.join(f'<script src="{up}docs/{name}" defer></script>' for name in scripts)
    text = text.replace('<nav id="quarto-sidebar"', '<nav id="quarto-sidebar" aria-label="Pages"')
    return text.replace('</head>', tags + '</head>', 1)


def without_imports(css:str)->str:
    "Return a style sheet that fetches nothing from elsewhere."
    return re.sub(r'@import\s*(url\([^)]*\)|"[^"]*"|\'[^\']*\')[^;]*;', '', css)


class Sections(HTMLParser):
    "The sections of a page: their place, heading, and text, of what is in `main`."
    def __init__(self, text:str):
        super().__init__(convert_charrefs=True)
        self.sections = [dict(id='', section='', text=[])]
        self.inside = self.heading = False
        self.quiet = 0
        self.description = ''
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag == 'meta' and attrs.get('name') == 'description': self.description = attrs.get('content', '')
        if tag == 'main': self.inside = True
        if tag in QUIET: self.quiet += 1
        if self.inside and tag in ('h2', 'h3'):
            self.heading = True
            self.sections.append(dict(id=attrs.get('data-anchor-id') or attrs.get('id', ''), section='', text=[]))

    def handle_endtag(self, tag):
        if tag == 'main': self.inside = False
        if tag in QUIET: self.quiet -= 1
        if tag in ('h2', 'h3'): self.heading = False

    def handle_data(self, data):
        if not self.inside or self.quiet: return
        if self.heading: self.sections[-1]['section'] += data
        else: self.sections[-1]['text'].append(data)


def _place(path:str)->tuple[str, float]: # of a page: where it stands, and how much it counts
    first = path.split('/')[0]
    if path in GUIDES: return 'Guide', 1.6
    if first in PLACES: return PLACES[first], .5
    if '/' not in path and path not in LIBRARY: return 'Experiment', 1.1
    return 'Reference', 1.


def search_entries(path:str, text:str)->list[dict]: # a page's path in the site, and its HTML
    "Return what search knows of a page: an entry for itself and for each section."
    title = re.search(r'<title>(.*?)( – [^<]*)?</title>', text, re.S)
    found = Sections(text)
    place, weight = _place(path)
    entries = []
    for section in found.sections:
        href = f'{path}#{section["id"]}' if section['id'] else path
        words = ' '.join(' '.join(section['text']).split())
        entry = dict(href=href, title=title[1] if title else path, section=section['section'].strip(),
                     text=words[:1500], place=place, weight=weight, keywords=KEYWORDS.get(href, ''))
        if not section['id']: entry['description'] = found.description
        if words or not section['id']: entries.append(entry)
    return entries


def finish(site:Path)->None:
    "Finish the pages of a rendered site, and write search.json."
    shutil.copytree(OWN, site/'docs', dirs_exist_ok=True)
    for css in site.glob('site_libs/themes/*.css'):
        css.write_text(without_imports(css.read_text(encoding='utf8')), encoding='utf8')
    shutil.rmtree(site/'site_libs/fuse', ignore_errors=True)
    entries = []
    for page in sorted(site.rglob('*.html')):
        path = page.relative_to(site).as_posix()
        text = page.read_text(encoding='utf8')
        if '<main' not in text: continue # the page of an archived run's own
        text = mark_pictures(with_parts(text, '../'*path.count('/')), page)
        page.write_text(text, encoding='utf8')
        entries += search_entries(path, text)
    missing = set(KEYWORDS) - {entry['href'] for entry in entries}
    if missing: raise ValueError(f'KEYWORDS names places that are not on the site: {", ".join(sorted(missing))}')
    (site/'search.json').write_text(json.dumps(entries, ensure_ascii=False), encoding='utf8')
