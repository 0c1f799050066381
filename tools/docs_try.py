"""Make the docs site's page "Try it", on which a visitor's own browser captions: the captioner that ships, as ONNX
graphs, and onnxruntime-web from npm. Both are built into the site, never into the repository."""
import hashlib
import html
import shutil
import subprocess
import tarfile
from pathlib import Path

from docs_reference import raw
from qvision import Captioner
from qvision.analysis.gallery import PHOTOGRAPHS, open_photograph
from qvision.model.onnx import EXPORTING, export_onnx, require_packages

MODEL = 'package:captioner'
PACKAGE = 'onnxruntime-web'
VERSION = '1.30.0'
SHA256 = 'd2228df7e4616bc3348bf504ee888f3bec43789a273f0a63f3e68d203ce3bf71' # of its archive
PARTS = ('ort.wasm.min.mjs', 'ort-wasm-simd-threaded.mjs', 'ort-wasm-simd-threaded.wasm')
EXAMPLE = 'example.png'


class LeftOut(Exception):
    "Why the site is built without the captioner."


def fetch_runtime(store:Path)->Path: # where archives are kept from build to build
    "Return the archive of onnxruntime-web, from npm where it is not there yet."
    archive = store/f'{PACKAGE}-{VERSION}.tgz'
    if not archive.is_file():
        npm = shutil.which('npm')
        if not npm: raise LeftOut('npm, which comes with Node.js, is not installed')
        store.mkdir(parents=True, exist_ok=True)
        command = [npm, 'pack', f'{PACKAGE}@{VERSION}', '--silent', '--pack-destination', str(store)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode or not archive.is_file():
            said = (done.stderr.strip().splitlines() or [f'exit code {done.returncode}'])[0]
            raise LeftOut(f'npm cannot fetch {PACKAGE} {VERSION} ({said})')
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != SHA256: raise ValueError(f'{archive} has the SHA-256 {found}, not {SHA256}: remove it')
    return archive


def unpack_runtime(archive:Path, folder:Path)->None:
    "Write the parts of onnxruntime-web that run on a processor."
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive) as tar:
        for name in PARTS: (folder/name).write_bytes(tar.extractfile(f'package/dist/{name}').read())


def write_example(folder:Path)->str|None: # its credit; None where scikit-image is missing
    "Write a freely licensed photograph."
    try: picture = open_photograph(PHOTOGRAPHS[0])
    except ModuleNotFoundError: return None
    picture.save(folder/EXAMPLE)
    return f'{PHOTOGRAPHS[0].credit}, {PHOTOGRAPHS[0].licence}'


def collect(folder:Path, # is written anew
            store:Path,  # of archives from npm
           )->dict:      # what the page says of it
    "Write what the page loads: graphs, onnxruntime, an example; raise `LeftOut` where that cannot be had."
    try: require_packages(EXPORTING)
    except RuntimeError as error: raise LeftOut(str(error)) from None
    archive = fetch_runtime(store) # before the export, which takes longer
    shutil.rmtree(folder, ignore_errors=True)
    unpack_runtime(archive, folder/'ort')
    config = export_onnx(Captioner.from_pretrained(MODEL), folder/'model', attentions=True, half=True)
    def size(part): return sum(path.stat().st_size for path in (folder/part).iterdir())
    loaded = size('model') + (folder/'ort'/PARTS[-1]).stat().st_size # what the page's bar counts
    return dict(trained_on=config['trained_on'], beams=config['num_beams'], loaded=loaded, model=size('model'),
                runtime=size('ort'), example=write_example(folder))


def _megabytes(n:int)->str: return f'{n/1e6:.0f} MB'


def _widget(found:dict)->str:
    "Return the HTML that page.js brings to life."
    example = '' if not found['example'] else (
        f'<button type="button" class="try-example" data-picture="docs/try/{EXAMPLE}" '
        f'title="{html.escape(found["example"])}">Take an example</button>')
    return f'''<link rel="stylesheet" href="docs/try/try.css">
<div id="try" class="try" data-bytes="{found['loaded']}">
<div class="try-drop">
<label class="try-choose">Choose a photograph<input class="try-file" type="file" accept="image/*"></label>
{example}
<span>or drop one here, or paste one</span>
</div>
<noscript>This page needs JavaScript: the captioner is a program that your browser runs.</noscript>
<p class="try-status" role="status"></p>
<progress class="try-bar" aria-label="Loading" hidden></progress>
<div class="try-words" role="group" aria-label="Caption"></div>
<p class="try-note" hidden>Point at a word, or tab to it: what stays bright is where it comes from. Below it is its
probability after the words before it; the bluer it is, the more it needs the picture.</p>
<div class="try-figure" hidden><canvas class="try-picture" role="img" aria-label="The photograph"></canvas>
<canvas class="try-veil" aria-hidden="true" hidden></canvas></div>
</div>
<script src="docs/try/page.js"></script>'''


def _about(found:dict)->str:
    "Return what a visitor may want to know, as Markdown."
    search = f'captions are searched with {found["beams"]} beams' if found['beams'] > 1 else 'words are chosen greedily'
    return (
        '## What runs here\n\n'
        f'- **The captioner that ships** (`{MODEL}`), trained on {found["trained_on"]}. Photographs unlike those are '
        'guessed at; [the results](results.html) say how often it is right.\n'
        '- **In your browser, on its processor**: onnxruntime as WebAssembly runs the [exported graphs]'
        '(model/onnx.html), whose weights are stored in float16. Your picture is sent nowhere. The first one loads '
        f'{_megabytes(found["model"])} of captioner and {_megabytes(found["runtime"])} of onnxruntime from this site; '
        'how long a caption took is said above it.\n'
        '- **The same caption as in Python**, of `qvision caption photo.jpg`: the picture is resized as Pillow does '
        f'it, and {search}, as transformers does it.\n'
        "- **Maps** are composed from attention ([rollout](analysis/attribution.html)): the text's to the visual "
        'tokens, and theirs to the patches of the picture. They show where the captioner looked, which is not always '
        'why it said a word; an empty corner that stays bright is an attention sink. See the '
        '[measurements](attention.html), and `qvision explain` for other methods.\n')


def page(found:dict|None, # as of `collect`; None where it was left out
         why:str='',
        )->str:
    "Return the page as Markdown."
    head = '---\ntitle: Try it\ndescription: Caption a photograph of your own, in your own browser.\n---\n\n'
    if found is None:
        return (f'{head}This copy of the site was built without the captioner: {html.escape(why)}. '
                'Here are [other ways](index.html#caption-a-photograph) to caption a photograph.\n')
    return f'{head}{raw(_widget(found))}\n\n{_about(found)}'


def with_link(text:str)->str: # the home page, as Markdown
    "Return the home page with a line that leads to the page."
    line = '**[Try it](try.html)** with a photograph of your own, in your own browser: nothing is uploaded.\n\n'
    return text.replace('\n## ', f'\n{line}## ', 1)


def prepare(folder:Path, store:Path)->tuple: # what `collect` returns or None, and the page
    "Collect what the page needs, and write it; say so where the captioner is left out."
    try: found = collect(folder, store)
    except LeftOut as reason:
        shutil.rmtree(folder, ignore_errors=True)
        print(f'the page "Try it" is built without its captioner: {reason}')
        return None, page(None, str(reason))
    return found, page(found)
