"""Diffusion coefficients g(t) of the marginal-preserving SDE ``dx = (v + g s) dt + sqrt(2 g) dW``."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from ...errors import ArgumentError, SingularTimeError, UnknownNameError
from ...models import Interpolant

Form = Callable[[float, Interpolant], float]


def reversal(t: float, interpolant: Interpolant) -> float:
    """``sigma^2 d lambda/dt = sigma (alpha' sigma - alpha sigma') / alpha``: the reversal of the noising process."""
    if not interpolant.one_sided:
        expected = "another form: a two-sided path does not come from a noising process"
        raise ArgumentError("diffusion", got="'reversal'", expected=expected)
    alpha, sigma, d_alpha, _ = interpolant(t)
    if alpha == 0:
        raise SingularTimeError(
            "t",
            got=t,
            because="the reversal diffusion is infinite where alpha = 0",
            hint="Start the grid later, or choose another diffusion.",
        )
    return sigma**2 * d_alpha / alpha - interpolant.sigma_dsigma(t)


FORMS: dict[str, Form] = {
    "constant": lambda t, _: 1.0,
    "sigma": lambda t, interpolant: interpolant.sigma(t),
    "sigma_squared": lambda t, interpolant: interpolant.sigma(t) ** 2,
    "linear": lambda t, _: 1 - t,
    "square": lambda t, _: (1 - t) ** 4,
    "decreasing": lambda t, _: (math.cos(math.pi * t) + 1) ** 2 / 4,
    "increasing_decreasing": lambda t, _: math.sin(math.pi * t) ** 2,
    "sine": lambda t, _: math.cos(math.pi * t / 2) ** 2,
    "reversal": reversal,
}


@dataclass(frozen=True)
class Diffusion:
    r"""A non-negative function of time, ``scale * form(t)``, in the convention ``drift v + g s, noise sqrt(2 g) dW``.

    Every choice has the marginals of the flow ``dx = v dt``; g sets how much noise is exchanged on the way.

    Attributes:
        form: "constant" 1, "sigma" sigma(t), "sigma_squared" sigma(t)^2, "linear" 1 - t, "square" (1 - t)^4 (so that
            sqrt(g) is quadratic), "decreasing" (cos(pi t) + 1)^2 / 4, "increasing_decreasing" sin^2(pi t), "sine"
            cos^2(pi t / 2), "reversal" sigma^2 lambda' (the exact reversal of the noising process; infinite where
            alpha = 0); or any function of the time.
        scale: Factor, at least 0.

    Source: Ma et al. 2024, SiT, section 3.4; "square" and "sine": Kim et al. 2025, Inference-time scaling for flow
        models.

    Example:
        >>> from pushforward.models import Linear
        >>> Diffusion("linear", scale=0.5)(0.25, Linear())
        0.375

    """

    form: str | Callable[[float], float] = "sigma"
    scale: float = 1.0

    def __post_init__(self) -> None:
        if isinstance(self.form, str) and self.form not in FORMS:
            raise UnknownNameError("diffusion", got=repr(self.form), expected=f"one of {', '.join(FORMS)}")
        if not (math.isfinite(self.scale) and self.scale >= 0):
            raise ArgumentError("scale", got=self.scale, expected="a finite number, at least 0")

    def __call__(self, t: float, interpolant: Interpolant) -> float:
        """``g(t)``.

        Raises:
            SingularTimeError: The form is infinite at ``t``.
            ArgumentError: A function of the user's that is negative or not finite there.

        """
        if isinstance(self.form, str):
            return self.scale * FORMS[self.form](t, interpolant)
        g = float(self.form(t))
        if not (math.isfinite(g) and g >= 0):
            raise ArgumentError(f"diffusion({t:.6g})", got=g, expected="a finite number, at least 0")
        return self.scale * g

    @classmethod
    def of(cls, value: DiffusionLike) -> Diffusion:
        """A diffusion from itself, from the name of a form, from a function of the time, or from a constant."""
        if isinstance(value, Diffusion):
            return value
        return cls(value) if isinstance(value, str) or callable(value) else cls("constant", value)


DiffusionLike: TypeAlias = Diffusion | str | float | Callable[[float], float]
"""What solvers take as their ``diffusion``."""
