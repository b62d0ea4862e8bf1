"""The kinds of networks: velocity, denoised, noise, score, v and EDM, each a target of two numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ..errors import ArgumentError
from .clocks import Clock, LogNoiseRatioClock, NoiseRatioClock
from .interpolants import check_parameter
from .predictions import Affine, Prediction, Target, extremes


@dataclass(frozen=True)
class VelocityPrediction(Prediction):
    r"""Networks returning :math:`v = \alpha' x_1 + \sigma' x_0` (or its negative): no singular end.

    Args:
        interpolant: The path.
        network_time: The network's clock.
        sign: 1, or -1 for networks returning noise minus data on the linear path (SD3, Flux).
        source_is_noise: False for flows that start from encoded data (CrossFlow): noise and score are then refused,
            and with them stochastic solvers and likelihoods under N(0, 1).

    Source:
        Lipman et al. 2023.
    """

    sign: int = 1
    source_is_noise: bool = True  # type: ignore[misc]  # a constant of other predictions

    kind: ClassVar[str] = "velocity"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sign not in (1, -1):
            raise ArgumentError("sign", got=self.sign, expected="1, or -1 for networks returning noise minus data")

    def target(self, t: float) -> Target:
        """``sign * (alpha', sigma')``."""
        _, _, da, ds = self.interpolant(t)
        return Target(self.sign * da, self.sign * ds)

    def velocity(self, t: float) -> Affine:
        """The output itself."""
        self.check_callable(t)
        self.finite_rates(t)
        return Affine(0.0, float(self.sign))

    def columns(self, name: str, times: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Without a loop for velocities; what can be infinite is so at an end alone, and is looked for there."""
        if name != "velocity":
            return super().columns(name, times)
        for t in extremes(times):
            self.velocity(t)
        return np.zeros(len(times)), np.full(len(times), float(self.sign))


@dataclass(frozen=True)
class DenoisedPrediction(Prediction):
    r"""Networks returning :math:`D = E[x_1 | x_t]` ("sample", "x0" elsewhere): :math:`v = (\sigma' x + W D) / \sigma`.

    Args:
        interpolant: The path.
        network_time: The network's clock; nu by default for ``input="ratio"``.
        input: "state", or "ratio" for networks that take x / alpha = x_1 + nu x_0 (preconditioned EDM networks,
            k-diffusion denoisers).
    """

    input: str = "state"

    kind: ClassVar[str] = "denoised"

    def __post_init__(self) -> None:
        if self.input not in ("state", "ratio"):
            raise ArgumentError("input", got=repr(self.input), expected="'state' or 'ratio'")
        super().__post_init__()

    def default_clock(self) -> Clock:
        """Nu for networks of x / alpha."""
        return NoiseRatioClock() if self.input == "ratio" else super().default_clock()

    def target(self, t: float) -> Target:
        """``(1, 0)``."""
        return Target(1.0, 0.0)

    def input_scale(self, t: float) -> float:
        """1, or 1 / alpha."""
        if self.input == "state":
            return 1.0
        alpha = self.interpolant(t).alpha
        return 1 / alpha if alpha > 0 else math.inf

    def denoised(self, t: float) -> Affine:
        """The output itself."""
        self.check_callable(t)
        return Affine(0.0, 1.0)


@dataclass(frozen=True)
class NoisePrediction(Prediction):
    r"""Networks returning :math:`n = E[x_0 | x_t]` ("epsilon" elsewhere): :math:`v = (\alpha' x - W n) / \alpha`.

    At alpha = 0 they determine neither D nor v.

    Source:
        Ho et al. 2020.
    """

    kind: ClassVar[str] = "noise"

    def target(self, t: float) -> Target:
        """``(0, 1)``."""
        return Target(0.0, 1.0)

    def noise(self, t: float) -> Affine:
        """The output itself."""
        self.check_callable(t)
        return Affine(0.0, 1.0)


@dataclass(frozen=True)
class ScorePrediction(Prediction):
    r"""Networks returning :math:`s = -n / \sigma`, the score: :math:`v = (\alpha' x + W \sigma s) / \alpha`.

    At alpha = 0 they determine neither D nor v. At sigma = 0 the score may be infinite, and only D is given.

    Source:
        Song et al. 2021.
    """

    kind: ClassVar[str] = "score"

    def target(self, t: float) -> Target:
        """``(0, -1 / sigma)``."""
        sigma = self.interpolant(t).sigma
        return Target(0.0, -1 / sigma if sigma > 0 else -math.inf)

    def noise(self, t: float) -> Affine:
        """``-sigma * output``."""
        self.check_callable(t)
        sigma = self.interpolant(t).sigma
        if sigma == 0:
            raise self.singular(t, "where sigma = 0 the score has no finite bound")
        return Affine(0.0, -sigma)


@dataclass(frozen=True)
class VPrediction(Prediction):
    r"""Networks returning :math:`o = \alpha x_0 - \sigma x_1` ("v_prediction" elsewhere): no singular end for D and n.

    Not our velocity: on a path alpha = cos(phi), sigma = sin(phi), the velocity is phi' times this.

    Source:
        Salimans & Ho 2022.
    """

    kind: ClassVar[str] = "v"

    def target(self, t: float) -> Target:
        """``(-sigma, alpha)``."""
        a, s, _, _ = self.interpolant(t)
        return Target(-s, a)


@dataclass(frozen=True)
class EDMPrediction(Prediction):
    r"""The network F inside EDM's preconditioning, on any path.

    .. math:: D = (\alpha s_d^2 / q^2) x + (\sigma s_d / q) F(x / q, \tfrac14 \log\nu), \quad
        n = (\sigma / q^2) x - (\alpha s_d / q) F, \quad q^2 = \sigma^2 + \alpha^2 s_d^2

    These are Karras et al.'s c_skip, c_out and c_in with nu = sigma / alpha, multiplied out so that neither end
    divides by zero; only the clock log(nu)/4 is infinite there.

    Args:
        interpolant: The path.
        network_time: The network's clock, log(nu)/4 by default.
        sigma_data: Standard deviation of the data, s_d = 0.5.

    Source:
        Karras et al. 2022, table 1.
    """

    sigma_data: float = 0.5

    kind: ClassVar[str] = "edm"

    def __post_init__(self) -> None:
        check_parameter("sigma_data", self.sigma_data, above=0.0)
        super().__post_init__()

    def default_clock(self) -> Clock:
        """``log(nu) / 4``."""
        return LogNoiseRatioClock()

    def target(self, t: float) -> Target:
        """``(sigma / s_d, -alpha s_d) / q``."""
        a, s, _, _ = self.interpolant(t)
        q = math.hypot(s, a * self.sigma_data)
        return Target(s / (self.sigma_data * q), -a * self.sigma_data / q)

    def input_scale(self, t: float) -> float:
        """``1 / q``, which is c_in / alpha."""
        a, s, _, _ = self.interpolant(t)
        return 1 / math.hypot(s, a * self.sigma_data)
