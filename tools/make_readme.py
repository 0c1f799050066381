"README.md from nbs/index.ipynb, with its tables made anew from the archived runs. `--check` only compares."
import json
import sys
from pathlib import Path

from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

ROOT = Path(__file__).resolve().parent.parent


def render(notebook:Path)->str:
    "Markdown cells as they are; of code cells what they display."
    import os
    os.chdir(notebook.parent)
    shell, parts = InteractiveShell.instance(), []
    for cell in json.loads(notebook.read_text())['cells']:
        source = ''.join(cell['source'])
        if cell['cell_type'] == 'markdown': parts.append(source); continue
        with capture_output() as seen: shell.run_cell(source.replace('#| echo: false\n', '')).raise_error()
        parts += [o.data['text/markdown'] for o in seen.outputs if 'text/markdown' in o.data]
    return '\n\n'.join(p.strip() for p in parts if p.strip()) + '\n'


if __name__ == '__main__':
    text, path = render(ROOT/'nbs/index.ipynb'), ROOT/'README.md'
    if '--check' in sys.argv:
        if not path.is_file() or path.read_text() != text: sys.exit('README.md is not what nbs/index.ipynb and the archived runs give: make readme')
    else: path.write_text(text); print(f'{path.name} written')
