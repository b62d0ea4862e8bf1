"""Rewards made of rewards, against their formulas; and what they refuse."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pushforward.errors import ArgumentError, NotFiniteError, ShapeError
from pushforward.models.verifiers import (
    Batched,
    Cached,
    Decoded,
    Negated,
    Product,
    Scaled,
    StepCount,
    Threshold,
    Timed,
    WeightedSum,
    evaluate,
    evaluate_with_graph,
    is_differentiable,
    is_rowwise,
    lower_is_better,
)

X = torch.tensor([[0.5, 0.25], [-1.0, 2.0], [3.0, 0.0]], dtype=torch.float64)


def first(x: Tensor, context: object) -> Tensor:
    return x[:, 0]


def square(x: Tensor, context: object) -> Tensor:
    return x.square().sum(1)


def counted(x: Tensor, context: object) -> list[int]:
    return [int(row.sum() > 0) for row in x]


first.differentiable = square.differentiable = True  # type: ignore[attr-defined]
counted.differentiable = False  # type: ignore[attr-defined]


def test_a_weighted_sum_mixes_whatever_rewards_return() -> None:
    reward = WeightedSum([first, square, counted], [2.0, -0.5, 10.0])
    expected = 2 * X[:, 0] - 0.5 * X.square().sum(1) + torch.tensor([10.0, 10.0, 10.0])
    assert torch.equal(evaluate(reward, X), expected)
    assert torch.equal(evaluate(WeightedSum([first, square]), X), X[:, 0] + X.square().sum(1))


def test_a_term_of_weight_zero_is_not_called() -> None:
    def never(x: Tensor, context: object) -> Tensor:
        raise AssertionError("called")

    reward = WeightedSum([first, never], [1.0, 0.0])
    assert torch.equal(evaluate(reward, X), X[:, 0])
    assert reward.differentiable is True


def test_a_product_is_that_of_its_factors_and_refuses_a_negative_one() -> None:
    assert torch.equal(evaluate(Product([square, square]), X), X.square().sum(1) ** 2)
    with pytest.raises(ArgumentError, match="factor first: got -1, expected numbers >= 0"):
        evaluate(Product([square, first]), X)


def test_a_threshold_forbids_and_a_sum_keeps_the_rest() -> None:
    constraint = Threshold(first, 0.5)
    assert evaluate(constraint, X).tolist() == [0.0, -math.inf, 0.0]
    assert evaluate(WeightedSum([square, constraint]), X).tolist() == [0.3125, -math.inf, 9.0]
    x = X.clone().requires_grad_()
    (slope,) = torch.autograd.grad(evaluate_with_graph(WeightedSum([square, constraint]), x)[[0, 2]].sum(), x)
    assert torch.equal(slope[[0, 2]], 2 * X[[0, 2]]), "the constraint has no gradient of its own"
    assert evaluate(Threshold(lambda x, context: [math.inf] * len(x), 0.0), X).tolist() == [0.0] * 3, "not 0 * inf"


def test_steps_are_counted_hard_or_softly() -> None:
    levels = [0.0, 0.5, 2.0]
    assert evaluate(StepCount(first, levels), X).tolist() == [2.0, 0.0, 3.0]
    soft = sum(torch.sigmoid((X[:, 0] - level) / 0.3) for level in levels)
    torch.testing.assert_close(evaluate(StepCount(first, levels, 0.3), X), soft, rtol=1e-14, atol=0)
    # As the width goes to 0, the soft count becomes the hard one wherever the reward is on no level.
    torch.testing.assert_close(evaluate(StepCount(first, levels, 1e-3), X)[1:], torch.tensor([0.0, 3.0]).double())
    assert StepCount(first, levels).differentiable is False
    assert StepCount(first, levels, 0.3).differentiable is True


def test_a_loss_is_turned_round() -> None:
    class Loss:
        higher_is_better = False
        differentiable = True

        def __call__(self, x: Tensor, context: object) -> Tensor:
            return torch.where(x[:, 0] > 2, torch.inf, x.square().sum(1))

    assert evaluate(lower_is_better(Loss()), X).tolist() == [-0.3125, -5.0, -math.inf]
    assert isinstance(lower_is_better(square), Negated)
    for bad in (lambda: WeightedSum([first, Loss()]), lambda: Threshold(Loss(), 0.0), lambda: Cached(Loss())):
        with pytest.raises(ArgumentError, match="lower_is_better"):
            bad()


def test_a_scaled_reward_is_affine_and_can_be_standardised() -> None:
    assert torch.equal(evaluate(Scaled(first, 2.0, -1.0), X), 2 * X[:, 0] - 1)
    values = torch.tensor([1.0, -math.inf, 4.0, 7.0])
    reward = Scaled.standardised(first, values)
    scored = evaluate(reward, torch.tensor([[1.0], [4.0], [7.0]], dtype=torch.float64))
    torch.testing.assert_close(scored, torch.tensor([-1.0, 0.0, 1.0]).double(), rtol=0, atol=1e-15)
    for flat in (torch.ones(5), torch.tensor([1.0, -math.inf]), torch.empty(0)):
        with pytest.raises(ArgumentError, match="values that vary"):
            Scaled.standardised(first, flat)


SMOOTH = {
    "sum": WeightedSum([first, square], [0.3, -2.0]),
    "product": Product([square, square]),
    "soft steps": StepCount(first, [0.0, 1.0], 0.7),
    "negated": lower_is_better(square),
    "scaled": Scaled(square, 0.5, 3.0),
    "batched": Batched(square, 2),
    "cached": Cached(square),
    "timed": Timed(square),
    "decoded": Decoded(square, torch.tanh),
}


@pytest.mark.parametrize("reward", SMOOTH.values(), ids=SMOOTH)
def test_gradients_pass_through(reward: object) -> None:
    x = X.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: evaluate_with_graph(reward, x), (x,))  # type: ignore[arg-type]
    assert reward.differentiable is True  # type: ignore[attr-defined]


def test_flags_follow_from_the_parts() -> None:
    def unknown(x: Tensor, context: object) -> Tensor:
        return x[:, 0]

    assert is_differentiable(first, square) is True
    assert is_differentiable(first, unknown) is None
    assert is_differentiable(first, unknown, counted) is False
    assert WeightedSum([first, unknown]).differentiable is None
    assert Timed(Scaled(Product([square, counted]))).differentiable is False
    unknown.rowwise = False  # type: ignore[attr-defined]
    assert is_rowwise(first, square)
    assert not WeightedSum([first, unknown]).rowwise


def test_nan_is_traced_to_its_part() -> None:
    def broken(x: Tensor, context: object) -> Tensor:
        return x[:, 0].sqrt()

    reward = Timed(WeightedSum([square, Batched(Scaled(broken), 2)]))
    with pytest.raises(
        NotFiniteError, match=r"step 4: reward Timed\(.*got NaN in row 1 of 3, .* It comes from [\w.<>]*broken$"
    ):
        evaluate(reward, X, where="step 4")
    for hides in (StepCount(broken, [0.0]), StepCount(broken, [0.0], 0.1), Threshold(broken, 0.0), Cached(broken)):
        with pytest.raises(NotFiniteError, match=r"row 1 of 3.* It comes from [\w.<>]*broken$"):
            evaluate(hides, X)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: WeightedSum([]), "rewards: got none, expected a list of at least one"),
        (lambda: WeightedSum(first), "rewards: got one reward"),  # type: ignore[arg-type]
        (lambda: WeightedSum([first, 3.0]), r"rewards\[1\]: got float, expected a function"),  # type: ignore[list-item]
        (lambda: WeightedSum([first], [math.nan]), "weights: got nan, expected a finite number"),
        (lambda: Product([]), "rewards: got none"),
        (lambda: Threshold(first, math.inf), "minimum: got inf"),
        (lambda: Threshold("first", 0.0), "reward: got str"),  # type: ignore[arg-type]
        (lambda: StepCount(first, []), "levels: got none"),
        (lambda: StepCount(first, [0.0, math.nan]), "levels: got nan"),
        (lambda: StepCount(first, [0.0], -1.0), "width: got -1.0"),
        (lambda: Scaled(first, 0.0), "scale: got 0.0, expected a finite number > 0. Negated"),
        (lambda: Scaled(first, 1.0, math.inf), "offset: got inf"),
        (lambda: lower_is_better(None), "loss: got NoneType"),  # type: ignore[arg-type]
    ],
)
def test_what_cannot_be_combined_is_refused(make: object, said: str) -> None:
    with pytest.raises(ArgumentError, match=said):
        make()  # type: ignore[operator]


def test_as_many_weights_as_rewards() -> None:
    with pytest.raises(ShapeError, match="weights: got 1, expected 2, one a reward"):
        WeightedSum([first, square], [1.0])


def test_a_part_of_another_shape_is_named() -> None:
    def column(x: Tensor, context: object) -> Tensor:
        return x[:, :1]

    with pytest.raises(ShapeError, match=r"shape \[3, 1\] for 3 rows; expected one float per row. .*column"):
        evaluate(WeightedSum([first, column]), X)


def test_the_configuration_is_printed() -> None:
    assert repr(WeightedSum([first, Scaled(square, 2.0)], [1, 0.5])) == (
        "WeightedSum(rewards=(first, Scaled(reward=square, scale=2.0)), weights=(1.0, 0.5))"
    )
    assert repr(Threshold(StepCount(first, [1]), 1.0)) == (
        "Threshold(reward=StepCount(reward=first, levels=(1.0,)), minimum=1.0)"
    )
