"""Right-hand sides of stochastic runs: a drift, and the scale of the noise."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor

from ...errors import ArgumentError, DtypeError, ShapeError
from ...models import Interpolant
from ...models.fields import ModelField, Terms
from ..adaptive.field import Field, FunctionField, function_field
from ..sde.diffusion import Diffusion

Times: TypeAlias = np.ndarray  # float64, one for each sample; the loop writes over its own
Scale: TypeAlias = "np.ndarray | Tensor"
"""Of the noise: a number for each sample, float64 [b] on the host, or a tensor that broadcasts to the states."""


class NoiseScale(Protocol):
    """What multiplies the Brownian motion."""

    def __call__(self, x: Tensor, times: Times) -> Scale:
        """The scale at x [b, *D] and times [b]."""
        ...

    def rows(self, index: Tensor) -> NoiseScale:
        """That of some of the samples."""
        ...


@dataclass(frozen=True)
class StochasticField:
    """``dX = drift dt + scale * dW``: what `Live.field` is in a stochastic run."""

    drift: Field
    scale: NoiseScale

    def __call__(self, x: Tensor, times: Times) -> Tensor:
        """The drift."""
        return self.drift(x, torch.tensor(times))

    def rows(self, index: Tensor) -> StochasticField:
        """Of some of the samples."""
        return StochasticField(self.drift.rows(index), self.scale.rows(index))


@dataclass(frozen=True)
class ConstantScale:
    """The same number everywhere."""

    value: float

    def __call__(self, x: Tensor, times: Times) -> np.ndarray:
        """The number for each sample."""
        return np.full(len(times), self.value)

    def rows(self, index: Tensor) -> ConstantScale:
        """Itself."""
        return self


@dataclass(frozen=True)
class ModelScale:
    r"""``sqrt(2 g(t))`` of a marginal-preserving SDE."""

    diffusion: Diffusion
    interpolant: Interpolant

    def g(self, times: Times) -> np.ndarray:
        """The diffusion coefficients."""
        distinct, which = np.unique(times, return_inverse=True)
        return np.array([self.diffusion(t, self.interpolant) for t in distinct.tolist()])[which]

    def __call__(self, x: Tensor, times: Times) -> np.ndarray:
        """The scale for each sample."""
        return np.sqrt(2 * self.g(times))

    def rows(self, index: Tensor) -> ModelScale:
        """Itself: it depends on the time alone."""
        return self


@dataclass(frozen=True)
class FunctionScale:
    """``function(x, t, **condition)``: a tensor like x, or one number for each sample, [b]."""

    function: FunctionField

    def __call__(self, x: Tensor, times: Times) -> Tensor:
        """The scale, checked to fit x.

        Raises:
            DtypeError, ShapeError: It does not.

        """
        dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
        t = torch.tensor(times, device=x.device, dtype=dtype)
        scale = self.function.function(x, t, **self.function.condition)
        if not isinstance(scale, Tensor):
            raise DtypeError("diffusion", got=type(scale).__name__, expected="a tensor")
        if scale.shape == (x.shape[0],) and x.ndim > 1:
            scale = scale.reshape(-1, *[1] * (x.ndim - 1))
        fits = scale.ndim == x.ndim and all(a in (1, b) for a, b in zip(scale.shape, x.shape, strict=True))
        if not fits:
            expected = f"{list(x.shape)}, like its x, or [{x.shape[0]}]"
            raise ShapeError("diffusion", got=list(scale.shape), expected=expected)
        return scale.to(x.dtype)

    def rows(self, index: Tensor) -> FunctionScale:
        """The same function with its conditions' rows."""
        return FunctionScale(self.function.rows(index))


class MarginalField(ModelField):
    r"""The drift ``v + g s`` of the SDE ``dx = (v + g s) dt + sqrt(2 g) dW`` that has the marginals of a model's flow.

    Both quantities are affine in one output of the network, which is called once. Against the direction of time the
    drift is ``v - g s``: the noise that a step adds is paid back by the score in either direction.

    Args:
        model, condition, null, guidance: As of :class:`~pushforward.models.fields.ModelField`.
        scale: The noise's.
        direction: 1.0 from noise to data, -1.0 back.
    """

    def __init__(
        self,
        model: Any,
        condition: Mapping[str, Any] | None,
        null: Mapping[str, Any] | None,
        guidance: Any,
        scale: ModelScale,
        direction: float,
    ) -> None:
        super().__init__(model, condition, null, guidance)
        self.scale, self.direction = scale, direction

    def terms(self, times: np.ndarray) -> Terms:
        """Those of the velocity, and of the score where there is noise."""
        velocity = super().terms(times)
        g = self.direction * self.scale.g(times)
        if not g.any():
            return velocity
        self.quantity = "score"
        try:
            score = super().terms(times)
        finally:
            self.quantity = "velocity"
        names = [*velocity.outputs, *(name for name in score.outputs if name not in velocity.outputs)]
        zero = np.zeros_like(g)
        outputs = {n: velocity.outputs.get(n, zero) + g * score.outputs.get(n, zero) for n in names}
        return Terms(velocity.scale, velocity.state + g * score.state, outputs)


def noise_scale(diffusion: object, condition: Mapping[str, Any] | None, samples: int) -> NoiseScale:
    """A scale from a number or a function.

    Raises:
        ArgumentError: Neither, or a number that is negative or not finite.

    """
    if callable(diffusion):
        return FunctionScale(function_field(diffusion, condition, samples))
    if isinstance(diffusion, bool) or not isinstance(diffusion, int | float):
        raise ArgumentError("diffusion", got=type(diffusion).__name__, expected="a number, or a function of (x, t)")
    if not 0 <= diffusion < math.inf:
        raise ArgumentError("diffusion", got=diffusion, expected="a finite number of at least 0")
    return ConstantScale(float(diffusion))


def check_additive(scale: NoiseScale, x: Tensor, times: Times, method: str) -> None:
    """Refuse a scale that depends on the state: methods for additive noise would miss its Ito terms.

    Raises:
        ArgumentError: It gives other values at another state.

    """
    if isinstance(scale, FunctionScale) and not torch.equal(scale(x, times), scale(x + 1 + x.abs(), times)):
        hint = "Use method='srk' or 'milstein'"
        expected = f"a function of t alone: {method} is a method for additive noise"
        raise ArgumentError("diffusion", got="values that depend on the state", expected=expected, hint=hint)
