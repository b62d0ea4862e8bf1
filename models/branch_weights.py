"""Weights of the branches of a guided network, known on the host before any of them runs."""

from __future__ import annotations

import math
import numbers
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..errors import ArgumentError
from .interpolants import Interpolant

CONDITIONAL, UNCONDITIONAL = "cond", "null"


class BranchWeights(ABC):
    r"""What multiplies each branch: :math:`o = \sum_b w_b(t)\, o_b`, with weights that sum to one.

    Since they do, guided velocities, noises, denoised estimates and raw outputs are all the same field, and the weights
    go into the coefficients of a plan: guidance costs no pass over memory. A branch of weight 0 is not evaluated.
    Subclasses are frozen dataclasses: plans are kept by them.

    A solver reads the weights at the start of a step for all its stages.

    Attributes:
        restarts: Whether solvers that remember earlier steps forget them where the weights jump.
        renoises: Whether the weights are those of the step ``x' = alpha' D + sigma' n`` and of no other.
    """

    restarts: ClassVar[bool] | bool = False
    renoises: ClassVar[bool] = False

    @property
    @abstractmethod
    def branches(self) -> tuple[str, ...]:
        """Names of the branches that some time may need."""

    @abstractmethod
    def weights_at(self, t: float, interpolant: Interpolant | None = None) -> dict[str, float]:
        """The weights of the branches that are evaluated at ``t``; they sum to one.

        Args:
            t: Time in [0, 1].
            interpolant: The solver's path; needed where something is said in noise ratios.
        """

    def step_weights(self, t: float, t_next: float, interpolant: Interpolant) -> dict[str, float]:
        """The weights for the step from ``t`` to ``t_next``: those at its start."""
        del t_next
        return self.weights_at(t, interpolant)

    def branches_at(self, t: float, interpolant: Interpolant | None = None) -> tuple[str, ...]:
        """Names of the branches that are evaluated at ``t``."""
        return tuple(self.weights_at(t, interpolant))

    def columns_at(
        self, times: NDArray[np.float64], interpolant: Interpolant | None = None
    ) -> dict[str, NDArray[np.float64]]:
        """:meth:`weights_at` for many times: a column for each branch that some time needs, zero where none is."""
        each = [self.weights_at(t, interpolant) for t in times.tolist()]
        needed = [branch for branch in self.branches if any(branch in weights for weights in each)]
        return {branch: np.array([weights.get(branch, 0.0) for weights in each]) for branch in needed}

    def breakpoints(self, interpolant: Interpolant) -> tuple[float, ...]:
        """Times inside (0, 1) at which the weights jump: put grid nodes there to keep a solver's order."""
        del interpolant
        return ()

    def check_acts(self, times: tuple[float, ...], interpolant: Interpolant) -> None:
        """Refuse a whole run over a grid on which the weights never do what they are there for.

        Raises:
            ArgumentError: An interval that contains the start of no step.
        """
        del times, interpolant

    def restart_steps(self, times: tuple[float, ...], interpolant: Interpolant) -> tuple[int, ...]:
        """Steps of a grid that begin after a jump, and so with no memory of earlier ones."""
        if not self.restarts:
            return ()
        jumps = self.breakpoints(interpolant)
        steps = range(1, len(times) - 1)
        return tuple(k for k in steps if any(min(times[k - 1 : k + 1]) < b <= max(times[k - 1 : k + 1]) for b in jumps))

    @abstractmethod
    def to_config(self) -> dict[str, Any]:
        """Fields, ready for JSON.

        Raises:
            ArgumentError: A weight is a function, which JSON cannot hold.
        """


def finite(value: Any, name: str) -> float:
    """A finite float.

    Raises:
        ArgumentError: It is not one.
    """
    if not isinstance(value, numbers.Real) or not math.isfinite(value):
        raise ArgumentError(name, got=repr(value), expected="a finite number")
    return float(value)


def to_json(weight: object) -> Any:
    """The weight, unless it is a function.

    Raises:
        ArgumentError: It is.
    """
    if callable(weight):
        hint = "A lowered plan holds the weights themselves, and can be written"
        raise ArgumentError("weight", got="a function", expected="a number, to be written as JSON", hint=hint)
    return weight
