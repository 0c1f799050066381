"""Put a training run's captioner into the package: what it trained, in float16, with its model card; its backbones
ship already."""
import sys
from pathlib import Path

import torch

from qvision.config import get_preset
from qvision.model.captioner import Captioner
from qvision.runs.archive import get_run, list_runs
from qvision.runs.cards import write_model_card

WEIGHTS = Path(__file__).resolve().parent.parent/'qvision/weights'


def ship(name:str,           # of the training run
         folder:str,         # of WEIGHTS: 'captioner' or 'captioner-drawings'
         benchmark:str=None, # run that measured what its precisions lose
        )->None:
    "Save the run's captioner and its model card, evaluations of the run included."
    run = get_run(name)
    out = WEIGHTS/folder
    model = Captioner.from_pretrained(run.model)
    model.config.decoding = get_preset(run.params['preset']).decoding
    if benchmark:
        measured = get_run(benchmark).metrics['quality']
        model.config.precision_cider = {name: round(row['difference'], 4) for name, row in measured.items()}
    model.save_pretrained(out, trainable_only=True, dtype=torch.float16)
    evaluations = [r for r in list_runs(kind='evaluate') if r.info.get('parent') == run.name and r.status == 'done']
    write_model_card(model, out, [run, *evaluations])
    print(f'{out}: {(out/"model.safetensors").stat().st_size/1e6:.2f} MB')


if __name__ == '__main__':
    if len(sys.argv) not in (3, 4): sys.exit('usage: ship_captioner.py RUN captioner|captioner-drawings [BENCHMARK]')
    ship(*sys.argv[1:])
