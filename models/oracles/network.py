"""Oracles behind the interface of a network."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..predictions import Prediction

if TYPE_CHECKING:
    from .oracle import Oracle


class OracleNetwork:
    """``network(x, time)`` of one kind: undoes the input scale and the clock, and returns the exact target.

    Attributes:
        oracle: What knows the answers.
        prediction: The dialect.
        calls, rows: How often it was called, and on how many rows in all.
    """

    def __init__(self, oracle: Oracle, prediction: Prediction) -> None:
        self.oracle, self.prediction = oracle, prediction
        self.calls = self.rows = 0

    def __call__(self, x: Tensor, time: float | Tensor) -> Tensor:
        """The raw output, in the shape and dtype of x.

        Args:
            x: State times the prediction's input scale, [B, *D].
            time: The network's time: a number, or a tensor of one element or of B.
        """
        self.calls += 1
        self.rows += x.shape[0]
        said = host_times(time)
        path, clock = self.prediction.interpolant, self.prediction.network_time
        times = [min(max(clock.inverse(one, path), 0.0), 1.0) for one in said]
        state = x / per_row([self.prediction.input_scale(one) for one in times], x)
        return self._output(state, torch.tensor(times, dtype=torch.float64))

    def _output(self, x: Tensor, t: Tensor) -> Tensor:
        kind = self.prediction.kind
        if kind == "velocity":
            return self.oracle.velocity(x, t) * self.prediction.sign  # type: ignore[attr-defined]
        if kind in ("denoised", "noise", "score"):
            return getattr(self.oracle, kind)(x, t)
        targets = [self.prediction.target(one) for one in t.tolist()]
        data, noise = (per_row(list(column), x) for column in zip(*targets, strict=True))
        return data * self.oracle.denoised(x, t) + noise * self.oracle.noise(x, t)


def host_times(t: float | Tensor) -> list[float]:
    """Times on the host: one for each row, or a single one if all agree."""
    times = t.double().reshape(-1).tolist() if isinstance(t, Tensor) else [float(t)]
    return times if any(one != times[0] for one in times) else times[:1]


def per_row(values: list[float], like: Tensor) -> Tensor:
    """Numbers per row, [B, 1, ..., 1], in the dtype and with the rank of ``like``."""
    return torch.tensor(values, dtype=like.dtype, device=like.device).reshape(-1, *[1] * (like.ndim - 1))
