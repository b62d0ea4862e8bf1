"""A sample's numbers do not depend on what it is computed with."""

import pytest
import torch
from kernel_variants import cpu_backends, fast_backends

from pushforward.kernels import Draw, Noise, backend, combine, normal

AVAILABLE, FAST = cpu_backends("combine"), fast_backends("combine")
DRAW = Draw(purpose=1, step=4, stage=1, attempt=2)


@pytest.fixture(params=[1, 2])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", FAST)
@pytest.mark.parametrize("inner", [(), (2,), (3, 5, 5), (4, 31, 33)])
def test_batching(name, inner, threads):
    samples = torch.randint(2**62, (64,), generator=torch.Generator().manual_seed(0))
    x = torch.randn(64, *inner, generator=torch.Generator().manual_seed(1))
    weights = torch.randn(64, 1, generator=torch.Generator().manual_seed(2), dtype=torch.float64)

    def step(rows):
        noise = Noise(9, DRAW, samples[rows])
        return combine([x[rows]], weights[rows], noise=noise, scale=weights[rows, 0] * 2)

    with backend(name):
        whole = step(torch.arange(64))
        alone = torch.cat([step(torch.tensor([row])) for row in range(64)])
        sevens = torch.cat([step(rows) for rows in torch.arange(64).split(7)])
        order = torch.randperm(64, generator=torch.Generator().manual_seed(3))
        permuted = torch.empty_like(whole)
        permuted[order] = step(order)
    with backend("reference"):
        expected = step(torch.arange(64))
    for other in (alone, sevens, permuted, expected):
        assert torch.equal(whole, other)


@pytest.mark.parametrize("name", AVAILABLE)
def test_threads_do_not_change_a_bit(name):
    x = torch.randn(3, 50_001, generator=torch.Generator().manual_seed(1))
    before, results = torch.get_num_threads(), []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        with backend(name):
            results.append(combine([x, x], [[1, 2], [3, -4]], noise=Noise(0, DRAW), scale=[1, 2]))
    torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("name", AVAILABLE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_noise_in_the_pass_is_the_noise_as_a_tensor(name, dtype):
    x = torch.randn(4, 6, 10, 10).to(dtype)
    with backend(name):
        z = normal(x.shape, seed=3, draw=DRAW, dtype=dtype)
        for layout in (torch.contiguous_format, torch.channels_last):  # elements are numbered logically
            like = x.to(memory_format=layout)
            assert torch.equal(combine([like], [0.0], noise=Noise(3, DRAW), scale=1.0), z)
        out = torch.empty(10, 10, 6, 4, dtype=dtype).permute(3, 2, 1, 0)
        assert torch.equal(combine([x], [0.0], out=out, noise=Noise(3, DRAW), scale=1.0), z)
    assert torch.equal(z, normal(x.shape, seed=3, draw=DRAW).to(dtype))


@pytest.mark.parametrize("name", AVAILABLE)
def test_a_longer_sample_begins_like_a_shorter_one(name):
    with backend(name):
        assert torch.equal(normal((2, 1000), seed=1, draw=DRAW)[:, :37], normal((2, 37), seed=1, draw=DRAW))
