"""The classifier of noisy digits: everything it is told matters, samples do not mix, and misuse is named."""

import pytest
import torch

from pushforward.errors import ArgumentError, DtypeError, ShapeError
from pushforward.models.nets import NoisyClassifier


def net(**sizes):
    torch.manual_seed(0)
    return NoisyClassifier(**({"levels": 3, "width": 8, "embedding": 16} | sizes)).requires_grad_(False)


def inputs(dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, 1, 28, 28, generator=generator, dtype=dtype)
    return x, torch.tensor([0.1, 0.5, 0.9], dtype=dtype), torch.tensor([0, 4, 9])


def test_everything_it_is_told_matters_and_samples_do_not_mix():
    model, (x, t, label) = net().double(), inputs()
    logits = model(x, t, label)
    assert logits.shape == (3, 3)
    for changed in ((x + 0.1, t, label), (x, t + 0.1, label), (x, t, (label + 1) % 10)):
        assert (model(*changed) - logits).abs().amax(1).min() > 1e-4
    alone = torch.cat([model(x[i : i + 1], t[i : i + 1], label[i : i + 1]) for i in range(3)])
    assert (alone - logits).abs().max() < 1e-12
    assert not list(model.buffers()), "a buffer would be rounded by .to(dtype)"


def test_its_gradient_is_that_of_differences():
    model, (x, t, label) = net().double(), inputs()
    x.requires_grad_()
    (slope,) = torch.autograd.grad(model(x, t, label).log_softmax(1)[:, -1].sum(), x)
    way = torch.randn(x.shape, generator=torch.Generator().manual_seed(2), dtype=x.dtype)
    ends = [model(x + h * way, t, label).log_softmax(1)[:, -1].sum() for h in (1e-5, -1e-5)]
    difference = (ends[0] - ends[1]).item() / 2e-5
    assert difference == pytest.approx((slope * way).sum().item(), rel=1e-6)


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        (lambda x, t, y: (x[:, 0], t, y), ShapeError, r"x: got \[3, 28, 28\]"),
        (lambda x, t, y: (x, t[:2], y), ShapeError, r"t: got \[2\], expected \[3\]"),
        (lambda x, t, y: (x, t, y[:, None]), ShapeError, r"label: got \[3, 1\]"),
        (lambda x, t, y: (x.float(), t, y), DtypeError, "x: got torch.float32, expected torch.float64"),
        (lambda x, t, y: (x, y, y), DtypeError, "t, label: got torch.int64"),
    ],
)
def test_misuse(change, error, said):
    with pytest.raises(error, match=said):
        net().double()(*change(*inputs()))


@pytest.mark.parametrize("sizes", [{"levels": 1}, {"classes": 0}, {"width": 12}])
def test_impossible_sizes(sizes):
    with pytest.raises(ArgumentError):
        net(**sizes)
