"""Search problems with known answers: a model, a reward, and the law that the reward tilts the data to.

Data p and a reward r have the target ``p*(x) = p(x) exp(strength r(x)) / Z``.

- :func:`gaussian_line` (O1): N(1.5, 0.25) in one dimension, reward x, strength 3.
- :func:`three_modes` (O2): three modes in the plane, reward the second coordinate, strength 2: the target is nearly all
  in the mode that the data are least in.
- :class:`SignPattern` (O3): 16 coordinates of two modes each; the reward counts the signs that differ from a pattern,
  so that it is flat between jumps and has no gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from dataclasses import replace as replaced
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from pushforward.models import GaussianOracle, Interpolant, MixtureOracle, Model, adapt

DOUBLE = torch.float64
Reward = Callable[[Tensor, Any], Tensor]


@dataclass(frozen=True)
class LinearTilt:
    r"""Data from :math:`\sum_k w_k N(m_k, s^2 I)` with the reward :math:`a \cdot x`: the target is such a mixture too.

    .. math:: w^*_k \propto w_k \exp(\lambda a \cdot m_k + \lambda^2 s^2 |a|^2 / 2), \quad m^*_k = m_k + \lambda s^2 a,
        \quad \log Z = \log \sum_k w_k \exp(\ldots)

    Attributes:
        weights, means: Of the components, [K] and [K, d], float64.
        variance: s^2, of all components.
        direction: a, [d].
        strength: lambda.
    """

    weights: Tensor
    means: Tensor
    variance: float
    direction: Tensor
    strength: float

    def oracle(self, path: str | Interpolant = "linear") -> GaussianOracle | MixtureOracle:
        """The exact denoiser on a path."""
        shape = self.means.shape[1:]
        covariance = torch.full(shape, self.variance, dtype=DOUBLE)
        if len(self.weights) == 1:
            return GaussianOracle(self.means[0], covariance, path)
        return MixtureOracle(self.weights, list(self.means), [covariance] * len(self.weights), path)

    def model(self, path: str | Interpolant = "linear", kind: str = "velocity") -> Model:
        """The oracle as a network; ``model.network.rows`` counts the rows that it saw."""
        return self.oracle(path).model(kind)

    @property
    def reward(self) -> Reward:
        """``a . x``, differentiable."""
        direction = self.direction

        def dot(x: Tensor, context: Any) -> Tensor:
            del context
            return x @ direction.to(x)

        return dot

    @cached_property
    def _log_masses(self) -> Tensor:
        shift = self.strength**2 * self.variance * float(self.direction.square().sum()) / 2
        return self.weights.log() + self.strength * (self.means @ self.direction) + shift

    @property
    def log_evidence(self) -> float:
        """``log Z = log E_p[exp(strength r)]``."""
        return float(self._log_masses.logsumexp(0))

    @cached_property
    def tilted(self) -> LinearTilt:
        """The target, as data without a tilt of its own."""
        means = self.means + self.strength * self.variance * self.direction
        return replaced(self, weights=self._log_masses.softmax(0), means=means, strength=0.0)

    @property
    def expected_reward(self) -> float:
        """``E_p[r]``; ``tilted.expected_reward`` is that of the target."""
        return float(self.weights @ (self.means @ self.direction))

    def component(self, x: Tensor) -> Tensor:
        """The nearest mean of each sample, int64 [B]: its component, for modes many deviations apart."""
        return torch.cdist(x.to(DOUBLE), self.means).argmin(1)


def gaussian_line() -> LinearTilt:
    """O1: the target is N(2.25, 0.25), log Z = 5.625."""
    one = torch.ones(1, dtype=DOUBLE)
    return LinearTilt(one, 1.5 * one[None], 0.25, one, 3.0)


def three_modes() -> LinearTilt:
    """O2: weights 0.6, 0.3, 0.1 become 0.01455, 0.00727, 0.97818; log Z = 3.89948, the target's E[r] = 3.11453."""
    weights = torch.tensor([0.6, 0.3, 0.1], dtype=DOUBLE)
    means = torch.tensor([[3.0, 0.0], [-3.0, 0.0], [0.0, 3.0]], dtype=DOUBLE)
    return LinearTilt(weights, means, 0.09, torch.tensor([0.0, 1.0], dtype=DOUBLE), 2.0)


@dataclass(frozen=True)
class SignPattern:
    r"""O3: independent coordinates from the halves N(-1, 0.2^2) and N(1, 0.2^2), reward -(number of wrong signs).

    A coordinate has the wrong sign with probability 1/2, and in the target with probability
    :math:`1 / (1 + e^\lambda)`, independently of the others.

    Attributes:
        dimensions: d.
        strength: lambda.
        pattern: The signs sought, [d].
    """

    dimensions: int = 16
    strength: float = 1.0
    pattern: Tensor = field(init=False)

    def __post_init__(self) -> None:
        """Draw the pattern; by symmetry of the data any is as hard as any other."""
        signs = torch.randn(self.dimensions, generator=torch.Generator().manual_seed(0), dtype=DOUBLE).sign()
        object.__setattr__(self, "pattern", signs)

    def model(self) -> Model:
        """The exact denoiser on the linear path; takes a time for each row."""
        return adapt(sign_denoiser, "denoised", "linear")

    @property
    def reward(self) -> Reward:
        """Integers from -d to 0, flat between jumps."""
        pattern = self.pattern

        def wrong_signs(x: Tensor, context: Any) -> Tensor:
            del context
            return -(x * pattern.to(x) < 0).sum(1).to(DOUBLE)

        return wrong_signs

    @property
    def log_evidence(self) -> float:
        """``log Z = d log((1 + exp(-strength)) / 2)``."""
        return self.dimensions * math.log((1 + math.exp(-self.strength)) / 2)

    @property
    def expected_reward(self) -> float:
        """``E_p[r] = -d / 2``."""
        return -self.dimensions / 2

    @property
    def tilted_reward(self) -> float:
        """E[r] of the target."""
        return -self.dimensions / (1 + math.exp(self.strength))


def sign_denoiser(x: Tensor, t: Tensor) -> Tensor:
    """D(x, t) of :class:`SignPattern` on the linear path, coordinate by coordinate; t is [B]."""
    alpha = t.reshape(-1, *[1] * (x.ndim - 1)).to(x.dtype)
    variance = 0.04 * alpha**2 + (1 - alpha) ** 2
    right = torch.sigmoid(2 * alpha * x / variance)
    gain = 0.04 * alpha / variance
    return right * (1 + gain * (x - alpha)) + (1 - right) * (-1 + gain * (x + alpha))


class Counting:
    """A network that counts the rows that it sees, guided or not, and remembers the sizes of its calls.

    Attributes:
        rows: Sum of the sizes.
        sizes: Rows of each call, in order.
    """

    def __init__(self, network: Callable[..., Tensor]) -> None:
        self.network = network
        self.sizes: list[int] = []

    @property
    def rows(self) -> int:
        return sum(self.sizes)

    def __call__(self, x: Tensor, time: Tensor, **condition: Any) -> Tensor:
        """The network's output; conditions are for the caller's guidance and are not looked at."""
        del condition
        self.sizes.append(len(x))
        return self.network(x, time)


def counted(model: Model) -> tuple[Model, Counting]:
    """The model around a counter, and the counter."""
    counter = Counting(model.network)
    return replaced(model, network=counter), counter
