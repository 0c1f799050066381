"The tutorial and the README's commands, as written, in a copy of the repository's notebooks."
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image


@pytest.fixture
def copy(root, workplace, tmp_path):
    "Copy the notebooks; return the environment of somebody who works there."
    shutil.copytree(root/'nbs', tmp_path/'nbs', ignore=shutil.ignore_patterns('.ipynb_checkpoints'))
    shutil.copy(root/'settings.ini', tmp_path)
    env = {k: v for k, v in workplace.items() if k != 'QVISION_EXPERIMENTS'}
    return env | dict(PATH=f'{Path(sys.executable).parent}:{workplace["PATH"]}')


def blocks(notebook)->list: # (language, code)
    text = '\n'.join(''.join(c['source']) for c in json.loads(notebook.read_text())['cells'])
    return re.findall(r'```(sh|python)\n(.+?)```', text, re.S)


def run_block(language, text, folder, env):
    "Run one block; activating an environment is left out, since this one is active."
    text = '\n'.join(line for line in text.splitlines() if not line.startswith('. .venv'))
    command = ['bash', '-ec', text] if language == 'sh' else [sys.executable, '-c', text]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, f'{text}\n{done.stdout[-2000:]}{done.stderr[-2000:]}'
    return done


def test_the_tutorial_passes_as_written(root, copy, tmp_path):
    code = blocks(root/'nbs/tutorial.ipynb')
    assert len(code) >= 7
    for language, text in code: done = run_block(language, text, tmp_path, copy)
    assert done.stdout.strip()
    assert '<button' in (tmp_path/'words.html').read_text()
    assert (tmp_path/'experiments/own-2-val/metrics.json').is_file()


@pytest.mark.slow
def test_the_readmes_commands_run(root, minicoco, copy, tmp_path):
    "Each line that begins with qvision, on a small data set and with few steps."
    (tmp_path/'holiday').mkdir()
    Image.new('RGB', (60, 40), 'teal').save(tmp_path/'photo.jpg')
    Image.new('RGB', (60, 40)).save(tmp_path/'holiday/a.png')
    found = re.findall(r'```sh\n(.+?)```', (root/'README.md').read_text(), re.S)
    lines = [line.split('#')[0].strip() for text in found for line in text.splitlines() if line.startswith('qvision')]
    assert len(lines) >= 7
    small = {'qvision run train': f' -p data {minicoco} -p limit 24 -p max_steps 4 --quiet',
             'qvision run evaluate': ' --quiet'}
    for line in lines:
        extra = next((options for start, options in small.items() if line.startswith(start)), '')
        run_block('sh', line + extra, tmp_path, copy)
    assert (tmp_path/'words.html').is_file()
