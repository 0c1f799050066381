"Put a training run's captioner into the package: what it trained, in float16; its backbones ship already."
import sys
from pathlib import Path

import torch

from qvision.captioner import Captioner
from qvision.runs import get_run

OUT = Path(__file__).resolve().parent.parent/'qvision/weights/captioner'

if __name__ == '__main__':
    if len(sys.argv) != 2: sys.exit('usage: ship_captioner.py RUN')
    Captioner.from_pretrained(get_run(sys.argv[1]).model).save_pretrained(OUT, trainable_only=True, dtype=torch.float16)
    print(f'{OUT}: {(OUT/"model.safetensors").stat().st_size/1e6:.2f} MB')
