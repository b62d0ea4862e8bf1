"""The protocol: what a reward may return, what is refused and how, and contexts that follow their rows."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from pushforward.errors import ArgumentError, DtypeError, NotFiniteError, ShapeError
from pushforward.models.verifiers import check_context, evaluate, evaluate_with_graph, name_of, take_rows

X = torch.tensor([[1.0, 2.0], [3.0, -4.0], [0.0, 0.5]])


def total(x: Tensor, context: object) -> Tensor:
    return x.sum(1)


@pytest.mark.parametrize(
    "returned",
    [
        torch.tensor([1.0, -2.0, 0.5]),
        torch.tensor([1.0, -2.0, 0.5], dtype=torch.bfloat16),
        np.array([1.0, -2.0, 0.5], dtype=np.float32)[::1],
        np.array([0.5, -2.0, 1.0])[::-1],
        [1, -2.0, np.float64(0.5)],
        (torch.tensor(1.0), torch.tensor(-2.0), torch.tensor(0.5)),
    ],
    ids=["tensor", "bfloat16", "array", "reversed", "list", "list of tensors"],
)
def test_a_reward_may_return_any_row_of_numbers(returned: object) -> None:
    values = evaluate(lambda x, context: returned, X)
    assert values.dtype == torch.float64
    assert values.tolist() == [1.0, -2.0, 0.5]


def test_integers_and_truth_values_are_numbers_and_minus_infinity_forbids() -> None:
    assert evaluate(lambda x, context: x[:, 0] > 0.5, X).tolist() == [1.0, 1.0, 0.0]
    assert evaluate(lambda x, context: x[:, 0].long(), X).tolist() == [1.0, 3.0, 0.0]
    assert evaluate(lambda x, context: [0.0, -math.inf, 1.0], X).tolist() == [0.0, -math.inf, 1.0]


@pytest.mark.parametrize("shape", [(3, 1), (1,), (), (2,), (4,), (3, 2)], ids=str)
def test_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    said = rf"step 7: reward returned shape \[{', '.join(map(str, shape))}\] for 3 rows; expected one float per row"
    with pytest.raises(ShapeError, match=said):
        evaluate(lambda x, context: torch.zeros(shape), X, where="step 7")


@pytest.mark.parametrize(
    "returned",
    [
        torch.zeros(3, dtype=torch.complex64),
        np.zeros(3, dtype=np.complex128),
        np.array(["a", "b", "c"]),
        ["0", "1", "2"],
        [1.0, 2.0, None],
        [torch.zeros(2), torch.zeros(2), torch.zeros(2)],
        None,
        2.0,
    ],
    ids=["complex", "complex array", "strings array", "strings", "None inside", "rows", "None", "one number"],
)
def test_what_is_no_number_is_refused(returned: object) -> None:
    with pytest.raises(DtypeError, match="expected real numbers"):
        evaluate(lambda x, context: returned, X)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nan_and_plus_infinity_are_refused_naming_the_row(value: float) -> None:
    def reward(x: Tensor, context: object) -> list[float]:
        return [0.0, value, value]

    kind = "NaN" if math.isnan(value) else r"\+inf"
    with pytest.raises(NotFiniteError, match=rf"step 2: reward .*reward: got {kind} in row 1 of 3 \(2 rows"):
        evaluate(reward, X, where="step 2")
    with pytest.raises(NotFiniteError, match="request 0, slot 1: reward"):
        evaluate(reward, X, where=lambda row: f"request 0, slot {row}")


def test_what_cannot_be_scored_is_refused() -> None:
    class Loss:
        higher_is_better = False

        def __call__(self, x: Tensor, context: object) -> Tensor:
            return x.sum(1)

    with pytest.raises(ArgumentError, match="lower_is_better"):
        evaluate(Loss(), X)
    with pytest.raises(ArgumentError, match="reward: got float, expected a function"):
        evaluate(2.0, X)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="x: got list"):
        evaluate(total, X.tolist())  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match="without dimensions"):
        evaluate(total, torch.tensor(1.0))


def test_no_rows_are_no_call() -> None:
    def reward(x: Tensor, context: object) -> Tensor:
        raise AssertionError("called")

    values = evaluate(reward, torch.empty(0, 2))
    assert values.shape == (0,)
    assert values.dtype == torch.float64
    assert evaluate_with_graph(reward, torch.empty(0, 2, requires_grad=True)).shape == (0,)


def test_evaluation_records_no_graph() -> None:
    seen = []

    def reward(x: Tensor, context: object) -> Tensor:
        seen.append(torch.is_grad_enabled())
        return x.sum(1)

    assert not evaluate(reward, X.clone().requires_grad_()).requires_grad
    assert seen == [False]


def test_gradients_flow_if_they_are_asked_for_even_under_no_grad() -> None:
    x = X.clone().requires_grad_()
    with torch.no_grad():
        values = evaluate_with_graph(lambda x, context: -x.square().sum(1), x)
    (slope,) = torch.autograd.grad(values.sum(), x)
    assert torch.equal(slope, -2 * X)


def test_a_reward_without_a_graph_is_refused() -> None:
    x = X.clone().requires_grad_()
    needs = "TDS needs a differentiable reward; use SMC with potentials"
    for reward in (
        lambda x, context: x.detach().sum(1),
        lambda x, context: x.sum(1).tolist(),
        lambda x, context: (x > 0).sum(1),
    ):
        with pytest.raises(ArgumentError, match=f"step 3: reward .* without a graph. {needs}"):
            evaluate_with_graph(reward, x, where="step 3")

    def flat(x: Tensor, context: object) -> Tensor:
        raise AssertionError("called")

    flat.differentiable = False  # type: ignore[attr-defined]
    with pytest.raises(ArgumentError, match=f"flat says that it is not differentiable. {needs}"):
        evaluate_with_graph(flat, x)
    with pytest.raises(ArgumentError, match="requires no gradient"):
        evaluate_with_graph(total, X)
    with torch.inference_mode(), pytest.raises(ArgumentError, match="inference mode"):
        evaluate_with_graph(total, x)
    with pytest.raises(NotFiniteError, match="NaN in row 1"):
        evaluate_with_graph(lambda x, context: x.sum(1).sqrt(), x)


def test_names() -> None:
    def named(x: Tensor, context: object) -> Tensor:
        return x.sum(1)

    assert name_of(total) == "total"
    named.name = "mine"  # type: ignore[attr-defined]
    assert name_of(named) == "mine"


# --- contexts -----------------------------------------------------------------------------------------------------

CONTEXT = {
    "label": torch.tensor([3, 1, 4]),
    "prompt": ["a", "b", "c"],
    "image": {"pixels": np.arange(6).reshape(3, 2), "shared": torch.ones(1, 28)},
    "pair": [torch.arange(3.0), torch.tensor(7.0)],
    "scale": 2.5,
    "unit": "mm",
    "nothing": None,
}


@pytest.mark.parametrize("index", [[2, 0, 2, 1], torch.tensor([1]), np.array([0, 1, 2]), slice(1, 3), []], ids=str)
def test_rows_of_a_context_are_those_of_every_entry(index: object) -> None:
    rows = torch.arange(3)[index].tolist() if isinstance(index, slice) else [int(i) for i in index]  # type: ignore
    taken = take_rows(CONTEXT, index, 3)  # type: ignore[arg-type]
    assert taken["label"].tolist() == [[3, 1, 4][i] for i in rows]
    assert taken["prompt"] == ["abc"[i] for i in rows]
    assert taken["image"]["pixels"].tolist() == [[2 * i, 2 * i + 1] for i in rows]
    assert taken["pair"][0].tolist() == rows
    assert taken["image"]["shared"] is CONTEXT["image"]["shared"]
    assert (taken["scale"], taken["unit"], taken["nothing"], taken["pair"][1].item()) == (2.5, "mm", None, 7.0)


@pytest.mark.parametrize(
    ("context", "named"),
    [
        ({"label": torch.zeros(2)}, r"context\['label'\]: got shape \[2\], expected 3 rows"),
        ({"a": [torch.zeros(3), {"b": np.zeros((5, 3))}]}, r"context\['a'\]\[1\]\['b'\]: got shape \[5, 3\]"),
        ({"prompt": ["a", "b"]}, r"context\['prompt'\]: got 2 entries, expected 3 rows"),
        (torch.zeros(28, 28), r"context: got shape \[28, 28\]"),
    ],
    ids=["tensor", "nested", "strings", "bare"],
)
def test_a_context_of_other_rows_is_refused_by_name(context: object, named: str) -> None:
    with pytest.raises(ShapeError, match=named):
        evaluate(total, X, context)
    with pytest.raises(ShapeError, match=named):
        take_rows(context, [0], 3)
    check_context(None, 3)
