"A wheel built from the repository works without it."
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile


def test_wheel_holds_package_and_weights_and_runs(root, tmp_path):
    source = tmp_path/'source'
    shutil.copytree(root, source, ignore=shutil.ignore_patterns('.git', '.venv*', 'data', 'experiments', 'nbs', '_*docs', 'build', '*.egg-info'))
    subprocess.run([sys.executable, '-m', 'pip', 'wheel', '--quiet', '--no-deps', '--no-build-isolation', '-w', str(tmp_path), str(source)], check=True)
    wheel = next(tmp_path.glob('qvision-*.whl'))
    names = zipfile.ZipFile(wheel).namelist()
    assert {'qvision/captioner.py', 'qvision/weights/clip/model.safetensors', 'qvision/weights/gpt_neo/model.safetensors', 'qvision/weights/gpt_neo/tokenizer.json'} <= set(names)
    subprocess.run([sys.executable, '-m', 'venv', str(tmp_path/'venv')], check=True)
    python = tmp_path/'venv/bin/python'
    subprocess.run([str(python), '-m', 'pip', 'install', '--quiet', '--no-deps', str(wheel)], check=True)
    env = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'} | dict(PYTHONPATH=sysconfig.get_paths()['purelib']) # dependencies of this environment, the package of the new one
    where = subprocess.run([str(python), '-P', '-c', 'import sys; sys.path.insert(0, sys.prefix + "/lib/python%d.%d/site-packages" % sys.version_info[:2]); import qvision; print(qvision.__file__)'], env=env, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert str(tmp_path/'venv') in where
    done = subprocess.run([str(tmp_path/'venv/bin/qvision'), '--help'], env=env, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and 'caption' in done.stdout
