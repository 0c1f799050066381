"Put a training run's captioner into the package: what it trained, in float16, with its model card; its backbones ship already."
import sys
from pathlib import Path

import torch

from qvision.captioner import Captioner
from qvision.runs import get_run, list_runs
from qvision.sharing import write_model_card

OUT = Path(__file__).resolve().parent.parent/'qvision/weights/captioner'

if __name__ == '__main__':
    if len(sys.argv) != 2: sys.exit('usage: ship_captioner.py RUN')
    run = get_run(sys.argv[1]); model = Captioner.from_pretrained(run.model)
    model.save_pretrained(OUT, trainable_only=True, dtype=torch.float16)
    write_model_card(model, OUT, [run, *(r for r in list_runs(kind='evaluate') if r.info.get('parent') == run.name and r.status == 'done')])
    print(f'{OUT}: {(OUT/"model.safetensors").stat().st_size/1e6:.2f} MB')
