"""Rewards of vectors: formulas, gradients, and the law that a linear form tilts as stated."""

from __future__ import annotations

import math

import pytest
import torch

from pushforward.errors import ArgumentError, NotFiniteError, ShapeError
from pushforward.models.verifiers import Coordinate, Linear, SignAgreement, evaluate, evaluate_with_graph

SIGNS = (1, -1, -1, 1, 1, 1, -1, 1, -1, -1, 1, -1, 1, 1, -1, -1)


def test_sign_agreement_counts_wrong_signs() -> None:
    x = torch.randn(500, 16, generator=torch.Generator().manual_seed(0)).double()
    wrong = [sum(v * z < 0 for v, z in zip(row, SIGNS, strict=True)) for row in x.tolist()]
    assert evaluate(SignAgreement(SIGNS), x).tolist() == [-float(count) for count in wrong]
    assert evaluate(SignAgreement(SIGNS), torch.tensor([SIGNS]).reshape(1, 4, 4)).tolist() == [0.0]
    assert not math.copysign(1, evaluate(SignAgreement([1]), torch.ones(1, 1)).item()) < 0, "0, not -0"
    assert evaluate(SignAgreement([1, -1, 1]), torch.tensor([[0.0, 0.0, -1.0]])).tolist() == [-1.0], "0 is not wrong"
    with pytest.raises(NotFiniteError, match="NaN in row 1"):
        evaluate(SignAgreement([1, 1]), torch.tensor([[1.0, 1.0], [1.0, math.nan]]))


def test_linear_and_coordinate_read_the_flattened_sample() -> None:
    x = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(3))
    weights = [0.5, -1.0, 2.0, 0.0, 3.0, 1.5]
    torch.testing.assert_close(evaluate(Linear(weights), x), x.flatten(1).double() @ torch.tensor(weights).double())
    assert torch.equal(evaluate(Coordinate(4), x), x[:, 1, 1].double())
    assert torch.equal(evaluate(Coordinate(), x[:, 0, 0]), x[:, 0, 0].double())
    assert torch.equal(evaluate(Linear(torch.eye(6)[4]), x), evaluate(Coordinate(4), x))
    x = x.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: evaluate_with_graph(Linear(weights), x), (x,))
    assert torch.autograd.gradcheck(lambda x: evaluate_with_graph(Coordinate(2), x), (x,))


def test_the_tilt_of_a_gaussian_by_a_linear_form_is_the_one_stated() -> None:
    """E[r exp(lam r)] / E[exp(lam r)] = a.m + lam a.C a, by quadrature along the only direction that matters."""
    a, m = torch.tensor([[0.6, -0.8], [1.5, 0.5]], dtype=torch.float64)
    scale, lam = 0.5, 3.0
    nodes = torch.linspace(-9, 9, 4001, dtype=torch.float64)
    x = m + scale * nodes[:, None] * a  # |a| = 1: the form is a.m + scale * node
    r = evaluate(Linear(a), x)
    density = (-nodes.square() / 2).exp() / math.sqrt(2 * math.pi) * (nodes[1] - nodes[0])
    z = (density * (lam * r).exp()).sum()
    assert math.log(z) == pytest.approx(lam * float(a @ m) + lam**2 * scale**2 / 2, abs=1e-12)
    assert float((density * (lam * r).exp() * r).sum() / z) == pytest.approx(float(a @ m) + lam * scale**2, abs=1e-12)


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda: Coordinate(-1), ArgumentError, "index: got -1"),
        (lambda: Coordinate(0.5), ArgumentError, "index: got 0.5"),  # type: ignore[arg-type]
        (lambda: Coordinate(2)(torch.zeros(3, 2)), ArgumentError, "index: got 2, expected below 2"),
        (lambda: Linear([]), ArgumentError, "weights: got none"),
        (lambda: Linear([1.0, math.nan]), ArgumentError, "weights: got nan"),
        (lambda: Linear([1.0])(torch.zeros(3, 2)), ShapeError, r"x: got \[3, 2\], expected 1 coordinates a row, as w"),
        (lambda: SignAgreement([]), ArgumentError, "signs: got \\[\\]"),
        (lambda: SignAgreement([1, 0]), ArgumentError, r"signs: got \[1, 0\], expected at least one, each 1 or -1"),
        (lambda: SignAgreement([1, 0.7]), ArgumentError, "each 1 or -1"),  # type: ignore[list-item]
        (lambda: SignAgreement([1, 1])(torch.zeros(3, 3)), ShapeError, "as signs"),
    ],
)
def test_what_does_not_fit_is_refused(call: object, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        call()  # type: ignore[operator]


def test_the_configuration_is_printed_without_tensors() -> None:
    assert repr(Linear(torch.tensor([1.0, -2.0]))) == "Linear(weights=(1.0, -2.0))"
    assert repr(SignAgreement([1, -1])) == "SignAgreement(signs=(1, -1))"
    assert repr(Coordinate()) == "Coordinate()"
    assert Linear([1.0]) == Linear([1.0])
    assert hash(SignAgreement([1, -1])) == hash(SignAgreement([1, -1]))
