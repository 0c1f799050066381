"README.md from nbs/index.ipynb, with its tables made anew from the archived runs that are in git. `--check` only compares."
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

ROOT = Path(__file__).resolve().parent.parent


def runs_in_git()->list[str]:
    "Runs that are committed or staged; outside of a git checkout all there are. A run made just now changes no README."
    listed = subprocess.run(['git', 'ls-files', 'experiments/*/run.json'], cwd=ROOT, capture_output=True, text=True)
    found = [ROOT/f for f in listed.stdout.split()] if listed.returncode == 0 else (ROOT/'experiments').glob('*/run.json')
    return sorted(f.parent.name for f in found)


def render(notebook:Path)->str:
    "Markdown cells as they are; of code cells what they display."
    os.chdir(notebook.parent)
    shell, parts = InteractiveShell.instance(), []
    for cell in json.loads(notebook.read_text(encoding='utf8'))['cells']:
        source = ''.join(cell['source'])
        if cell['cell_type'] == 'markdown': parts.append(source); continue
        with capture_output() as seen: shell.run_cell(source).raise_error()
        parts += [o.data['text/markdown'] for o in seen.outputs if 'text/markdown' in o.data]
    return '\n\n'.join(p.strip() for p in parts if p.strip()) + '\n'


def readme()->str:
    "The text that README.md should have."
    with tempfile.TemporaryDirectory() as archive:
        for run in runs_in_git(): (Path(archive)/run).symlink_to(ROOT/'experiments'/run)
        os.environ['QVISION_EXPERIMENTS'] = archive
        return render(ROOT/'nbs/index.ipynb')


if __name__ == '__main__':
    text, path = readme(), ROOT/'README.md'
    if '--check' in sys.argv:
        if not path.is_file() or path.read_text(encoding='utf8') != text: sys.exit('README.md is not what nbs/index.ipynb and the archived runs give: git add experiments, then make readme')
    else: path.write_text(text, encoding='utf8'); print(f'{path.name} written')
