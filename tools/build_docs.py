"The docs site from the notebooks with their saved outputs: nbdev's processing, rendered by smalldocs. No Quarto, no network."
import shutil
import subprocess
import sys
from pathlib import Path

from nbdev.doclinks import _build_modidx
from nbdev.quarto import nbdev_sidebar, refresh_quarto_yml
from nbdev.serve import proc_nbs

ROOT = Path(__file__).resolve().parent.parent

if __name__ == '__main__':
    refresh_quarto_yml()
    _build_modidx()
    nbdev_sidebar.__wrapped__()
    proc_nbs(n_workers=2, force=True)
    subprocess.run([str(Path(sys.executable).parent/'smalldocs'), 'render', '_proc'], cwd=ROOT, check=True)
    site = next(p for p in (ROOT/'_proc/_docs', ROOT/'_proc/_site') if p.is_dir())
    shutil.rmtree(ROOT/'_docs', ignore_errors=True); shutil.move(site, ROOT/'_docs')
    print(f'{len(list((ROOT/"_docs").rglob("*.html")))} pages in _docs; open _docs/index.html')
