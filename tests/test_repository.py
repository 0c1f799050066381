"What must hold of the repository itself: exports in step, short lines, imports downwards, README current."
import ast
import io
import json
import re
import shutil
import subprocess
import sys
import tokenize
import tomllib
from configparser import ConfigParser
from dataclasses import MISSING, fields
from pathlib import Path
from typing import get_args
from urllib.parse import urlsplit

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image
from pyflakes.api import checkPath
from pyflakes.reporter import Reporter

PAGES = ('index', 'results', 'tutorial', 'howto') # prose, no experiment
COLUMNS = 120


def notebooks(root): return sorted(p for p in (root/'nbs').rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts)
def experiments(root): return [p for p in notebooks(root) if p.parent == root/'nbs' and not p.stem[0].isdigit()]
def code(nb): return [c for c in nb['cells'] if c['cell_type'] == 'code']
def source(cell): return ''.join(cell['source'])


def run_tool(root, name, *args):
    subprocess.run([str(Path(sys.executable).parent/name), *args], cwd=root, check=True)


def test_package_is_what_the_notebooks_export(root, tmp_path):
    "Exporting in a copy of the repository changes nothing."
    left_out = shutil.ignore_patterns('weights', '__pycache__', '.ipynb_checkpoints')
    for name in ('nbs', 'qvision'): shutil.copytree(root/name, tmp_path/name, ignore=left_out)
    for name in ('settings.ini', 'pyproject.toml'): shutil.copy(root/name, tmp_path/name)
    def exported(): return {p.relative_to(tmp_path): p.read_bytes() for p in (tmp_path/'qvision').rglob('*.py')}
    before = exported()
    run_tool(tmp_path, 'nbdev_export')
    after = exported()
    assert before.keys() == after.keys()
    assert len(after) > 30
    for name in after: assert before[name] == after[name], f'{name} is out of step: nbdev_export'


def test_names_are_defined_and_imports_are_used(root):
    "A name that a module forgot to import fails only when the line runs, which may be in a long experiment."
    reported = io.StringIO()
    reporter = Reporter(reported, reported)
    own = [path for path in (root/'qvision').rglob('*.py') if path.name not in ('_modidx.py', '__init__.py', 'cli.py')]
    scripts = [path for folder in ('tests', 'tools') for path in (root/folder).rglob('*.py')]
    for path in sorted((*own, *scripts)): checkPath(str(path), reporter)
    assert not reported.getvalue(), reported.getvalue()


def test_nbdev_clean_changes_nothing(root, tmp_path):
    shutil.copytree(root/'nbs', tmp_path/'nbs', ignore=shutil.ignore_patterns('.ipynb_checkpoints'))
    shutil.copy(root/'settings.ini', tmp_path)
    run_tool(tmp_path, 'nbdev_clean', '--fname', 'nbs')
    for path in notebooks(tmp_path):
        name = path.relative_to(tmp_path)
        assert path.read_bytes() == (root/name).read_bytes(), f'{name} is not clean: nbdev_clean'


def readable_sources(root):
    "Yield (where, text) of everything in which people read code."
    for path in notebooks(root):
        for i, cell in enumerate(json.loads(path.read_text())['cells']):
            if cell['cell_type'] == 'code': yield f'{path.relative_to(root)} cell {i}', source(cell)
    for folder, kinds in dict(tests='*.py', tools='*', qvision='csrc/*').items():
        for path in sorted((root/folder).glob(kinds)):
            if path.is_file(): yield str(path.relative_to(root)), path.read_text(encoding='utf8')


def test_lines_are_short(root):
    found = [f'{where}, line {n}: {len(line)} columns' for where, text in readable_sources(root)
             for n, line in enumerate(text.splitlines(), 1) if len(line) > COLUMNS]
    assert not found, '\n'.join(found[:20])


def test_one_statement_per_line(root):
    "No semicolon between statements in any Python that people read."
    found = []
    for where, text in readable_sources(root):
        if where.endswith(('.sh', '.h', '.cpp', '.clang-format')) or text.startswith(('%%', '!')): continue
        tokens = tokenize.generate_tokens(io.StringIO(text + '\n').readline)
        found += [f'{where}, line {t.start[0]}' for t in tokens if t.type == tokenize.OP and t.string == ';']
    assert not found, '\n'.join(found[:20])


def test_requirements_are_said_once(root):
    "settings.ini repeats pyproject.toml's ranges for nbdev; constraints.txt has an exact version inside each range."
    project = tomllib.loads((root/'pyproject.toml').read_text())['project']
    settings = ConfigParser(interpolation=None)
    settings.read(root/'settings.ini')
    assert settings['DEFAULT']['requirements'].split() == project['dependencies']
    extras = project['optional-dependencies']
    for extra in extras: assert settings['DEFAULT'][f'{extra}_requirements'].split() == extras[extra]
    lines = (root/'constraints.txt').read_text().split()
    assert all(re.fullmatch(r'[\w.-]+==[\w.]+', line) for line in lines), 'names and versions, and no place to get them'
    assert 'torch==2.13.0' in lines
    pinned = {canonicalize_name(name): version for name, version in (line.split('==') for line in lines)}
    for r in map(Requirement, sum(extras.values(), project['dependencies'])):
        if r.name not in ('setuptools', 'wheel'): assert r.specifier.contains(pinned[canonicalize_name(r.name)]), r


def test_each_experiment_has_one_parameters_cell(root):
    for path in experiments(root):
        if path.stem in PAGES: continue
        tagged = [c for c in code(json.loads(path.read_text())) if 'parameters' in c['metadata'].get('tags', [])]
        assert len(tagged) == 1, path.name


def is_noise(output)->bool: # a progress bar or a warning
    return output.get('name') == 'stderr' or 'application/vnd.jupyter.widget-view+json' in output.get('data', {})


@pytest.mark.parametrize('path', notebooks(Path(__file__).parent.parent), ids=lambda p: p.stem)
def test_notebooks_are_clean_and_begin_with_a_title(path):
    nb = json.loads(path.read_text())
    first = source(nb['cells'][0])
    assert first.startswith('# ')
    assert '\n> ' in first
    assert path.stat().st_size < 2_000_000
    assert 'widgets' not in nb['metadata']
    for cell in code(nb):
        assert cell['execution_count'] is None, 'not clean: nbdev_clean'
        for output in cell['outputs']:
            assert output['output_type'] != 'error', 'stores an error'
            assert not is_noise(output), 'stores progress bars or warnings'


def test_archived_notebooks_name_no_machines_paths(root):
    "A library's warning carries the path of the environment that it was installed in."
    found = [path.relative_to(root).as_posix() for path in (root/'experiments').glob('*/*.ipynb')
             if 'site-packages/' in path.read_text(encoding='utf8')]
    assert not found, f'remove the warning, and mend what causes it: {found}'


def parameter_classes()->dict: # experiment -> dataclass of its parameters
    from qvision.analysis.faithfulness import AttentionParameters
    from qvision.analysis.gallery import GalleryParameters
    from qvision.analysis.evolution import SimilarityParameters
    from qvision.benchmark.captioning import BenchmarkParameters
    from qvision.benchmark.gpu import GpuParameters
    from qvision.evaluation.evaluate import EvaluateParameters
    from qvision.runs.claims import ClaimsParameters
    from qvision.runs.robustness import RobustnessParameters
    from qvision.training.compare_bridges import BridgesParameters
    from qvision.training.designs import DesignParameters
    from qvision.training.peer_terms import PeersParameters
    from qvision.training.train_parameters import TrainParameters
    from qvision.training.pretrain import PretrainParameters
    from qvision.training.pretrain_decoder import DecoderParameters
    from qvision.training.swap_decoder import SwapParameters
    return dict(train=TrainParameters, evaluate=EvaluateParameters, pretrain=PretrainParameters,
                token_similarity=SimilarityParameters, attention=AttentionParameters, bridges=BridgesParameters,
                swap_decoder=SwapParameters, benchmark=BenchmarkParameters, benchmark_gpu=GpuParameters,
                claims=ClaimsParameters,
                pretrain_decoder=DecoderParameters, gallery=GalleryParameters, photo_design=DesignParameters,
                robustness=RobustnessParameters, peers=PeersParameters)


def test_parameters_cells_are_the_dataclasses_fields_and_defaults(root, monkeypatch):
    "The names in the same order, and the same defaults: the command of a run leaves out what has its default."
    from qvision.runs.parameters import notebook_parameters
    monkeypatch.chdir(root)
    classes = parameter_classes()
    defined = {path.stem for path in (root/'nbs').glob('*.ipynb') if notebook_parameters(path.stem)}
    assert defined == {*classes, 'template'}
    for name, cls in classes.items():
        defaults = {f.name: f.default if f.default is not MISSING else f.default_factory() for f in fields(cls)}
        found = notebook_parameters(name)
        assert list(found) == list(defaults), name
        assert found == defaults, name


def test_numbers_that_no_run_could_use_are_refused():
    "Every number of every experiment has a range, which its default is in: none starts with limit -1 or a rate of nan."
    from qvision.runs.parameters import RANGES, typed_parameters
    checked = set()
    for cls in parameter_classes().values():
        for f in fields(cls):
            if not {int, float} & {f.type, *get_args(f.type)}: continue
            checked.add(f.name)
            line = rf'^{f.name} is a (whole )?number (of|above|from) [^\n]*, not [^\n]+$'
            for wrong in (-1, -1e-4, float('nan'), 'inf'):
                with pytest.raises(ValueError, match=line): typed_parameters(cls, {f.name: wrong})
            assert f.default is None or f.default in RANGES[f.name], f.name
    assert checked == set(RANGES), 'a range of no parameter'


FLOORS = ('', 'data', 'layers', 'evaluation', 'inference', 'model', 'training', 'analysis', 'benchmark', 'runs',
          'serving', 'commands')


def exported_modules(root)->dict: # module -> (floor, place in the reading order of its folder)
    found = {}
    for path in notebooks(root):
        name = re.search(r'#\| default_exp ([\w.]+)', path.read_text())
        if not name: continue
        folder = path.parent.relative_to(root/'nbs').parts
        floor = len(FLOORS) if path.stem.startswith('9') and not folder else FLOORS.index(folder[0] if folder else '')
        found[name[1]] = (floor, *folder[1:], path.stem)
    return found


def imported_modules(root, module)->set:
    "Modules of the package that a module imports, lazily or not."
    path = root/'qvision'/f'{module.replace(".", "/")}.py'
    package = ('qvision.' + module).split('.')[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import): found |= {alias.name for alias in node.names}
        if not isinstance(node, ast.ImportFrom): continue
        base = package[:len(package) - node.level + 1] if node.level else []
        name = '.'.join([*base, *(node.module.split('.') if node.module else [])])
        found |= {name} | {f'{name}.{alias.name}' for alias in node.names}
    return {name.removeprefix('qvision.') for name in found if name.startswith('qvision.')}


def test_imports_lead_down(root):
    "A module imports from lower floors, or from an earlier notebook of its own folder: so there are no circles either."
    modules = exported_modules(root)
    found = [f'{module} imports {used}' for module in modules for used in imported_modules(root, module)
             if used in modules and modules[used] >= modules[module]]
    assert not found, '\n'.join(found)


def test_importing_the_package_loads_no_torch(root):
    script = 'import sys, qvision; assert "torch" not in sys.modules; print(qvision.__version__)'
    done = subprocess.run([sys.executable, '-c', script], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_shipped_weights_are_small(root):
    files = [f for f in (root/'qvision/weights').rglob('*') if f.is_file()]
    assert 0 < sum(f.stat().st_size for f in files) <= 30_000_000
    photographs = [f for f in files if f.parent.name in ('captioner', 'gpt_neo-captions')]
    assert sum(f.stat().st_size for f in photographs if f.suffix == '.safetensors') <= 20_000_000


def test_archive_is_small(root):
    listing = ['git', 'ls-files', '-z', 'experiments']
    tracked = subprocess.run(listing, cwd=root, capture_output=True, text=True, check=True).stdout
    size = sum((root/name).stat().st_size for name in tracked.split('\0') if name)
    assert size < 5.8e6, f'experiments/ has {size/1e6:.2f} MB in git'


def test_readme_is_current(root):
    done = subprocess.run([sys.executable, str(root/'tools/make_readme.py'), '--check'], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_readme_is_short_and_leads_to_this_repository(root):
    text = (root/'README.md').read_text(encoding='utf8')
    assert len(text.splitlines()) < 100
    address = tomllib.loads((root/'pyproject.toml').read_text())['project']['urls']['Repository']
    name = urlsplit(address).path.strip('/')
    assert f'repository-code: {address}\n' in (root/'CITATION.cff').read_text()
    links = re.findall(r'https://[^)\s]+', text)
    hosted = [link for link in links if re.search(r'github\.com/|/github/|/gh/', link)]
    assert len(hosted) >= 8 # badges, Colab, Binder
    for link in hosted: assert f'/{name}/' in link, link
    for notebook in re.findall(r'nbs/\w+\.ipynb', ' '.join(links)): assert (root/notebook).is_file(), notebook
    for file in re.findall(r'actions/workflows/(\w+\.yml)', text): assert (root/'.github/workflows'/file).is_file()


def test_editors_and_containers_are_set_up_as_make_does(root):
    venv = re.search(r'(?m)^VENV \?= (\S+)', (root/'Makefile').read_text())[1]
    settings = json.loads((root/'.vscode/settings.json').read_text())
    assert settings['python.defaultInterpreterPath'] == f'${{workspaceFolder}}/{venv}/bin/python'
    assert settings['editor.rulers'] == [COLUMNS]
    container = json.loads((root/'.devcontainer/devcontainer.json').read_text())
    assert container['postCreateCommand'] == 'make setup'
    extensions = json.loads((root/'.vscode/extensions.json').read_text())['recommendations']
    assert container['customizations']['vscode']['extensions'] == extensions
    oldest = tomllib.loads((root/'pyproject.toml').read_text())['project']['requires-python'].removeprefix('>=')
    assert container['image'].endswith(f':{oldest}')
    assert (root/'.binder/runtime.txt').read_text().strip() == f'python-{oldest}'
    needed = (root/'.binder/requirements.txt').read_text().splitlines()
    assert '-c ../constraints.txt' in needed
    assert '-e .[dev]' in needed


@pytest.mark.parametrize('command', ['make experiment', 'make test'])
def test_readme_names_the_commands(root, command): assert command in (root/'README.md').read_text()


def test_ci_calls_the_readmes_test_command(root): assert 'make test' in (root/'.ci/run').read_text()


def test_readmes_python_runs(root, tmp_path):
    "The README's lines caption a photograph."
    photographs = pytest.importorskip('skimage.data', reason='scikit-image, which has the photograph, is not installed')
    Image.fromarray(photographs.chelsea()).save(tmp_path/'photo.jpg')
    code_block = re.search(r'```python\n(.+?)```', (root/'README.md').read_text(), re.S)[1]
    done = subprocess.run([sys.executable, '-c', code_block], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(done.stdout.split()) > 3
