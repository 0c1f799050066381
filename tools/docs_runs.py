"Make the docs site's pages of archived runs: the list of runs, and a page for each with its headline numbers first."
import html
from urllib.parse import quote

from qvision.commands.runs import _headline as headline
from qvision.runs.compare import flatten
from qvision.runs.cards import data_name
from qvision.tables import render_table

KEPT = ('captions.tsv', 'metrics.json', 'run.json') # a run's files that its page links to
CAPTIONS = { # figure -> what it shows
    'ablation': 'CIDEr that is lost when a visual token is taken away or comes from another image',
    'bridges': 'Scores of the four bridges, with their range over seeds',
    'clutter': 'Discriminative power in simple and in cluttered scenes',
    'deletion_insertion': 'Log-probability of the object word as patches are hidden or shown in the order of its map',
    'evolution': 'Visual tokens in the course of training',
    'evolution_heatmaps': 'Cosines between query tokens at steps of the training',
    'examples': 'Pictures with the captions that the model wrote',
    'growth': 'How cost grows with one thing changed at a time',
    'latency': 'Seconds per caption of each system, by precision',
    'loss': 'Loss in the course of training',
    'methods': 'Maps of one word by each method',
    'pointing': 'How often the maps point at the object that the word names',
    'reliability': 'How often the most probable next token is right, over how sure the captioner is',
    'preferences': "Attention of each token to each category, over the category's share of the image",
    'published_vectors': 'The three published vectors of one image',
    'query_query': 'Cosines between query tokens, layer by layer',
    'retrieval': 'Rank of the other crop of the same image among all images, by token',
    'scores': 'Scores of the model beside its baselines',
    'swap': 'CIDEr after the decoder is swapped, by what is trained again',
    'visual_words': 'Log-probability that words lose when the picture is blank',
    'where_tokens_look': 'Where the attention of each token lies on average'}
CAPTIONS |= {f'words-{k}': 'A picture, its caption, and a map of each word' for k in (1, 2, 3)}
CAPTIONS |= {name: f'A photograph ({name}), its caption, and a map of each word'
             for name in ('astronaut', 'chelsea', 'coffee', 'rocket')}


def as_text(value): # numbers stay what they are
    "Return a value from a run as Markdown that shows it: no tag in it is HTML, no quote ends an attribute."
    if isinstance(value, (int, float)): return value
    return html.escape(str(value)).replace('`', '&#96;').replace('[', '&#91;')


def as_code(command)->str:
    "Return a command as code, in which Markdown and HTML mean nothing."
    return '`' + str(command).replace('`', "'") + '`'


def data_of(run)->str:
    "Return what a run's data set is called, and whether it is drawings or photographs where that is known."
    path = (run.info.get('data') or {}).get('path')
    if not path: return ''
    kind = {'minicoco': 'drawings', 'flickr8k': 'photographs', 'photographs': 'photographs',
            'coco-slice': 'photographs'}.get(str(path).rstrip('/').rsplit('/', 1)[-1])
    name = data_name(path)
    return f'{kind}: {name}' if kind and kind not in name else name


def _linked(run_name:str, folder:str='')->str: return f'[{as_text(run_name)}]({folder}{quote(run_name)}.html)'


def short(run)->str:
    "Return a run's headline, of an evaluation the model's CIDEr beside people's."
    scores = run.metrics.get('scores')
    try: model, people = (f'{scores[who]["CIDEr"]:.3f}' for who in ('model', 'people'))
    except (KeyError, TypeError, ValueError): return headline(run)
    return f'{run.metrics.get("split", "")}: CIDEr {model}, people {people}'


def _facts(run, children)->list[tuple]: # (name, value)
    info = run.info
    parent = _linked(info['parent']) if info.get('parent') else ''
    memory = f'{info["peak_memory_mb"]} MB' if 'peak_memory_mb' in info else ''
    machine = as_text(f'{info["machine"]["processor"]}, {info["machine"]["cores"]} cores')
    facts = [('kind', as_text(info['kind'])),
             ('status', as_text(run.status)),
             ('continues or evaluates', parent),
             ('continued or evaluated by', ', '.join(_linked(name) for name in children)),
             ('data', as_text(data_of(run))),
             ('started', as_text(info['started'])[:16].replace('T', ' ')),
             ('seconds', info.get('seconds', '')),
             ('peak memory', memory),
             ('machine', machine),
             ('made again by', as_code(info['command']))]
    return [fact for fact in facts if fact[1] != '']


def _short_metrics(run)->list[tuple]: # (name, value), the first 150, without long texts
    rows = []
    for name, value in flatten(run.metrics).items():
        if not isinstance(value, str) or len(value) < 200: rows.append((as_text(name), as_text(value)))
    return rows[:150]


def _scores(run)->str: # of an evaluation: who wrote the captions, and the scores; '' of another run
    scores = run.metrics.get('scores')
    if run.info['kind'] != 'evaluate' or not scores: return ''
    names = [*dict.fromkeys(name for row in scores.values() for name in row)]
    rows = [[as_text(who), *(as_text(row.get(name, '')) for name in names)] for who, row in scores.items()]
    return render_table(rows, ['captions by', *map(as_text, names)])


def _numbers(run)->str: # numbers by themselves among the metrics; '' where there is none
    numbers = [(as_text(name.replace('_', ' ')), value) for name, value in run.metrics.items()
               if isinstance(value, (int, float)) and not isinstance(value, bool)]
    return render_table(numbers[:8], ['number', 'value']) if numbers else ''


def _figure(run, file)->str:
    caption = CAPTIONS.get(file.stem, file.stem.replace('_', ' '))
    return f'![{as_text(caption)}](../experiments/{quote(run.name)}/figures/{quote(file.name)})'


def _files(run, repository:str)->str:
    "Return links to what else is archived: the notebook, captions, metrics."
    folder = f'../experiments/{quote(run.name)}'
    links = [f'[{name}]({folder}/{name})' for name in KEPT if (run.path/name).is_file()]
    notebook = f'{run.info["kind"]}.ipynb'
    if repository and (run.path/notebook).is_file():
        at = f'{repository}/blob/main/experiments/{quote(run.name)}/{quote(notebook)}'
        links.insert(0, f'[notebook with outputs]({at})')
    return 'Archived with it: ' + ', '.join(links) + '.' if links else ''


def live_pages(run)->list: # of Path
    "Return the pages that `qvision explain` wrote in a run: one, or one per picture."
    return sorted(run.path.glob('explain*.html'))


def live_frame(page, folder:str)->str: # file, and where the site keeps its run
    "Return the frame that shows a page live, and a link to the page by itself."
    source = f'{folder}/{quote(page.name)}'
    what = page.stem.removeprefix('explain').removeprefix('-')
    title = f'A caption whose words show their maps{": " if what else ""}{what}'
    return (f'```{{=html}}\n<iframe class="live" src="{source}" title="{html.escape(title)}" loading="lazy"></iframe>\n'
            f'```\n\n[Open {html.escape(what) or "it"} by itself]({source})')


def _live(run)->str: # '' where the run has no such page
    "Return the frames that show what `qvision explain` wrote in a run."
    frames = [live_frame(page, f'../experiments/{quote(run.name)}') for page in live_pages(run)]
    if not frames: return ''
    return '\n\n'.join(['## Word by word', 'What `qvision explain` writes, to try: move over the words.', *frames])


def run_page(run, children=(), # names of runs
             repository:str='', # its address
             pages=(),          # kinds that have a page
             compared:str='',   # a sentence that leads to the comparison with another run
            )->str:
    "Return the page of a run: headline numbers, facts, figures, parameters, metrics."
    kind = run.info['kind']
    figures = run.path/'figures'
    files = sorted(figures.glob('*.png')) + sorted(figures.glob('*.gif'))
    told = short(run)
    params = [(as_text(name), as_text(value)) for name, value in run.params.items()]
    what = f'A run of the experiment [{as_text(kind)}](../{kind}.html). ' if kind in pages else ''
    what += f'Here are [all runs](../experiments.html). {compared}'.rstrip()
    parts = [f'---\ntitle: {as_text(run.name)}\n---', f'**{as_text(told)}**' if told else '',
             _scores(run) or _numbers(run), what, _files(run, repository),
             '## The run', render_table(_facts(run, children), ['', '']),
             '## Figures' if files else '', *(_figure(run, file) for file in files), _live(run),
             '## Parameters', render_table(params, ['parameter', 'value']),
             '## Metrics', render_table(_short_metrics(run), ['metric', 'value'])]
    return '\n\n'.join(part for part in parts if part) + '\n'


def run_list(runs)->str: # oldest first
    "Return the page that lists the runs, newest first; a click on a column's name sorts by it."
    rows = []
    for run in reversed(runs):
        rows.append((_linked(run.name, 'archive/'), as_text(run.info['kind']), as_text(data_of(run)),
                     as_text(run.info['started'])[:10], as_text(short(run)), as_text(run.status)))
    head = ('---\ntitle: Archived runs\n'
            'description: Every run that is in the repository, newest first. A click on a column sorts by it.\n---\n\n')
    table = render_table(rows, ['run', 'kind', 'data', 'date', 'result', 'status'])
    return f'{head}::: {{.sortable}}\n\n{table}\n\n:::\n'


def children_of(runs)->dict: # name -> names of the runs that continue or evaluate it
    "Return each run's children."
    found = {}
    for run in runs:
        if run.info.get('parent'): found.setdefault(run.info['parent'], []).append(run.name)
    return found
