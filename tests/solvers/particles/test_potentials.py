"""Potentials against their definitions, term by term."""

import pytest
import torch

from pushforward.errors import UnknownNameError
from pushforward.solvers.particles import POTENTIALS, potential

DOUBLE = torch.float64
REWARDS = torch.tensor([[[0.3, -1.0]], [[0.9, -2.0]], [[0.1, 0.5]], [[0.2, -torch.inf]]], dtype=DOUBLE)  # [K, S, N]
FACTORS = {  # log G_k, as the paper writes them
    "difference": lambda r, k: r[k] - (r[k - 1] if k else 0),
    "max": lambda r, k: torch.stack(list(r[: k + 1])).amax(0),
    "sum": lambda r, k: sum(r[: k + 1]),
    "current": lambda r, k: r[k],
}


@pytest.mark.parametrize("name", POTENTIALS)
def test_levels_are_the_products_of_the_factors(name):
    chosen = potential(name)
    carried = {key: torch.full((1, 2), value, dtype=DOUBLE) for key, value in {"level": 0.0, **chosen.carried}.items()}
    total = torch.zeros(1, 2, dtype=DOUBLE)
    for k in range(len(REWARDS)):
        level, remembered = chosen.level(REWARDS[k], carried)
        total = total + FACTORS[name](REWARDS, k)
        torch.testing.assert_close(level, total, rtol=1e-14, atol=1e-14)
        assert set(remembered) == set(chosen.carried)
        carried = {"level": level, **remembered}


def test_names():
    assert set(POTENTIALS) == set(FACTORS)
    assert potential(POTENTIALS["max"]) is POTENTIALS["max"]
    with pytest.raises(UnknownNameError, match=r"potential.*difference, max, sum, current"):
        potential("last")
