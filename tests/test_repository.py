"What must hold of the repository itself: exports in step, notebooks clean, README current, nothing large."
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


PAGES = ('index', 'tutorial', 'howto') # prose, no experiment


def notebooks(root): return sorted((root/'nbs').glob('*.ipynb'))
def code(nb): return [c for c in nb['cells'] if c['cell_type'] == 'code']
def source(cell): return ''.join(cell['source'])


def test_package_is_what_the_notebooks_export(root, tmp_path):
    "Exporting in a copy of the repository changes nothing."
    for name in ('nbs', 'qvision'): shutil.copytree(root/name, tmp_path/name, ignore=shutil.ignore_patterns('weights', '__pycache__', '.ipynb_checkpoints'))
    for name in ('settings.ini', 'pyproject.toml'): shutil.copy(root/name, tmp_path/name)
    before = {p.name: p.read_bytes() for p in (tmp_path/'qvision').glob('*.py')}
    subprocess.run([str(Path(sys.executable).parent/'nbdev_export')], cwd=tmp_path, check=True)
    after = {p.name: p.read_bytes() for p in (tmp_path/'qvision').glob('*.py')}
    assert before.keys() == after.keys() and {'captioner.py', 'minicoco.py', 'cli.py'} <= after.keys()
    for name in after: assert before[name] == after[name], f'qvision/{name} is out of step: nbdev_export'


def test_nbdev_clean_changes_nothing(root, tmp_path):
    shutil.copytree(root/'nbs', tmp_path/'nbs', ignore=shutil.ignore_patterns('.ipynb_checkpoints')); shutil.copy(root/'settings.ini', tmp_path)
    subprocess.run([str(Path(sys.executable).parent/'nbdev_clean'), '--fname', 'nbs'], cwd=tmp_path, check=True)
    for path in notebooks(tmp_path): assert path.read_bytes() == (root/'nbs'/path.name).read_bytes(), f'{path.name} is not clean: nbdev_clean'


def test_requirements_are_said_once(root):
    "settings.ini repeats pyproject.toml's ranges for nbdev; constraints.txt has an exact version inside each range, and names no place to get it from."
    import tomllib
    from configparser import ConfigParser
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name
    project = tomllib.loads((root/'pyproject.toml').read_text())['project']
    settings = ConfigParser(interpolation=None); settings.read(root/'settings.ini')
    assert settings['DEFAULT']['requirements'].split() == project['dependencies'] and settings['DEFAULT']['dev_requirements'].split() == project['optional-dependencies']['dev']
    lines = (root/'constraints.txt').read_text().split()
    assert all(re.fullmatch(r'[\w.-]+==[\w.]+', line) for line in lines) and 'torch==2.13.0' in lines
    pinned = {canonicalize_name(name): version for name, version in (line.split('==') for line in lines)}
    for r in map(Requirement, project['dependencies'] + project['optional-dependencies']['dev']):
        if r.name not in ('setuptools', 'wheel'): assert r.specifier.contains(pinned[canonicalize_name(r.name)]), r


def test_each_experiment_has_one_parameters_cell(root):
    for path in notebooks(root):
        nb = json.loads(path.read_text())
        if path.stem[0].isdigit() or path.stem in PAGES: continue
        assert sum('parameters' in c['metadata'].get('tags', []) for c in code(nb)) == 1, path.name


def test_notebooks_are_clean_and_begin_with_a_title(root):
    for path in notebooks(root):
        nb = json.loads(path.read_text())
        first = ''.join(nb['cells'][0]['source'])
        assert first.startswith('# ') and '\n> ' in first, path.name
        assert path.stat().st_size < 2_000_000, path.name
        for cell in code(nb):
            assert not any(o['output_type'] == 'error' for o in cell['outputs']), f'{path.name} stores an error'
            assert cell['execution_count'] is None, f'{path.name} is not clean: nbdev_clean'
            assert not any(o.get('name') == 'stderr' or 'application/vnd.jupyter.widget-view+json' in o.get('data', {}) for o in cell['outputs']), f'{path.name} stores progress bars or warnings'
        assert 'widgets' not in nb['metadata'], path.name


def test_archived_notebooks_name_no_machines_paths(root):
    "A library's warning carries the path of the environment that it was installed in."
    found = [path.relative_to(root).as_posix() for path in (root/'experiments').glob('*/*.ipynb') if 'site-packages/' in path.read_text(encoding='utf8')]
    assert not found, f'remove the warning, and mend what causes it: {found}'


def test_parameters_cells_name_the_dataclasses_fields(root):
    from dataclasses import fields
    from qvision.attention import AttentionParameters
    from qvision.benchmarking import BenchmarkParameters
    from qvision.claims import ClaimsParameters
    from qvision.evaluation import EvaluateParameters
    from qvision.hallucination import BridgesParameters
    from qvision.pretraining import PretrainParameters
    from qvision.similarity import SimilarityParameters
    from qvision.swapping import SwapParameters
    from qvision.training import TrainParameters
    for name, cls in dict(train=TrainParameters, evaluate=EvaluateParameters, pretrain=PretrainParameters, token_similarity=SimilarityParameters, attention=AttentionParameters, bridges=BridgesParameters,
                          swap_decoder=SwapParameters, benchmark=BenchmarkParameters, claims=ClaimsParameters).items():
        nb = json.loads((root/f'nbs/{name}.ipynb').read_text())
        cell = next(c for c in code(nb) if 'parameters' in c['metadata'].get('tags', []))
        assert re.findall(r'^(\w+) =', source(cell), re.M) == [f.name for f in fields(cls)], name


def test_floors_import_downwards(root):
    order = {m[1]: p.stem for p in notebooks(root) if (m := re.search(r'#\| default_exp (\w+)', p.read_text()))}
    for module, stem in order.items():
        text = (root/f'qvision/{module}.py').read_text()
        for used in re.findall(r'^from \.(\w+) import', text, re.M): assert order[used][0] <= stem[0], f'{module} imports {used} from a floor above'


def test_shipped_weights_are_small(root):
    assert 0 < sum(f.stat().st_size for f in (root/'qvision/weights').rglob('*') if f.is_file()) <= 8_500_000
    assert sum(f.stat().st_size for f in (root/'qvision/weights').rglob('*.safetensors')) <= 8_000_000


def test_readme_is_current(root):
    done = subprocess.run([sys.executable, str(root/'tools/make_readme.py'), '--check'], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize('command', ['make experiment', 'make test'])
def test_readme_names_the_commands(root, command): assert command in (root/'README.md').read_text()


def test_ci_calls_the_readmes_test_command(root): assert 'make test' in (root/'.ci/run').read_text()


def test_readmes_python_runs(root, tmp_path):
    "The five lines caption an image."
    code_block = re.search(r'```python\n(.+?)```', (root/'README.md').read_text(), re.S)[1]
    done = subprocess.run([sys.executable, '-c', code_block], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and len(done.stdout.split()) > 3, done.stderr[-2000:]
