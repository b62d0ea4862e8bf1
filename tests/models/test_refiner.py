"""The refiner's network, its training problem, and what it has learnt."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import pytest
import torch

from pushforward.errors import ArgumentError, ShapeError
from pushforward.models import bundled
from pushforward.models.nets import DigitUNet, VelocityRefiner
from pushforward.models.training.digits import Digits
from pushforward.models.training.train_refiner import RECIPES, Pairs, pairs, share_of_operations, unexplained

RECIPE = RECIPES["digits28-refiner"]


@pytest.fixture(scope="module")
def problem() -> Pairs:
    """Of images that are noise, which is all that the algebra needs; gaps so long that many pass the end."""
    generator = torch.Generator().manual_seed(0)
    data = Digits(torch.rand(40, 1, 28, 28, generator=generator) * 2 - 1, torch.arange(40) % 10)
    teacher = cast(DigitUNet, bundled.load("digits28-small"))
    return pairs(teacher, data, 60, replace(RECIPE, label_dropout=0.5, reach=0.5), seed=1)


def test_pairs_are_the_objective_of_the_paper(problem: Pairs) -> None:
    teacher = bundled.load("digits28-small")
    state, earlier = problem.inputs.chunk(2, dim=1)
    with torch.no_grad():
        now = teacher(state, problem.times, problem.labels)
    torch.testing.assert_close(now - earlier, problem.changes, rtol=1e-4, atol=1e-4)
    assert problem.times.max() == 1, "t + dt is clamped"
    assert (problem.times < 0.5).any()
    dropped = (problem.labels == 10).double().mean().item()
    assert 0.25 < dropped < 0.75, "half of 60 labels, to four standard deviations"
    assert problem.labels.unique().numel() > 8


def test_an_untrained_refiner_leaves_velocities_as_they_are(problem: Pairs) -> None:
    net = VelocityRefiner(**RECIPE.arguments)
    assert unexplained(net, problem) == 1
    assert net(problem.inputs[:0], problem.times[:0], problem.labels[:0]).shape == (0, 1, 28, 28)
    assert net.null == 10


def test_the_bundled_refiner_costs_a_twentieth_of_its_teacher() -> None:
    net, card = bundled.load("digits28-refiner"), bundled.card("digits28-refiner")
    share = share_of_operations(net, bundled.load("digits28-base"))
    assert share == pytest.approx(card["metrics"]["share_of_operations"], rel=1e-3)
    assert share <= 0.05


@pytest.mark.parametrize(
    ("x", "t", "label", "message"),
    [
        (torch.zeros(2, 1, 28, 28), torch.zeros(2), torch.zeros(2).long(), "states and velocities"),
        (torch.zeros(2, 2, 28, 28), torch.zeros(()), torch.zeros(2).long(), "t: got"),
        (torch.zeros(2, 2, 28, 28), torch.zeros(2), torch.zeros(1).long(), "label: got"),
    ],
)
def test_misshapen_input_is_named(x: torch.Tensor, t: torch.Tensor, label: torch.Tensor, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        VelocityRefiner(16, 32)(x, t, label)


def test_a_width_that_group_norm_cannot_take_is_refused() -> None:
    with pytest.raises(ArgumentError, match="width: got 12"):
        VelocityRefiner(12)
