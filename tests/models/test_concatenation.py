"""Conditions that are appended as channels: to the network's input alone, at every evaluation."""

from __future__ import annotations

import pytest
import torch

import pushforward as pf
from pushforward.errors import ArgumentError, ShapeError
from pushforward.models import ConcatCondition, adapt, painting_condition

X = torch.randn(3, 4, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
KNOWN = torch.randn(3, 5, 2, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def network(x, t, scale=1.0):
    assert x.shape[1] == 9
    return scale * (x[:, 4:8] * x[:, 8:] - x[:, :4])


def model(**options):
    return ConcatCondition("known", 4, 5).on(adapt(network, **options))


def test_channels_are_appended_and_rows_stay_together() -> None:
    plain = network(torch.cat([X, KNOWN], 1), None)
    bound = model(null={"known": torch.zeros(1, 5, 2, 2, dtype=torch.float64)}).bind({"known": KNOWN})
    cond, null = bound.evaluate(X, 0.3, ("cond", "null"))
    assert bound.calls == 1
    assert torch.equal(cond, plain)
    assert torch.equal(null, -X)
    assert torch.equal(bound.select([2, 0]).evaluate(X[[2, 0]], 0.3)[0], plain[[2, 0]])
    shared = model().bind({"known": KNOWN[:1], "scale": 2.0}).evaluate(X, 0.3)[0]
    assert torch.equal(shared, network(torch.cat([X, KNOWN[:1].expand(3, -1, -1, -1)], 1), None, 2.0))


def test_solvers_neither_noise_nor_advance_them() -> None:
    """x' = c - x for c of the condition: an Euler run has a closed form in it."""
    x = pf.sample(model(), X, solver="euler", steps=5, condition={"known": KNOWN})
    target = KNOWN[:, :4] * KNOWN[:, 4:]
    torch.testing.assert_close(x, target + (X - target) * 0.8**5, rtol=1e-13, atol=1e-13)


def test_gradients_by_the_state_have_its_shape() -> None:
    x = X.clone().requires_grad_()
    model().bind({"known": KNOWN}).evaluate(x, 0.5)[0].sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, -torch.ones_like(X))


def test_what_a_painter_is_told() -> None:
    mask = torch.tensor([[[[1.0, 0.0], [0.5, 1.0]]]], dtype=torch.float64)
    told = painting_condition(X, mask)
    assert told.shape == (3, 5, 2, 2)
    assert torch.equal(told[:, 4:], mask.expand(3, 1, 2, 2))
    assert torch.equal(told[:, :4], X * (1 - mask))
    assert torch.equal(painting_condition(X, mask > 0.7)[0, 4], (mask > 0.7)[0, 0].double())
    with pytest.raises(ArgumentError, match=r"mask: got values from -1 to 1, expected values in \[0, 1\], 1 = paint"):
        painting_condition(X, 2 * (mask > 0.7) - 1)
    with pytest.raises(ShapeError, match=r"mask: got \[1, 1, 4, 4\], expected \[3 or 1, 1, 2, 2\]"):
        painting_condition(X, torch.ones(1, 1, 4, 4))


def test_channels_that_do_not_add_up_are_counted() -> None:
    said = r"got 4 \+ 4, expected 9 channels, as the network takes = 4 state \+ 5 condition"
    with pytest.raises(ShapeError, match=said):
        model().evaluate(X, 0.5, {"known": KNOWN[:, :4]})
    with pytest.raises(ShapeError, match="channels=4"):
        model().evaluate(X[:, :3], 0.5, {"known": KNOWN})
    with pytest.raises(ShapeError, match=r"condition 'known': got \[3, 5, 1, 2\], expected \[3, 5, 2, 2\]"):
        model().evaluate(X, 0.5, {"known": KNOWN[:, :, :1]})
    with pytest.raises(ArgumentError, match=r"condition: got \[\], expected a tensor 'known' to append"):
        model().evaluate(X, 0.5)
    open_state = adapt(network, call=ConcatCondition("known", None, 5))  # of the state's channels nobody has spoken
    assert open_state.evaluate(X, 0.5, {"known": KNOWN})[0].shape == X.shape
    with pytest.raises(ShapeError, match=r"got 4 \+ 4, expected 9 channels"):
        open_state.evaluate(X, 0.5, {"known": KNOWN[:, :4]})
    with pytest.raises(ArgumentError, match="condition: got 0, expected at least one channel"):
        ConcatCondition("known", 4, 0)
