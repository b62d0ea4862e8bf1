"""Tokens with times of their own: the same bits as without, separate runs, order with neighbours, and refusals."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from token_mixture import TokenMixture
from torch import Tensor

import pushforward as pf
from pushforward.errors import ArgumentError, GridError, NotFiniteError, PlanError, ShapeError
from pushforward.models import Guidance, Model
from pushforward.models.nets import DigitDiT
from pushforward.models.regional import RegionAdaptive
from pushforward.solvers.tokens import TokenExecutor, TokenGrid, patch_tokens, sample_tokens

TOKENS = torch.arange(4)[None, :, None]
NULL = {"pull": torch.tensor([0.2])}
PULL = {"pull": torch.tensor([0.5, 1.5, 1.0])}


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def apart(x: Tensor, t: Tensor, pull: Tensor) -> Tensor:
    """Tokens [B, N, d] that do not see each other; sums and products alone, the same bits at any place of a tensor."""
    times = t[:, None, None] if t.ndim == 1 else t[..., None]
    return pull[:, None, None] * (1 - x) * (1 + times * times) - times


def model(prediction: str = "velocity", **options) -> Model:
    return pf.models.adapt(apart, prediction, null=NULL, time_shape="token", **options)


@pytest.fixture(scope="module")
def coupled() -> tuple[Model, Tensor]:
    means = normal(4, 3, 2, seed=3)
    net = TokenMixture(means, torch.full((4,), 0.4, dtype=torch.float64))
    return pf.models.adapt(net, "velocity", time_shape="token"), normal(8, 4, 2, seed=1)


@pytest.mark.parametrize("solver", ["euler", "heun", "rk4", "ddim"])
@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_equal_times_are_the_ordinary_run_bit_for_bit(solver, guidance):
    """Each token is told its own time, in the shape [B, N]; coefficients come by group."""
    times, start = [0.0, 0.1, 0.4, 0.6], normal(3, 4, 2)
    given = {"guidance": guidance, "condition": PULL}
    plain = pf.sample(model(), start, solver=solver, grid=times, **given)
    assert torch.equal(
        sample_tokens(model(), start, TokenGrid.uniform(times, 4), TOKENS, method=solver, **given), plain
    )
    bound = model().bind(PULL)
    told = bound.answer_tokens(start, np.full((3, 4), 0.3), ("cond", "null"))
    assert all(torch.equal(a, b) for a, b in zip(told, bound.evaluate(start, 0.3, ("cond", "null")), strict=True))


@pytest.mark.parametrize("solver", ["euler", "heun", "ddim"])
@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_independent_tokens_are_separate_runs_bit_for_bit(solver, guidance):
    grids = [[0.0, 0.2, 0.5, 0.9], [0.1, 0.2, 0.3, 0.4], [0.0, 0.2, 0.5, 0.9], [0.3, 0.5, 0.7, 1.0]]
    start, given = normal(3, 4, 2), {"guidance": guidance, "condition": PULL}
    grid = TokenGrid(np.array(grids).T)
    together = sample_tokens(model(), start, grid, TOKENS, method=solver, **given)
    for token, times in enumerate(grids):
        alone = pf.sample(model(), start[:, token : token + 1], solver=solver, grid=times, **given)
        assert torch.equal(together[:, token : token + 1], alone)


@pytest.mark.parametrize("kind", ["velocity", "denoised", "edm"])
@pytest.mark.parametrize("extrapolate", [True, False])
def test_tokens_that_wait_are_separate_runs_too(kind, extrapolate):
    """Waiting costs nothing where no neighbour sees it; scaled inputs and other quantities are converted by token.

    Exact but for the order of sums of rows that wait; EDM's network is not asked at the ends.
    """
    net = pf.models.adapt(apart, kind, time="t", time_shape="token")
    own = np.array([0.2, 0.4, 0.7, 0.9] if kind == "edm" else [0.0, 1 / 3, 2 / 3, 1.0])
    start, grid = normal(3, 4, 2), TokenGrid(own[np.clip(np.arange(7)[:, None] - [0, 1, 3, 1], 0, 3)])
    plain = pf.sample(net, start, solver="euler", grid=own, condition=PULL)
    found = sample_tokens(net, start, grid, TOKENS, condition=PULL, extrapolate=extrapolate)
    torch.testing.assert_close(found, plain, rtol=1e-13, atol=1e-13)


def test_given_tokens_are_never_moved_and_shown_as_they_are():
    seen, start = [], normal(3, 4, 2)
    grid = TokenGrid([[1.0, 0.0, 0.0, 0.0], [1.0, 0.5, 0.0, 0.5], [1.0, 1.0, 0.5, 0.5], [1.0, 1.0, 1.0, 1.0]])
    run = TokenExecutor(pf.solver("euler"), grid, start, TOKENS, model().prediction)
    for request in run:
        seen.append((request.times.tolist(), request.input.clone()))
        run.supply([torch.ones_like(start)])
    assert all(torch.equal(given[:, 0], start[:, 0]) for _, given in seen)
    assert [times for times, _ in seen] == [[1.0, 0.0, 0.0, 0.0], [1.0, 0.5, 0.0, 0.5], [1.0, 1.0, 0.5, 0.5]]
    assert torch.equal(run.result[:, 0], start[:, 0])
    torch.testing.assert_close(run.result[:, 1:], start[:, 1:] + 1, rtol=1e-15, atol=1e-15)
    assert torch.equal(seen[2][1][:, 1], seen[2][1][:, 1])


def test_waiting_tokens_are_shown_where_they_would_be():
    """Token 1 stepped ahead to 0.5 with velocity 2; at 0.25 it is shown half way back, at that time."""
    grid, start = TokenGrid([[0.0, 0.0], [0.25, 0.5], [0.5, 0.5], [0.75, 0.75]]), torch.zeros(1, 2, 1)
    for extrapolate, shown in ((True, (0.25, 0.5)), (False, (0.5, 1.0))):
        run = TokenExecutor(
            pf.solver("euler"), grid, start, torch.arange(2)[None, :, None], model().prediction, extrapolate=extrapolate
        )
        requests = []
        for request in run:
            requests.append((request.times[1], request.input[0, 1].item()))
            run.supply([torch.full_like(start, 2.0)])
        assert requests == [(0.0, 0.0), shown, (0.5, 1.0)]
        assert run.result.flatten().tolist() == [1.5, 1.5]


@pytest.mark.parametrize("extrapolate", [True, False])
def test_multirate_steps_of_coupled_tokens_have_order_one(coupled, extrapolate):
    """Half of the tokens take every other step, of double length."""
    net, start = coupled
    exact, errors = pf.sample(net, start, solver="rk4", grid=np.linspace(0, 0.9, 65)), []
    for steps in (32, 64, 128):
        fine = np.linspace(0, 0.9, steps + 1)
        slow = fine[np.minimum((np.arange(steps + 1) + 1) // 2 * 2, steps)]
        grid = TokenGrid(np.stack([fine, slow, fine, slow], axis=1))
        found = sample_tokens(net, start, grid, TOKENS, extrapolate=extrapolate)
        errors.append((found - exact).square().mean().sqrt().item())
    slopes = [float(np.log2(a / b)) for a, b in itertools.pairwise(errors)]
    assert all(0.85 <= slope <= 1.15 for slope in slopes), slopes


def test_the_transformer_takes_times_of_tokens():
    torch.manual_seed(0)
    net = DigitDiT(16, 2)
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.2)
    net.double().requires_grad_(False)
    x, label = normal(2, 1, 28, 28), torch.tensor([1, 2])
    t = torch.tensor([0.2, 0.7])
    torch.testing.assert_close(net(x, t[:, None].expand(2, 49), label), net(x, t, label), rtol=1e-10, atol=1e-10)
    late = torch.full((2, 49), 0.2)
    late[:, 30:] = 0.7
    assert (net(x, late, label) - net(x, torch.full((2,), 0.2), label)).abs().max() > 1e-3
    with pytest.raises(ShapeError, match=r"t: got float32 \[2, 48\], expected \[2\], one value a sample, or \[2, 49\]"):
        net(x, late[:, :48], label)


def test_networks_of_one_time_are_refused():
    scalar, start = pf.models.adapt(apart, "velocity"), normal(3, 4, 2)
    with pytest.raises(ArgumentError, match=r"time_shape='batch'.*RegionAdaptive"):
        sample_tokens(scalar, start, TokenGrid.wave(2, [0, 1, 0, 0]), TOKENS, condition=PULL)
    net = pf.models.load("digits28-small")
    x, tokens = torch.zeros(1, 1, 28, 28), patch_tokens((28, 28), 4)
    given = {"condition": {"label": torch.tensor([3])}}
    with pytest.raises(ArgumentError, match="RegionAdaptive"):
        sample_tokens(net, x, TokenGrid.wave(1, list(range(49))), tokens, **given)
    net = pf.models.adapt(DigitDiT(16, 1), "velocity", time_shape="token")
    with pytest.raises(ArgumentError, match="which is what RegionAdaptive takes"):
        sample_tokens(RegionAdaptive.around(net), x, TokenGrid.wave(1, list(range(49))), tokens, **given)
    times = [0.0, 0.5, 1.0]
    plain = pf.sample(scalar, start, solver="euler", grid=times, condition=PULL)
    assert torch.equal(sample_tokens(scalar, start, TokenGrid.uniform(times, 4), TOKENS, condition=PULL), plain)


@pytest.mark.parametrize(
    ("times", "error", "message"),
    [
        ([0.0, 1.0], ShapeError, r"times: got \[2\], expected \[K \+ 1, N\]"),
        ([[0.0, 0.0]], ShapeError, "times"),
        ([[0.0], [1.5]], GridError, r"times\[1, 0\]: got 1\.5"),
        ([[0.0], [float("nan")]], GridError, r"times\[1, 0\]: got nan"),
        ([[0.0, 0.0], [0.5, 0.5], [0.6, 0.4]], GridError, r"times\[2, 1\]: got 0\.4"),
    ],
)
def test_bad_grids(times, error, message):
    with pytest.raises(error, match=message):
        TokenGrid(times)


def test_bad_runs():
    start, grid, prediction = normal(3, 4, 2), TokenGrid.wave(2, [0, 1, 0, 0]), model().prediction
    for name, why in (("ab2", "remembers"), ("ddpm", "draws noise")):
        with pytest.raises(PlanError, match=why):
            TokenExecutor(pf.solver(name), grid, start, TOKENS, prediction)
    euler = pf.solver("euler")
    with pytest.raises(ShapeError, match=r"tokens: got \[4\]"):
        TokenExecutor(euler, grid, start, torch.arange(4), prediction)
    with pytest.raises(ArgumentError, match=r"tokens: got 4, expected numbers in \[0, 4\)"):
        TokenExecutor(euler, grid, start, TOKENS + 1, prediction)
    with pytest.raises(ArgumentError, match=r"tokens: got torch\.float32"):
        TokenExecutor(euler, grid, start, TOKENS.float(), prediction)
    with pytest.raises(ArgumentError, match="patch: got 3"):
        patch_tokens((28, 28), 3)
    with pytest.raises(ArgumentError, match="delay"):
        TokenGrid.wave(2, [-1, 0])
    with pytest.raises(PlanError, match="step 1: got steps that differ"):
        sample_tokens(model(), start, grid, TOKENS, guidance=Guidance(2.0, interval=(0.0, 0.3)), condition=PULL)
    run = TokenExecutor(euler, grid, start, TOKENS, prediction)
    with pytest.raises(PlanError, match="pending"):
        run.supply([start])
    next(run)
    with pytest.raises(PlanError, match="supply"):
        next(run)
    with pytest.raises(ShapeError):
        run.supply([start[:2]])
    with pytest.raises(NotFiniteError):
        TokenExecutor(euler, grid, start, TOKENS, prediction).run(lambda x, t, b: [torch.full_like(x, float("nan"))])
