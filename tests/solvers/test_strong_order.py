"""Path-wise orders of the stochastic solvers, on coupled Brownian paths."""

from __future__ import annotations

import math
from functools import cache

import brownian
import pytest
import torch
from mutation import SCALAR
from problems import START, mixture_flow, rms

from pushforward import solvers
from pushforward.errors import TableauError, UnknownNameError
from pushforward.solvers.sde import AdditiveTableau
from pushforward.solvers.sde.additive_tableau import SRA1

STRONG = {name: solver for name, solver in solvers.solvers() if hasattr(solver, "strong_order")}
PATHS, FINE, STEPS = 500, 512, (16, 32, 64)


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("name", STRONG)
def test_on_a_linear_drift_exactly(name: str, backward: bool) -> None:
    assert brownian.shows_strong_order(STRONG[name], SCALAR, backward)


@cache
def nonlinear() -> tuple[torch.Tensor, list, torch.Tensor]:
    """Starts, Brownian paths, and what the finest steps make of them."""
    problem = mixture_flow()
    start = problem.oracle.sample(PATHS, seed=5, t=START)
    path = brownian.sampled_path(tuple(start.shape), 3, FINE)
    reference = solvers.solver("sra3", diffusion="constant")
    return start, path, brownian.sampled_run(reference, problem, path, start, FINE)


@pytest.mark.parametrize("name", STRONG)
def test_on_a_nonlinear_drift(name: str) -> None:
    """Root mean squares over 500 paths of a mixture; constant noise, so strong that f_xx G^2 is what remains.

    The slope over two halvings has a bootstrap deviation of 0.02 to 0.03 for order 1 and of 0.05 to 0.07 for order 1.5.
    """
    start, path, exact = nonlinear()
    solver = solvers.solver(name, diffusion="constant")
    errors = [rms(brownian.sampled_run(solver, mixture_flow(), path, start, n) - exact) for n in STEPS]
    assert abs(math.log2(errors[0] / errors[-1]) / 2 - solver.strong_order) < 0.2, errors


def test_higher_order_pays() -> None:
    """At 64 steps of 2 evaluations, a tenth of the error of stochastic Heun on the linear problem."""
    errors = {name: brownian.linear_errors(STRONG[name], (64,), SCALAR, "sigma")[0] for name in STRONG}
    assert max(errors[name] for name in ("sra1", "shark")) < 0.1 * errors["stochastic_heun"]


def test_aggregated_paths_are_paths() -> None:
    """W of a coarse step is the sum; its area has variance h/12 and is independent of it: exactly, in coefficients."""
    coarse = brownian.coarsened(brownian.coefficient_path(), 0.7 / brownian.FINEST, brownian.FINEST // 8)
    for w, h in coarse:
        assert w @ w == pytest.approx(0.7 / 8, rel=1e-12)
        assert h @ h == pytest.approx(0.7 / 8 / 12, rel=1e-12)
        assert abs(w @ h) < 1e-15


def test_a_wrong_digit_is_refused() -> None:
    fields = {name: getattr(SRA1, name) for name in ("drift", "weights", "nodes", "increment", "area", "source")}
    with pytest.raises(TableauError, match=r"a\.B1 = 1: got 1\.06"):
        AdditiveTableau(noise=((1.6,),), **fields)
    with pytest.raises(TableauError, match="noise: got rows of"):
        AdditiveTableau(noise=((1.5, 0.0),), **fields)
    with pytest.raises(TableauError, match="area: got 1"):
        AdditiveTableau(noise=((1.5,),), **{**fields, "area": (0.0,)})
    with pytest.raises(UnknownNameError, match="'sra2'"):
        solvers.solver("sra1", method="sra2")
