"The tutorial, as written: its code blocks in order, in a copy of the repository's notebooks."
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path


def blocks(notebook): return re.findall(r'```(sh|python)\n(.+?)```', '\n'.join(''.join(c['source']) for c in json.loads(notebook.read_text())['cells']), re.S)


def test_the_tutorial_passes_as_written(root, workplace, tmp_path):
    shutil.copytree(root/'nbs', tmp_path/'nbs', ignore=shutil.ignore_patterns('.ipynb_checkpoints')); shutil.copy(root/'settings.ini', tmp_path)
    env = {k: v for k, v in workplace.items() if k != 'QVISION_EXPERIMENTS'} | dict(PATH=f'{Path(sys.executable).parent}:{workplace["PATH"]}')
    code = blocks(root/'nbs/tutorial.ipynb'); assert len(code) >= 7
    for language, text in code:
        text = '\n'.join(line for line in text.splitlines() if not line.startswith('. .venv'))
        done = subprocess.run(['bash', '-ec', text] if language == 'sh' else [sys.executable, '-c', text], cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == 0, f'{text}\n{done.stdout[-2000:]}{done.stderr[-2000:]}'
    assert done.stdout.strip() and '<button' in (tmp_path/'words.html').read_text() and (tmp_path/'experiments/own-2-val/metrics.json').is_file()
