"The compiled products are the same to the bit with every set of instructions that this processor has."
import os
import subprocess
import sys

import pytest

from qvision.inference.kernels import missing_tools, supported_instructions

missing = missing_tools()
pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(missing), reason=f'no kernels without {", ".join(missing)}')]

# Integers are exact in float32 here, so that the library's product is the right one.
PRODUCTS = '''
import hashlib
import torch
from qvision.inference.kernels import instructions, kernels
from qvision.inference.quantize import PackedLinear, panels

def layer(weights, bits):
    groups = weights.shape[1]//32 if bits == 4 else 1
    codes = (weights + 2**(bits - 1)).to(torch.uint8)
    scales = torch.ones(len(weights), groups).bfloat16()
    return kernels().Linear(*panels(codes, scales, bits), torch.zeros(len(weights)))

torch.manual_seed(0)
rows = torch.randint(-127, 128, (77, 256)).float()
rows[:, 0] = 127
extremes = torch.full((90, 256), -128)
for bits, weights in ((4, torch.randint(-8, 8, (90, 256))), (8, torch.randint(-128, 128, (90, 256))), (8, extremes)):
    for count in (1, 2, 3, 4, 5, 7, 8, 9, 77): # every size of block
        assert torch.equal(kernels().linear(layer(weights, bits), rows[:count]), rows[:count] @ weights.float().T)
digest = hashlib.sha256()
plain = torch.nn.Linear(200, 333)
for bits in (32, 16, 8, 4):
    for count in (1, 5, 40): digest.update(PackedLinear(plain, bits)(torch.randn(count, 200)).numpy().tobytes())
print(instructions(), digest.hexdigest())
'''


def products(instructions):
    "Run PRODUCTS with a set of instructions, and return its name and the checksum of the products."
    environment = os.environ | dict(QVISION_INSTRUCTIONS=instructions)
    command = [sys.executable, '-c', PRODUCTS]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.fixture(scope='module')
def native(): return products('native')


@pytest.mark.parametrize('name', [name for name in supported_instructions() if name != 'native'])
def test_products_are_the_same_with_other_instructions(native, name):
    assert products(name) == [name, native[1]]
