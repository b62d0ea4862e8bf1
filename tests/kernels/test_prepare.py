"""`prepare`: the same numbers as `combine`, from either backend, and nothing left to allocate."""

import pytest
import torch
from kernel_variants import cpu_backends

from pushforward.kernels import Draw, Noise, backend, combine, prepare

AVAILABLE = cpu_backends("combine")


@pytest.mark.parametrize("name", AVAILABLE)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_equals_combine(name, layout, dtype):
    tensors = [torch.randn(2, 4, 5, 6).to(dtype).to(memory_format=layout) for _ in range(4)]
    outs = [torch.empty_like(tensors[0]) for _ in range(2)]
    rows = [[1.0, -0.5, 0.25, 2.0], [0.1, 0.2, 0.3, 0.4]]
    noise = {"noise": Noise(5, Draw(1, 2), torch.tensor([4, 9])), "scale": [0.5, 0.0]}
    with backend(name):
        step = prepare([tensors[0], None, tensors[2], None], rows, outs, **noise)
        for change in range(2):
            changing = [tensors[1] + change, tensors[3] - change]
            assert step(*changing) == 0
            expected = combine([tensors[0], changing[0], tensors[2], changing[1]], rows, **noise)
            assert all(torch.equal(a, b) for a, b in zip(outs, expected, strict=True))


@pytest.mark.parametrize("name", AVAILABLE)
def test_in_place_per_sample_and_status(name):
    x, v = torch.ones(3, 4), torch.full((3, 4), 2.0)
    weights = torch.tensor([[1.0, 0.5], [1.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
    with backend(name):
        step = prepare([x, None], weights, x)
        weights.zero_() if name == "reference" else None  # kept by value or alive, the caller must not care
        weights.copy_(torch.tensor([[1.0, 0.5], [1.0, 1.0], [1.0, 0.0]]))
        assert step(v) == 0
        assert x[:, 0].tolist() == [2.0, 3.0, 1.0]
        v[1, 2] = torch.nan
        assert step(v) == 1
        v[1, 2] = 0.0
        x.zero_()
        assert step(v) == 0, "the status belongs to one call"


@pytest.mark.parametrize("name", AVAILABLE)
def test_operands_are_kept_alive(name):
    out = torch.empty(2, 50_000)
    with backend(name):
        noise = Noise(0, Draw(1, 0), torch.tensor([3, 4]) + 1)
        step = prepare(
            [torch.ones(2, 50_000)], torch.full((2, 1), 3.0, dtype=torch.float64), out, noise=noise, scale=0.0
        )
        del noise
        junk = [torch.full((2, 50_000), 7.0) for _ in range(3)]
        assert step() == 0
    assert junk
    assert (out == 3).all()


@pytest.mark.parametrize("name", AVAILABLE)
def test_the_number_of_tensors_is_checked(name):
    with backend(name):
        step = prepare([None, None], [1.0, 1.0], torch.empty(3))
    with pytest.raises(TypeError, match="got 1 tensors, expected 2"):
        step(torch.ones(3))


@pytest.mark.parametrize("name", AVAILABLE)
def test_an_empty_batch(name):
    with backend(name):
        assert prepare([None], [1.0], torch.empty(0, 3), noise=Noise(0, Draw(0, 0)), scale=1.0)(torch.empty(0, 3)) == 0
