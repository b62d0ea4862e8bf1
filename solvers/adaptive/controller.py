"""Step sizes from error ratios."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ...errors import ArgumentError, UnknownNameError

LEAST_RATIO = 1e-10  # an error of zero asks for the largest factor, not for an infinite one


@dataclass(frozen=True)
class Controller:
    r"""PID control of the logarithm of the step size; the defaults are the classical I controller.

    .. math:: h' = h \cdot \mathrm{clip}\big( s\, r_n^{-\beta_1} r_{n-1}^{-\beta_2} r_{n-2}^{-\beta_3},\;
        f_{min}, f_{max} \big), \quad \beta_1 = \tfrac{P + I + D}{k},\; \beta_2 = -\tfrac{P + 2 D}{k},\;
        \beta_3 = \tfrac{D}{k}

    with the error ratios r of the last accepted steps, at most 1 each, and k the order of the method. A rejected step
    is repeated with the I controller's factor, below 1; the step after a rejection does not grow.

    Attributes:
        proportional, integral, derivative: P, I and D.
        safety: s, in (0, 1].
        min_factor, max_factor: The least and the largest change of a step: in (0, 1) and at least 1.

    Raises:
        ArgumentError: A number out of its range.

    Source: Hairer & Wanner 1996, IV.2; Soederlind 2002, Numer. Algorithms 31; Soederlind & Wang 2006.

    Example:
        >>> Controller().factor(np.array([1.0, 1e-8]), np.ones((2, 2)), order=5)
        array([ 0.9, 10. ])

    """

    proportional: float = 0.0
    integral: float = 1.0
    derivative: float = 0.0
    safety: float = 0.9
    min_factor: float = 0.2
    max_factor: float = 10.0

    def __post_init__(self) -> None:
        for name in ("proportional", "integral", "derivative"):
            if not math.isfinite(getattr(self, name)):
                raise ArgumentError(name, got=getattr(self, name), expected="a finite number")
        if not 0 < self.safety <= 1:
            raise ArgumentError("safety", got=self.safety, expected="a number in (0, 1]")
        if not 0 < self.min_factor < 1:
            raise ArgumentError("min_factor", got=self.min_factor, expected="a number in (0, 1)")
        if not 1 <= self.max_factor < math.inf:
            raise ArgumentError("max_factor", got=self.max_factor, expected="a number of at least 1")

    def factor(self, ratio: np.ndarray, history: np.ndarray, order: float) -> np.ndarray:
        """Factors after accepted steps.

        Args:
            ratio: Error ratios of these steps, float64 [b].
            history: Ratios of the two accepted steps before, float64 [b, 2], latest first; 1 where there was none.
            order: k.

        """
        ratio = np.maximum(ratio, LEAST_RATIO)
        p, i, d = self.proportional, self.integral, self.derivative
        factor = self.safety * ratio ** (-(p + i + d) / order)
        if p or d:
            factor *= history[:, 0] ** ((p + 2 * d) / order)
        if d:
            factor *= history[:, 1] ** (-d / order)
        return np.clip(factor, self.min_factor, self.max_factor)

    def shrink(self, ratio: np.ndarray, order: float) -> np.ndarray:
        """Factors after rejected steps; a half where the error is not finite."""
        with np.errstate(invalid="ignore"):
            factor = np.clip(self.safety * np.maximum(ratio, 1.0) ** (-1.0 / order), self.min_factor, self.safety)
        return np.where(np.isfinite(ratio), factor, 0.5)


CONTROLLERS: dict[str, Controller] = {
    "I": Controller(),
    "PI": Controller(0.3, 0.4),
    "PI34": Controller(0.4, 0.3),
    "PI42": Controller(0.2, 0.4),
    "PID": Controller(0.2, 0.3, 0.1),
}


def controller(given: str | Controller) -> Controller:
    """A controller by its name in `CONTROLLERS`, or itself.

    Raises:
        UnknownNameError: No controller has that name.

    """
    if isinstance(given, Controller):
        return given
    if given not in CONTROLLERS:
        expected = f"one of {', '.join(CONTROLLERS)}, or a Controller"
        raise UnknownNameError("controller", got=repr(given), expected=expected)
    return CONTROLLERS[given]
