r"""Loss weightings as functions of time, in whatever a network predicts.

At one (x, t) errors of velocity, noise and clean estimate are multiples of one another, with the Wronskian
:math:`W = \alpha' \sigma - \alpha \sigma'`:

.. math:: |\Delta v|^2 = (W / \sigma)^2 |\Delta D|^2 = (W / \alpha)^2 |\Delta n|^2

so a weighting that a paper states for one of them is one for all. A weighting and a density of times are the same
thing in expectation; see :mod:`pushforward.models.training.time_samplers`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from ...errors import ArgumentError, UnknownNameError
from ..interpolants import Coefficients, Interpolant, check_parameter
from ..registry import made, registration
from .time_samplers import LogitNormalTimes, TimeSampler

Kind = TypeVar("Kind", bound="type[Weighting]")
WEIGHTINGS: dict[str, type[Weighting]] = {}
SPACES = ("velocity", "data", "noise")


def register(name: str) -> Callable[[Kind], Kind]:
    """Class decorator: make the weighting known under ``name``."""
    return registration(WEIGHTINGS, name)


def weighting(name: str, **options: Any) -> Weighting:
    """The registered weighting of that name.

    Raises:
        UnknownNameError: None has this name; lists those there are.
        ArgumentError: An option it does not have, or out of range.

    Example:
        >>> weighting("min_snr", gamma=5.0)
        MinSNRWeighting(gamma=5.0)
    """
    return made(WEIGHTINGS, "weighting", name, options)


class Weighting(ABC):
    """What a squared error is multiplied by; a subclass says so for the quantity that its paper has.

    Attributes:
        space: That quantity: "velocity", "data" (the clean estimate) or "noise".
    """

    space: ClassVar[str]

    @abstractmethod
    def own(self, path: Coefficients, t: float) -> float:
        """The weight of a squared error of ``space`` at t, where the path has these coefficients."""

    def at(self, path: Interpolant, t: float, space: str = "velocity") -> float:
        """The weight of a squared error of ``space`` at ``t``.

        Args:
            path: The interpolant.
            t: Inside (0, 1).
            space: What the network is compared in.

        Raises:
            UnknownNameError: No such space.
            ArgumentError: t at an end, where errors of two quantities are no finite multiples of each other.
        """
        if space not in SPACES:
            raise UnknownNameError("space", got=repr(space), expected="one of " + ", ".join(SPACES))
        here = path(t)
        if not (here.alpha > 0 and here.sigma > 0):
            raise ArgumentError("t", got=t, expected="a time inside (0, 1), where alpha and sigma are positive")
        ratio = 1.0 if space == self.space else rate(here, self.space) / rate(here, space)
        return self.own(here, t) / ratio

    def __call__(self, path: Interpolant, t: Tensor, space: str = "velocity") -> Tensor:
        """:meth:`at` for each time of a batch, [B], in the dtype of t.

        Example:
            >>> from pushforward.models import Linear
            >>> weighting("uniform")(Linear(), torch.tensor([0.25, 0.5]))
            tensor([1., 1.])
        """
        weights = [self.at(path, one, space) for one in t.double().reshape(-1).tolist()]
        return torch.tensor(weights, dtype=t.dtype, device=t.device)


def rate(here: Coefficients, space: str) -> float:
    """``|dv|^2 / |d space|^2``."""
    wronskian = here.dalpha * here.sigma - here.alpha * here.dsigma
    return {"velocity": 1.0, "data": (wronskian / here.sigma) ** 2, "noise": (wronskian / here.alpha) ** 2}[space]


def snr(here: Coefficients) -> float:
    """``alpha^2 / sigma^2``."""
    return (here.alpha / here.sigma) ** 2


@register("uniform")
@dataclass(frozen=True)
class UniformWeighting(Weighting):
    """1 for velocities: rectified flow, flow matching (Lipman et al. 2023)."""

    space: ClassVar[str] = "velocity"

    def own(self, path: Coefficients, t: float) -> float:
        """1."""
        return 1.0


@register("noise")
@dataclass(frozen=True)
class NoiseWeighting(Weighting):
    """1 for noise: the simple loss of DDPM (Ho et al. 2020, equation 14)."""

    space: ClassVar[str] = "noise"

    def own(self, path: Coefficients, t: float) -> float:
        """1."""
        return 1.0


@register("edm")
@dataclass(frozen=True)
class EDMWeighting(Weighting):
    r""":math:`(\rho^2 + s_d^2) / (\rho s_d)^2` for clean estimates, :math:`\rho = \sigma / \alpha`.

    The raw output of EDM's network then has weight 1, and its loss for data N(0, s_d^2) is 1 before training. EDM draws
    its levels as :class:`LogitNormalTimes` (1.2, 1.2) does on the linear path.

    Attributes:
        sigma_data: s_d.

    Source:
        Karras et al. 2022, table 1.
    """

    sigma_data: float = 0.5

    space: ClassVar[str] = "data"

    def __post_init__(self) -> None:
        check_parameter("sigma_data", self.sigma_data, above=0.0)

    def own(self, path: Coefficients, t: float) -> float:
        """The formula above."""
        rho = path.sigma / path.alpha
        return (rho**2 + self.sigma_data**2) / (rho * self.sigma_data) ** 2


@register("min_snr")
@dataclass(frozen=True)
class MinSNRWeighting(Weighting):
    r""":math:`\min(\mathrm{SNR}, \gamma)` for clean estimates; :math:`\min(1, \gamma / \mathrm{SNR})` for noise.

    Attributes:
        gamma: 5 in the paper.

    Source:
        Hang et al. 2023, Min-SNR, section 3.4.
    """

    gamma: float = 5.0

    space: ClassVar[str] = "data"

    def __post_init__(self) -> None:
        check_parameter("gamma", self.gamma, above=0.0)

    def own(self, path: Coefficients, t: float) -> float:
        """The formula above."""
        return min(snr(path), self.gamma)


@register("p2")
@dataclass(frozen=True)
class P2Weighting(Weighting):
    r""":math:`(k + \mathrm{SNR})^{-\gamma}` for noise: less where only imperceptible detail is left.

    Attributes:
        k, gamma: 1 and 1 in the paper.

    Source:
        Choi et al. 2022, P2 weighting, equation 8.
    """

    k: float = 1.0
    gamma: float = 1.0

    space: ClassVar[str] = "noise"

    def __post_init__(self) -> None:
        check_parameter("k", self.k, above=0.0)
        check_parameter("gamma", self.gamma)

    def own(self, path: Coefficients, t: float) -> float:
        """The formula above."""
        return (self.k + snr(path)) ** -self.gamma


@register("sigmoid")
@dataclass(frozen=True)
class SigmoidWeighting(Weighting):
    r"""The evidence bound with weight :math:`\mathrm{sigmoid}(b - \lambda)`, :math:`\lambda = \log \mathrm{SNR}`.

    For noise it is :math:`\frac{1}{2} \lambda'(t)\, \mathrm{sigmoid}(b - \lambda)`: the slope makes the objective the
    same on every path. The weight falls with the signal, so the bound is of data with noise.

    Attributes:
        bias: b.

    Source:
        Kingma & Gao 2023, Understanding Diffusion Objectives as the ELBO, section 5.
    """

    bias: float = 2.0

    space: ClassVar[str] = "noise"

    def __post_init__(self) -> None:
        check_parameter("bias", self.bias)

    def own(self, path: Coefficients, t: float) -> float:
        """The formula above."""
        slope = 2 * (path.dalpha * path.sigma - path.alpha * path.dsigma) / (path.alpha * path.sigma)
        return 0.5 * slope / (1 + math.exp(-self.bias) * snr(path))


@register("density")
@dataclass(frozen=True)
class DensityWeighting(Weighting):
    r"""The density of a time sampler as a weight of velocities at uniform times: SD3's objective, the other way round.

    Attributes:
        times: The sampler.

    Source:
        Esser et al. 2024 (SD3), equation 18.

    Example:
        >>> from pushforward.models import Linear
        >>> round(weighting("density").at(Linear(), 0.5), 4)
        1.5958
    """

    times: TimeSampler = field(default_factory=LogitNormalTimes)

    space: ClassVar[str] = "velocity"

    def own(self, path: Coefficients, t: float) -> float:
        """The density at t."""
        return math.exp(self.times.log_prob(torch.tensor(t, dtype=torch.float64)).item())
