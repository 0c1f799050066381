"""Make the docs site's page that compares two archived runs (tools/docs/compare.js), and what it shows of each as
JSON."""
import html
import json
from pathlib import Path
from urllib.parse import urlencode

from docs_runs import as_text, data_of, short
from qvision.runs.compare import flatten

AXES = ('step', 'epoch') # along which a run is logged; the first that there is counts
LONG = 200 # characters of a text that is no metric


def _numbers(value)->bool: return isinstance(value, (int, float)) and not isinstance(value, bool)


def _series(rows:list, prefix:str)->dict: # dictionaries of a log
    "Return the curves of one log: everything in it that is a number, over its step."
    axis = next((axis for axis in AXES if all(axis in row for row in rows)), None)
    if axis is None: return {}
    found = {}
    for row in rows:
        for name, value in row.items():
            if name in AXES or not _numbers(value): continue
            if name == 'loss' and 'reward' in row: name = 'self-critical loss' # no cross-entropy, and not one with it
            curve = found.setdefault(prefix + name.replace('_', ' '), dict(axis=axis, points=[]))
            curve['points'].append([row[axis], value])
    return found


def curves(metrics:dict, prefix:str='')->dict: # name -> axis, and points [[x, y], …]
    "Return what a run logged in the course of training: of each part of it where it has several."
    found = {}
    for name, value in metrics.items():
        if isinstance(value, dict): found |= curves(value, '' if name == 'log' else f'{name}: ')
        elif isinstance(value, list) and value and all(isinstance(row, dict) for row in value):
            found |= _series(value, prefix if name == 'log' else f'{name.replace("_", " ")}: ')
    return found


def shown_of(run)->dict:
    "Return what the page shows of a run."
    info = run.info
    machine = info['machine']
    facts = dict(result=short(run), kind=info['kind'], data=data_of(run), date=info['started'][:16].replace('T', ' '),
                 status=run.status, parent=info.get('parent'), seconds=info.get('seconds'),
                 machine=f'{machine["processor"]}, {machine["cores"]} cores')
    metrics = {name: value for name, value in flatten(run.metrics).items()
               if not isinstance(value, str) or len(value) < LONG}
    return dict(name=run.name, facts=facts, metrics=metrics, parameters=flatten(run.params),
                curves=curves(run.metrics))


def write_runs(runs, folder:Path)->None: # folder/experiments/NAME/compare.json
    "Write what the page shows of each run."
    for run in runs:
        file = folder/f'experiments/{run.name}/compare.json'
        file.write_text(json.dumps(shown_of(run), ensure_ascii=False, separators=(',', ':')), encoding='utf8')


def beside(run, runs): # None where there is none
    "Return the run that a run is best compared with: of its kind its parent, else the newest one of the same split."
    others = [other for other in runs if other.info['kind'] == run.info['kind'] and other.name != run.name]
    split = run.metrics.get('split')

    def fit(other)->tuple:
        is_parent = other.name == run.info.get('parent')
        return is_parent, other.metrics.get('split') == split, other.info['started']

    return max(others, key=fit, default=None)


def compare_link(run, runs)->str: # from the page of a run
    "Return a sentence that leads to the comparison of a run with another one."
    other = beside(run, runs)
    if other is None: return ''
    query = urlencode(dict(a=other.name, b=run.name))
    return f'[Compared with {as_text(other.name)}](../compare.html?{query}), or there with any other.'


def _options(runs, chosen)->str: # HTML
    groups = {}
    for run in runs: groups.setdefault(run.info['kind'], []).append(run)
    found = []
    for kind, members in groups.items():
        found.append(f'<optgroup label="{html.escape(kind)}">')
        for run in members:
            mark = ' selected' if run is chosen else ''
            name = html.escape(run.name)
            found.append(f'<option value="{name}"{mark}>{name}</option>')
        found.append('</optgroup>')
    return ''.join(found)


def _first_shown(runs)->tuple: # two runs
    "Return the newest run with curves that continues another one of its kind, after that one."
    for run in reversed(runs):
        other = beside(run, runs)
        if other and other.name == run.info.get('parent') and curves(run.metrics): return other, run
    return runs[-1], runs[-1]


def compare_page(runs)->str: # oldest first
    "Return the page that compares two runs."
    a, b = _first_shown(runs)
    form = ('<form id="compare" class="compare">'
            f'<label>First run<select name="a">{_options(runs, a)}</select></label>'
            f'<label>Second run<select name="b">{_options(runs, b)}</select></label>'
            '<button type="button" name="swap">Swap</button>'
            '<label class="check"><input type="checkbox" name="different" checked> only what differs</label></form>')
    told = '<p id="compared-told" role="status"></p><noscript>This page needs JavaScript.</noscript>'

    def part(name:str)->str: return f'```{{=html}}\n<div id="compared-{name}"></div>\n```'

    head = ('---\ntitle: Compare two runs\n'
            'description: Two archived runs side by side, their curves over each other.\n---')
    note = ('Choose two of the [archived runs](experiments.html). The address of this page names both, so that it '
            'can be passed on.')
    return '\n\n'.join([head, note, f'```{{=html}}\n{form}{told}\n```', part('facts'), '## Curves', part('curves'),
                        '## Metrics', part('metrics'), '## Parameters', part('parameters')]) + '\n'
