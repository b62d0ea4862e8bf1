"""What trains a flow from encoded data."""

from __future__ import annotations

import pytest
import torch

from pushforward.errors import ArgumentError, ShapeError
from pushforward.models.training.crossflow import contrast, indicator_targets, source_penalty
from pushforward.models.training.digits import Digits
from pushforward.models.training.finetune import finetune


def test_the_penalty_frees_means_and_holds_variances() -> None:
    """The sixth power; with the second it is the divergence of two normals, in closed form."""
    mean, log_variance = torch.tensor([[0.5, 3.0]]).double(), torch.tensor([[0.0, 0.4]]).double()
    assert source_penalty(mean[:, :1], log_variance[:, :1]).item() == pytest.approx(0.5 * 0.15**6, rel=1e-12)
    normal = torch.distributions.Normal
    exact = torch.distributions.kl_divergence(normal(mean, (log_variance / 2).exp()), normal(0.0, 1.0)).mean()
    assert source_penalty(mean, log_variance, power=2, scale=1.0).item() == pytest.approx(exact.item(), rel=1e-12)
    with pytest.raises(ArgumentError, match="power: got 3, expected an even number"):
        source_penalty(mean, log_variance, power=3)
    with pytest.raises(ShapeError, match="log_variance"):
        source_penalty(mean, log_variance[:, :1])


def test_the_contrast_is_least_where_partners_agree() -> None:
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    assert contrast(x, 3 * x) < contrast(x, x.roll(1, 0))
    assert contrast(torch.ones(6, 4), x[:1].expand(6, 4)).item() == pytest.approx(torch.tensor(6.0).log().item())
    with pytest.raises(ShapeError, match="features"):
        contrast(x, x[:3])


def test_marked_rows_take_one_anothers_targets() -> None:
    x = torch.arange(12.0).reshape(6, 2)
    ignore = torch.tensor([False, True, False, False, True, True])
    moved = indicator_targets(x, ignore)
    assert torch.equal(moved[~ignore], x[~ignore])
    assert torch.equal(moved[ignore].sort(0).values, x[ignore])
    assert not (moved[ignore] == x[ignore]).any()
    assert indicator_targets(x, torch.arange(6) == 2) is x


def test_a_short_training_leaves_its_starting_point_and_repeats_itself() -> None:
    net = torch.nn.Linear(2, 1)
    before = [p.detach().clone() for p in net.parameters()]
    data = Digits(torch.randn(8, 2, generator=torch.Generator().manual_seed(0)), torch.arange(8))

    def loss(net, x, y, generator):
        return (net(x + 0.1 * torch.randn(x.shape, generator=generator)) - x.sum(1, keepdim=True)).square().mean()

    first, second = (finetune(net, data, loss, steps=20, batch=4, rate=0.05) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), before, strict=True))
    assert torch.equal(first.weight, second.weight)
    assert not first.weight.requires_grad
    with torch.no_grad():
        plain = torch.Generator().manual_seed(1)
        assert loss(first, data.images, None, plain) < loss(net, data.images, None, plain)
    with pytest.raises(ArgumentError, match="data: got 8 samples, expected a batch of 9 at least"):
        finetune(net, data, loss, steps=1, batch=9)
