"""The Brownian tree: one path, however it is asked for; times beyond its ends; strong orders of schemes along it."""

import itertools
import math
import random

import numpy as np
import pytest
import torch

import pushforward as pf
from pushforward import BrownianTree
from pushforward.errors import ArgumentError, DtypeError, GridError, ShapeError

double = {"dtype": torch.float64}


def test_any_order_of_queries_gives_the_same_bits():
    tree = BrownianTree((3, 4), 0.0, 2.0, seed=7)
    queries = [(a, b) for a in (0.0, 0.3, 0.5, 1.1) for b in (0.31, 0.6, 1.7, 2.0)]
    first = {q: tree.increment(*q) for q in queries}
    random.Random(1).shuffle(queries)
    again = BrownianTree((3, 4), 0.0, 2.0, seed=7)
    for q in queries:
        assert torch.equal(again.increment(*q).w, first[q].w)
        assert torch.equal(again.increment(*q).h, first[q].h)


def test_samples_with_times_of_their_own_and_of_any_batch():
    ids = torch.tensor([4, 0, 9])
    tree = BrownianTree((3, 5), 0.0, 1.0, seed=2, samples=ids, **double)
    s, u = np.array([0.1, 0.5, 0.0]), torch.tensor([0.7, 0.2, 1.0], **double)  # the second runs backwards
    w, h = tree.increment(s, u)
    for b in range(3):
        alone = BrownianTree((1, 5), 0.0, 1.0, seed=2, samples=ids[b : b + 1], **double)
        one = alone.increment(float(s[b]), float(u[b]))
        assert torch.equal(one.w[0], w[b])
        assert torch.equal(one.h[0], h[b])
        one = tree.rows(torch.tensor([b])).increment(float(s[b]), float(u[b]))
        assert torch.equal(one.w[0], w[b])


def test_increments_add_up_exactly_and_change_sign():
    tree = BrownianTree((2, 100), -1.0, 3.0, seed=1, **double)
    for s, t, u in ((-1.0, 0.123, 3.0), (0.1, 0.1 + 1e-6, 0.4), (0.5, -0.5, 2.0)):
        assert torch.equal(tree(s, t) + tree(t, u), tree(s, u))
        assert torch.equal(tree(u, s), -tree(s, u))
        assert torch.equal(tree.increment(u, s).h, tree.increment(s, u).h)
    assert not tree(0.3, 0.3).any()
    single = BrownianTree((2, 100), -1.0, 3.0, seed=1)
    assert torch.equal(single(0.1, 0.4), tree(0.1, 0.4).float())
    half = BrownianTree((2, 100), -1.0, 3.0, seed=1, dtype=torch.bfloat16)
    assert torch.equal(half(0.1, 0.4), single(0.1, 0.4).bfloat16())


def test_areas_are_those_of_the_path():
    """Time averages of 2^10 chords: what the finer path adds to each of them has deviation 2^-10 / sqrt(12 2^10)."""
    tree = BrownianTree((4, 250), 0.0, 1.0, seed=3, tolerance=2.0**-12, **double)
    n = 1024
    grid = [0.2 + 0.5 * i / n for i in range(n + 1)]
    path = torch.cat([torch.zeros(1, 4, 250, **double), torch.stack([step.w for step in tree.steps(grid)]).cumsum(0)])
    w, h = tree.increment(grid[0], grid[-1])
    chord = torch.linspace(0, 1, n + 1, **double)[:, None, None] * w
    average = torch.trapezoid(path - chord, dx=1 / n, dim=0)
    torch.testing.assert_close(average, h, rtol=0, atol=6 * math.sqrt(0.5 / n / 12 / n))


@pytest.mark.parametrize("area", [True, False])
def test_a_grid_is_walked_as_its_steps_one_by_one(area):
    tree = BrownianTree((2, 3), 0.0, 1.0, seed=4, area=area)
    grid = sorted({0.0, 0.25, 0.5, 1.0, *np.random.default_rng(0).random(40)})
    for times in (grid, grid[::-1]):
        for step, (a, b) in zip(tree.steps(times), itertools.pairwise(times), strict=True):
            alone = tree.increment(a, b)
            assert torch.equal(step.w, alone.w)
            assert step.h is alone.h is None if not area else torch.equal(step.h, alone.h)


def test_times_beyond_the_ends():
    """Schedules miss their ends by roundings: an ulp, or that of float32. More is a mistake."""
    tree = BrownianTree((1, 3), 0.1, 0.9, seed=5)
    whole = tree(0.1, 0.9)
    assert torch.equal(tree(np.nextafter(0.1, 0), np.nextafter(0.9, 1)), whole)
    assert torch.equal(tree(0.1 - 5e-7 * 0.8, 0.9 + 5e-7 * 0.8), whole)
    assert not tree(0.9, np.nextafter(0.9, 1)).any()
    for s, u, name in ((0.0, 0.5, "s"), (0.2, 0.91, "u"), (0.2, math.nan, "u"), ([0.2, 0.3], 0.5, "s")):
        with pytest.raises(ArgumentError, match=f"^{name}:"):
            tree.increment(s, u)


def test_bad_arguments_are_named():
    for arguments, kind, name in (
        ({"t1": 0.0}, ArgumentError, "t0, t1"),
        ({"t1": math.inf}, ArgumentError, "t0, t1"),
        ({"tolerance": 0.0}, ArgumentError, "tolerance"),
        ({"tolerance": 1e-12}, ArgumentError, "tolerance"),
        ({"dtype": torch.int64}, DtypeError, "dtype"),
    ):
        with pytest.raises(kind, match=name):
            BrownianTree((2, 3), **{"t0": 0.0, "t1": 1.0, **arguments})
    tree = BrownianTree((2, 3), 0.0, 1.0)
    for times in ([0.0], [0.0, 0.0], [0.0, 0.5, 0.4]):
        with pytest.raises(GridError, match="times"):
            next(tree.steps(times))
    with pytest.raises(ShapeError, match="u: got"):
        tree.increment(0.0, [0.1, 0.2, 0.3])


# Strong orders: fixed steps of the schemes along one tree, against a run with steps sixteen times as fine.
FIXED = {
    "shark": 1.5,
    "sra1": 1.5,
    "sra3": 1.5,
    "sosra": 1.5,
    "heun_em": 1.0,
    "srk": 1.5,
    "milstein": 1.0,
    "euler_maruyama": 0.5,
}


def fixed_run(method, steps, tree, x0, additive):
    """Steps of one length: no step is rejected, as the tolerance is huge."""

    def drift(x, t):
        return torch.sin(3 * x) - x * t[:, None]

    def diffusion(x, t):
        return (1.0 + 0.5 * torch.sin(3 * t)) if additive else 0.8 * torch.cos(x)

    h = 1.0 / steps
    solution = pf.solve_sde(drift, diffusion, x0, [0.0, 1.0], method=method, atol=1e9, rtol=0.0, brownian=tree,
                            first_step=h, max_step=h, controller=pf.solvers.Controller(max_factor=1.0))  # fmt: skip
    assert solution.accepted.max() == steps
    return solution.x[-1]


@pytest.mark.parametrize("method", FIXED)
def test_strong_order_on_refined_paths(method):
    """Root mean squares over 1000 paths; the slope over two halvings has a deviation of about 0.05."""
    additive = pf.solvers.brownian.SCHEMES[method].additive
    area = pf.solvers.brownian.SCHEMES[method].area
    tree = BrownianTree((1, 1000), 0.0, 1.0, seed=8, tolerance=2.0**-10, area=area, **double)
    x0 = torch.linspace(-1, 1, 1000, **double)[None]
    steps = (8, 16, 32)
    exact = fixed_run(method, 512, tree, x0, additive)
    errors = [float((fixed_run(method, n, tree, x0, additive) - exact).square().mean().sqrt()) for n in steps]
    assert abs(math.log2(errors[0] / errors[-1]) / 2 - FIXED[method]) < 0.25, errors
