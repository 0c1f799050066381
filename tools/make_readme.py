"""Write README.md from nbs/index.ipynb and RESULTS.md from nbs/results.ipynb, their tables made anew from the archived
runs in git, and experiments/README.md, the list of these. `--check` only compares."""
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

from qvision.runs.archive import describe_runs

ROOT = Path(__file__).resolve().parent.parent


def runs_in_git()->list[str]:
    """Return the runs that are committed or staged, and outside of a git checkout all there are: a run made just now
    changes no README."""
    command = ['git', 'ls-files', 'experiments/*/run.json']
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if listed.returncode == 0: found = [ROOT/f for f in listed.stdout.split()]
    else: found = (ROOT/'experiments').glob('*/run.json')
    return sorted(f.parent.name for f in found)


def _displayed(source:str)->list[str]:
    "Run a code cell and return the Markdown that it displays."
    with capture_output() as seen: InteractiveShell.instance().run_cell(source).raise_error()
    return [o.data['text/markdown'] for o in seen.outputs if 'text/markdown' in o.data]


def render(notebook:Path)->str:
    "Return a notebook as Markdown: Markdown cells as they are, of code cells what they display."
    os.chdir(notebook.parent)
    InteractiveShell.instance()
    parts = []
    for cell in json.loads(notebook.read_text(encoding='utf8'))['cells']:
        source = ''.join(cell['source'])
        if cell['cell_type'] == 'markdown': parts.append(source)
        else: parts += _displayed(source)
    return '\n\n'.join(part.strip() for part in parts if part.strip()) + '\n'


PAGES = {'README.md': 'nbs/index.ipynb', 'RESULTS.md': 'nbs/results.ipynb'} # file -> its notebook
RUNS = 'experiments/README.md'


def pages()->dict: # file -> text
    "Return the texts that the generated files should have."
    with tempfile.TemporaryDirectory() as archive:
        for run in runs_in_git(): (Path(archive)/run).symlink_to(ROOT/'experiments'/run)
        os.environ['QVISION_EXPERIMENTS'] = archive
        return {name: render(ROOT/notebook) for name, notebook in PAGES.items()} | {RUNS: describe_runs(archive)}


if __name__ == '__main__':
    for name, text in pages().items():
        path = ROOT/name
        if '--check' not in sys.argv:
            path.write_text(text, encoding='utf8')
            print(f'{name} written')
        elif not path.is_file() or path.read_text(encoding='utf8') != text:
            sources = ' and '.join([*([PAGES[name]] if name in PAGES else []), 'the archived runs'])
            sys.exit(f'{name} is not what {sources} give: git add experiments, then make readme')
