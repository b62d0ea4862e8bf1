"""Rewards of vectors, on the laws whose tilts are known; and verifier hacking, shown by a held-out reward."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from pushforward.errors import ArgumentError, NotFiniteError, ShapeError
from pushforward.models.verifiers import Coordinate, Linear, SignAgreement, evaluate, evaluate_with_graph

SIGNS = (1, -1, -1, 1, 1, 1, -1, 1, -1, -1, 1, -1, 1, 1, -1, -1)


def modes(count: int, seed: int, d: int = 16) -> torch.Tensor:
    """Independent coordinates, each -1 or 1 with a spread of 0.2: what signs are wrong is Binomial(d, 1/2)."""
    generator = torch.Generator().manual_seed(seed)
    centre = 2.0 * torch.randint(0, 2, (count, d), generator=generator) - 1
    return (centre + 0.2 * torch.randn(count, d, generator=generator)).double()


def test_sign_agreement_counts_wrong_signs() -> None:
    x = modes(500, 0)
    wrong = [sum(v * z < 0 for v, z in zip(row, SIGNS, strict=True)) for row in x.tolist()]
    assert evaluate(SignAgreement(SIGNS), x).tolist() == [-float(count) for count in wrong]
    assert evaluate(SignAgreement(SIGNS), torch.tensor([SIGNS]).reshape(1, 4, 4)).tolist() == [0.0]
    assert not math.copysign(1, evaluate(SignAgreement([1]), torch.ones(1, 1)).item()) < 0, "0, not -0"
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


def test_a_searched_score_outgrows_the_reward_that_it_stands_for() -> None:
    """Best of N by r plus eight sinusoids of x, which say nothing of r: the more is searched, the more is flattery."""
    reward = SignAgreement(SIGNS)
    generator = torch.Generator().manual_seed(1)
    frequencies = torch.randn(16, 8, generator=generator).double()
    phases = 2 * math.pi * torch.rand(8, generator=generator).double()

    def searched(x: torch.Tensor, context: object) -> torch.Tensor:
        return reward(x) + torch.sin(x @ frequencies + phases).sum(1)

    repeats, sizes = 200, (1, 4, 16, 64, 256, 1024)
    x = modes(repeats * sizes[-1], 1)
    score, held_out = evaluate(searched, x).reshape(repeats, -1), evaluate(reward, x).reshape(repeats, -1)
    best = [score[:, :n].argmax(1, keepdim=True) for n in sizes]
    gaps = torch.stack([(score - held_out).gather(1, chosen)[:, 0] for chosen in best])
    for fewer, more in itertools.pairwise(gaps):  # by 0.5 and more, of which the standard error is 0.12
        grown = more - fewer
        assert grown.mean() > 2 * grown.std() / math.sqrt(repeats)
    # Without the held-out column it would look like 0 of 16 wrong signs, and searching by it finds better samples.
    assert score.gather(1, best[-1]).mean() > 0
    lost = held_out.amax(1) - held_out.gather(1, best[-1])[:, 0]
    assert lost.mean() > 1
