"""Searches that tests share: a small oracle, a smooth reward, and every registered method in several advances."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from torch import Tensor

import pushforward as pf
from pushforward.solvers.particles import Shard
from pushforward.solvers.search import Method, SearchResult, methods, search

CLOCKS = {"started", "spent_seconds", "seconds"}  # what two runs of one search may differ in
OPTIONS: dict[str, dict[str, Any]] = {"best_of_n": {"chunk": 7}, "code": {"block": 3}}


def several_advances() -> list[tuple[str, Method]]:
    """Every method, with options under which its search takes several advances."""
    return [(name, dataclasses.replace(method, **OPTIONS.get(name, {}))) for name, method in methods()]


def samplers() -> list[tuple[str, str | None]]:
    """Every method with its own solver, by name, and again with one of two evaluations a step where it takes such."""
    own: list[tuple[str, str | None]] = [(name, None) for name, _ in methods()]
    return own + [(name, two_evaluations(method)) for name, method in methods() if not getattr(method, "twist", 0)]


def two_evaluations(method: Method) -> str:
    """A solver of two evaluations a step, with noise where the method's own has some."""
    return "stochastic_heun" if method.solver.stochastic else "heun"


def reward(x: Tensor, context: Any) -> Tensor:
    """Highest at (1, 1)."""
    del context
    return -(x - 1).square().sum(1)


def run(method: Method | str, **changes: Any) -> SearchResult:
    """A search for two requests on a Gaussian of two dimensions."""
    model = pf.models.GaussianOracle([0.7, -0.2], [[0.3, 0.1], [0.1, 0.2]]).model()
    settings: dict[str, Any] = {"budget": 120, "shape": (2, 2), "seed": 5, "dtype": torch.float64, "reward": reward}
    settings |= changes
    return search(model, settings.pop("reward"), settings.pop("budget"), method=method, **settings)


def difference(a: Any, b: Any, path: str = "result") -> str | None:
    """Where two trees differ, bit for bit, clocks apart; None if they do not."""
    if type(a) is not type(b):
        return f"{path}: {type(a)} and {type(b)}"
    if isinstance(a, Tensor):
        same = a.dtype == b.dtype and a.shape == b.shape and a.device == b.device
        return None if same and a.numpy().tobytes() == b.numpy().tobytes() else f"{path}: {a} and {b}"
    if isinstance(a, Shard):
        return None  # whoever is there
    if isinstance(a, np.ndarray):
        return None if a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes() else path
    if dataclasses.is_dataclass(a):
        names = [field.name for field in dataclasses.fields(a) if field.name not in CLOCKS]
        inner = [(name, getattr(a, name), getattr(b, name)) for name in names]
    elif isinstance(a, list | tuple):
        if len(a) != len(b):
            return f"{path}: {len(a)} and {len(b)} items"
        inner = [(str(i), first, second) for i, (first, second) in enumerate(zip(a, b, strict=True))]
    elif isinstance(a, dict):
        if list(a) != list(b):
            return f"{path}: keys {list(a)} and {list(b)}"
        inner = [(str(key), a[key], b[key]) for key in a]
    else:
        return None if a == b or (a != a and b != b) else f"{path}: {a!r} and {b!r}"
    found = (difference(first, second, f"{path}.{name}") for name, first, second in inner)
    return next((where for where in found if where is not None), None)
