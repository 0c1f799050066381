"A wheel built from the repository works without it."
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile

LEFT_OUT = shutil.ignore_patterns('.git', '.venv*', 'data', 'experiments', 'nbs', '_*docs', 'build', '*.egg-info')
WHERE = ('import sys; sys.path.insert(0, sys.prefix + "/lib/python%d.%d/site-packages" % sys.version_info[:2]); '
         'import qvision; print(qvision.__file__)')
NEEDED = {'qvision/model/captioner.py', 'qvision/weights/clip/model.safetensors',
          'qvision/weights/gpt_neo/model.safetensors', 'qvision/weights/gpt_neo/tokenizer.json',
          'qvision/csrc/linear.cpp', 'qvision/csrc/linear.h', 'qvision/evaluation/synonyms.txt'}


def test_wheel_holds_package_and_weights_and_runs(root, tmp_path):
    source = tmp_path/'source'
    shutil.copytree(root, source, ignore=lambda folder, names: LEFT_OUT(folder, names) if folder == str(root) else ())
    subprocess.run([sys.executable, '-m', 'pip', 'wheel', '--quiet', '--no-deps', '--no-build-isolation',
                    '-w', str(tmp_path), str(source)], check=True)
    wheel = next(tmp_path.glob('qvision-*.whl'))
    assert NEEDED <= set(zipfile.ZipFile(wheel).namelist())
    subprocess.run([sys.executable, '-m', 'venv', str(tmp_path/'venv')], check=True)
    python = tmp_path/'venv/bin/python'
    subprocess.run([str(python), '-m', 'pip', 'install', '--quiet', '--no-deps', str(wheel)], check=True)
    # the dependencies of this environment, the package of the new one
    env = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'}
    env['PYTHONPATH'] = sysconfig.get_paths()['purelib']
    call = dict(env=env, cwd=tmp_path, capture_output=True, text=True)
    where = subprocess.run([str(python), '-P', '-c', WHERE], check=True, **call).stdout
    assert str(tmp_path/'venv') in where
    done = subprocess.run([str(tmp_path/'venv/bin/qvision'), '--help'], **call)
    assert done.returncode == 0
    assert 'caption' in done.stdout
