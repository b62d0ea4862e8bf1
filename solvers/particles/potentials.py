"""Potentials: how a reward at the end is spread over the steps of a particle run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import torch
from torch import Tensor

from ...errors import UnknownNameError

Carried: TypeAlias = Mapping[str, Tensor]


class Potential(ABC):
    r"""What particles have been weighted by so far, :math:`L_k = \sum_{j \le k} \log G_j`, as a function of their path.

    The run weighs by :math:`\log G_k = L_k - L_{k-1}`, and at the end, whatever the potential, by
    :math:`\log G_K = \lambda r(x_K) - L_{K-1}`: the product of all is :math:`e^{\lambda r(x_K)}`, which is what makes
    the estimate of the evidence unbiased and the weighted particles those of the tilted law.

    Attributes:
        carried: Names of what a particle remembers, with the values it starts from. The log-weight so far has the name
            "level" and starts from 0.

    """

    carried: ClassVar[Mapping[str, float]] = {}

    @abstractmethod
    def level(self, reward: Tensor, carried: Carried) -> tuple[Tensor, dict[str, Tensor]]:
        r"""``L_k``, and what the particles remember from now on.

        Args:
            reward: :math:`\lambda r(D_k)`, [S, N].
            carried: What they remembered; "level" is :math:`L_{k-1}`.
        """


@dataclass(frozen=True)
class Difference(Potential):
    r""":math:`G_k = e^{\lambda (r_k - r_{k-1})}`, so :math:`L_k = \lambda r_k`: weights follow the look ahead."""

    def level(self, reward: Tensor, carried: Carried) -> tuple[Tensor, dict[str, Tensor]]:
        """The reward itself."""
        return reward, {}


@dataclass(frozen=True)
class Current(Potential):
    r""":math:`G_k = e^{\lambda r_k}`: every look ahead counts in full, until the end takes all of it back."""

    def level(self, reward: Tensor, carried: Carried) -> tuple[Tensor, dict[str, Tensor]]:
        """One more reward."""
        return carried["level"] + reward, {}


@dataclass(frozen=True)
class Sum(Potential):
    r""":math:`G_k = e^{\lambda \sum_{j \le k} r_j}`."""

    carried: ClassVar[Mapping[str, float]] = {"sum": 0.0}

    def level(self, reward: Tensor, carried: Carried) -> tuple[Tensor, dict[str, Tensor]]:
        """One more sum of rewards."""
        total = carried["sum"] + reward
        return carried["level"] + total, {"sum": total}


@dataclass(frozen=True)
class Max(Potential):
    r""":math:`G_k = e^{\lambda \max_{j \le k} r_j}`."""

    carried: ClassVar[Mapping[str, float]] = {"max": -torch.inf}

    def level(self, reward: Tensor, carried: Carried) -> tuple[Tensor, dict[str, Tensor]]:
        """One more maximum."""
        highest = torch.maximum(carried["max"], reward)
        return carried["level"] + highest, {"max": highest}


POTENTIALS: dict[str, Potential] = {"difference": Difference(), "max": Max(), "sum": Sum(), "current": Current()}


def potential(name: str | Potential) -> Potential:
    """The potential of that name; one itself passes through.

    Raises:
        UnknownNameError: No potential has that name.

    Source: Singhal et al. 2025, A general framework for inference-time scaling and steering of diffusion models
        (Feynman-Kac steering), section 3.

    Example:
        >>> potential("max")
        Max()
    """
    if isinstance(name, Potential):
        return name
    if name not in POTENTIALS:
        raise UnknownNameError("potential", got=repr(name), expected=f"one of {', '.join(POTENTIALS)}")
    return POTENTIALS[name]
