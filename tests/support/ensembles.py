"""Problems and right-hand sides for the tests of ensembles."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pushforward.models.oracles import MixtureOracle
from pushforward.solvers.ensemble import GaussianMixture, Linear, Lorenz, VanDerPol

DOUBLES = ctypes.POINTER(ctypes.c_double)
SIGNATURE = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64, *[DOUBLES] * 4)


def callback(rate: Callable[..., np.ndarray], count: int = 0, *, shared: bool = True) -> tuple[Any, list[int]]:
    """A ctypes pointer to ``rate(t [lanes], y [dim, lanes], p)``, and the numbers of lanes it was called with."""
    lanes_seen: list[int] = [0]

    def called(lanes, dim, t, y, params, dy):
        lanes_seen.append(lanes)
        of = np.ctypeslib.as_array
        p = of(params, (count,) if shared else (count, lanes)) if count else None
        of(dy, (dim, lanes))[:] = rate(of(t, (lanes,)), of(y, (dim, lanes)), p)

    return SIGNATURE(called), lanes_seen


def van_der_pol(x: Tensor, mu: float = 1.0) -> Tensor:
    return torch.stack([x[:, 1], mu * (1 - x[:, 0] ** 2) * x[:, 1] - x[:, 0]], dim=1)


@dataclass(frozen=True)
class EnsembleProblem:
    """A field of the library and the same for scipy."""

    name: str
    field: Any
    rate: Callable[[float, np.ndarray], Any]
    dim: int
    start: float
    end: float

    def __str__(self) -> str:
        return self.name


def _lorenz(t: float, y: np.ndarray) -> list[float]:
    return [10 * (y[1] - y[0]), y[0] * (28 - y[2]) - y[1], y[0] * y[1] - 8 / 3 * y[2]]


_MATRIX = np.array([[-0.5, 2.0, 0.0], [-2.0, -0.5, 1.0], [0.3, 0.0, -1.0]])
_MEANS, _WEIGHTS = [[1.0, 0.5], [-1.0, 0.3], [0.2, -1.2]], [0.3, 0.5, 0.2]
_VARIANCES = [[0.15, 0.1], [0.1, 0.1], [0.1, 0.05]]
_ORACLE = MixtureOracle(_WEIGHTS, _MEANS, [torch.tensor(v) for v in _VARIANCES])


def _mixture(t: float, y: np.ndarray) -> np.ndarray:
    return _ORACLE.velocity(torch.from_numpy(y)[None], t)[0].numpy()


PROBLEMS = [
    EnsembleProblem(
        "van der pol", VanDerPol(), lambda t, y: [y[1], (1 - y[0] ** 2) * y[1] - y[0]], 2, 0.0, 10.0
    ),
    EnsembleProblem("lorenz", Lorenz(), _lorenz, 3, 0.0, 1.5),
    EnsembleProblem("linear", Linear(_MATRIX), lambda t, y: _MATRIX @ y, 3, 0.0, 4.0),
    EnsembleProblem("mixture", GaussianMixture(_WEIGHTS, _MEANS, torch.tensor(_VARIANCES)), _mixture, 2, 0.0, 1.0),
]  # fmt: skip
