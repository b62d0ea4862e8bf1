from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from pushforward.solvers.adaptive import ImplicitMethod, Newton, solve_ode
from pushforward.solvers.adaptive.field import function_field
from pushforward.solvers.adaptive.linear import DenseSystem, KrylovSystem

COUNT, SIZE = 5, 6


@pytest.fixture
def jacobians() -> Tensor:
    """Not symmetric, one for each sample."""
    return torch.from_numpy(np.random.default_rng(0).normal(size=(COUNT, SIZE, SIZE)))


def systems(jacobians: Tensor, tolerance: float = 1e-10, vectors: int = SIZE) -> dict[str, DenseSystem | KrylovSystem]:
    """Both kinds, for states [B, 2, 3] of a field whose derivative at x = 0 is J."""

    def field(x: Tensor, t: Tensor, matrix: Tensor) -> Tensor:
        flat = torch.einsum("bij,bj->bi", matrix, x.flatten(1))
        return (flat + flat**2 * t[:, None]).view_as(x)

    x, t = torch.zeros(COUNT, 2, 3, dtype=torch.float64), torch.arange(COUNT, dtype=torch.float64)
    right = function_field(field, {"matrix": jacobians}, COUNT)
    weight = torch.linspace(-0.5, 2.0, COUNT, dtype=torch.float64)
    return {
        "dense": DenseSystem(right, x, t, weight),
        "matrix-free": KrylovSystem(right, x, t, weight, tolerance, vectors),
    }


def exact(jacobians: Tensor, right: Tensor, index: Tensor) -> Tensor:
    weight = torch.linspace(-0.5, 2.0, COUNT, dtype=torch.float64)[index]
    matrix = torch.eye(SIZE, dtype=torch.float64) - weight[:, None, None] * jacobians[index]
    return torch.linalg.solve(matrix, right.flatten(1)).view_as(right)


@pytest.mark.parametrize("kind", ["dense", "matrix-free"])
@pytest.mark.parametrize("rows", [[0, 1, 2, 3, 4], [1, 4], [3]])
def test_solutions_of_some_samples(kind: str, rows: list[int], jacobians: Tensor) -> None:
    system, index = systems(jacobians)[kind], torch.tensor(rows)
    right = torch.randn(len(rows), 2, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(system.solve(right, index), exact(jacobians, right, index), rtol=1e-8, atol=1e-8)
    products = np.zeros(COUNT, dtype=np.int64)
    if kind == "matrix-free":
        products[rows] = SIZE  # a full matrix needs the whole space
    np.testing.assert_array_equal(system.products, products)
    assert (system.jacobians, system.reads) == ((1, 0) if kind == "dense" else (0, 1 + SIZE))


@pytest.mark.parametrize("tolerance", [0.3, 0.02, 1e-4])
def test_gmres_stops_at_its_tolerance(tolerance: float, jacobians: Tensor) -> None:
    """The residual is what was asked for, and smaller spaces do not reach it."""
    index = torch.arange(COUNT)
    right = torch.randn(COUNT, 2, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    weight = torch.linspace(-0.5, 2.0, COUNT, dtype=torch.float64)

    def residuals(vectors: int) -> Tensor:
        system = systems(jacobians, tolerance, vectors)["matrix-free"]
        found = system.solve(right, index).flatten(1)
        rest = right.flatten(1) - found + weight[:, None] * torch.einsum("bij,bj->bi", jacobians, found)
        return rest.norm(dim=1) / right.flatten(1).norm(dim=1)

    assert residuals(SIZE).max() <= tolerance * (1 + 1e-9)
    assert residuals(1).max() > tolerance
    falling = torch.stack([residuals(vectors) for vectors in range(1, SIZE + 1)])
    assert (falling.diff(dim=0) <= 1e-12).all(), "each space holds those before it"


def test_right_sides_that_are_zero_or_not_finite_stay_among_themselves(jacobians: Tensor) -> None:
    index = torch.arange(COUNT)
    right = torch.randn(COUNT, 2, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    right[1] = 0
    right[3, 0, 0] = torch.nan
    for kind, system in systems(jacobians).items():
        found = system.solve(right, index)
        assert (found[1] == 0).all(), kind
        assert not found[3].isfinite().all(), kind
        others = torch.tensor([0, 2, 4])
        expected = exact(jacobians, right[others], others)
        torch.testing.assert_close(found[others], expected, rtol=1e-8, atol=1e-8)


def test_one_step_size_for_the_whole_batch() -> None:
    """The batch is one sample of the linear systems too, small or large."""
    x0 = torch.linspace(0.1, 1.0, 40, dtype=torch.float64).reshape(20, 2)
    rates = torch.tensor([1.0, 1e3], dtype=torch.float64)
    for newton in (Newton(), Newton(largest_dense=10)):
        method = ImplicitMethod("esdirk43", newton)
        found = solve_ode(
            lambda x, t: -rates * x, x0, [0.0, 1.0], method=method, rtol=1e-5, atol=1e-5, per_sample=False
        )
        assert (found.final - x0 * torch.exp(-rates)).abs().max() < 10 * 1e-5
        assert (found.jacobians > 0).all() == (newton.largest_dense >= 40)
        assert (found.products > 0).all() == (newton.largest_dense < 40)
