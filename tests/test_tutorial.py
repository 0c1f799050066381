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


def test_the_readmes_commands_run(root, minicoco, workplace, tmp_path):
    "Each line of `Experiments of your own`, on a small data set and with few steps."
    from PIL import Image
    shutil.copytree(root/'nbs', tmp_path/'nbs', ignore=shutil.ignore_patterns('.ipynb_checkpoints')); shutil.copy(root/'settings.ini', tmp_path)
    (tmp_path/'holiday').mkdir(); Image.new('RGB', (60, 40), 'teal').save(tmp_path/'photo.jpg'); Image.new('RGB', (60, 40)).save(tmp_path/'holiday/a.png')
    env = {k: v for k, v in workplace.items() if k != 'QVISION_EXPERIMENTS'} | dict(PATH=f'{Path(sys.executable).parent}:{workplace["PATH"]}')
    text = next(t for t in re.findall(r'```sh\n(.+?)```', (root/'README.md').read_text(), re.S) if 'qvision run train' in t)
    lines = [line.split('#')[0].strip() for line in text.splitlines() if not line.startswith('. .venv')]; assert len(lines) >= 6
    small = {'qvision run train': f' -p data {minicoco} -p limit 24 -p max_steps 4 --quiet', 'qvision run evaluate': ' --quiet'}
    for line in lines:
        command = line + next((extra for start, extra in small.items() if line.startswith(start)), '')
        done = subprocess.run(['bash', '-c', command], cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == 0, f'{command}\n{done.stdout[-2000:]}{done.stderr[-2000:]}'
    assert (tmp_path/'words.html').is_file()
