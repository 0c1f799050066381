"What a GPU does: recorded captions, and the benchmark there. The benchmark's quick form runs on a CPU, too."
from functools import partial

import pytest
import torch

from test_experiments import metrics, run_info

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU: torch.cuda.is_available() is False')


@needs_gpu
def test_a_recorded_caption_is_the_greedy_one():
    from qvision.benchmark.peers import visual_keys
    from qvision.inference.cuda_graph import CaptionGraph, unrolled_decode
    from qvision.inference.greedy import greedy_decode
    from qvision.model.captioner import tiny_captioner
    model = tiny_captioner().cuda().eval()
    first, second = torch.randn(2, 2, 3, 32, 32, device='cuda')
    write = partial(unrolled_decode, model, max_new_tokens=6)
    graph = CaptionGraph(write, first)
    assert not write(first).equal(write(second)), 'or a graph that copies nothing would pass'
    for pixels in (second, first, second):
        greedy, _ = greedy_decode(model, visual_keys(model, pixels), 6)
        assert graph(pixels).equal(greedy)
    with pytest.raises(ValueError, match='the graph is of pictures'): graph(first[:1])


@pytest.mark.slow
def test_gpu_benchmark_has_a_quick_form_on_a_cpu(qvision, root, workplace):
    given = dict(device='cpu', quick='true', quiet='true', large='false', name='card')
    qvision('run', 'benchmark_gpu', *[word for k, v in given.items() for word in ('-p', k, v)], cwd=root)
    assert run_info(workplace, 'card')['status'] == 'done'
    found = metrics(workplace, 'card')
    assert {row['form'] for row in found['captions']} == {'float32', 'bfloat16'}
    trained = {row['system'] for row in found['training']}
    assert trained == {'published loop', 'qvision', 'GIT-base', 'BLIP-base, 384 px'}
    assert not [row for row in (*found['captions'], *found['training']) if 'missing' in row]


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
def test_gpu_benchmark_without_a_gpu_says_so(qvision, root, workplace):
    done = qvision('run', 'benchmark_gpu', cwd=root, check=False)
    assert done.returncode == 1
    assert 'torch sees no GPU: -p device cpu -p quick true tries that everything runs' in done.stderr
