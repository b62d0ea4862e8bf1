"""Grids that move the times of another grid: resolution shifts, and the stretch to a last noise level."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from ...errors import ArgumentError, UnknownNameError
from ...models import Interpolant
from ...models.shift import check_shift, shift_time
from .clock import UNIFORM
from .registry import GridFunction, register


@register("shifted")
@dataclass(frozen=True)
class Shifted:
    r"""The noise level's odds multiplied by ``shift``: :math:`t' = t / (t + s (1 - t))` of a base grid's times.

    See :func:`pushforward.models.shift_time`. It is a pure map: what it returns never becomes its own input, so a
    rebuilt grid is not shifted twice.

    Attributes:
        shift: s > 0; above 1 more steps are spent near the noise. For m tokens against n in training, sqrt(m / n).
        base: The grid that is shifted.

    Source: Esser et al. 2024, Scaling rectified flow transformers (SD3), equation 23.

    """

    shift: float = 3.0
    base: GridFunction = UNIFORM

    def __post_init__(self) -> None:
        check_shift(self.shift)

    def __call__(self, steps: int, interpolant: Interpolant) -> tuple[float, ...]:
        """The times."""
        return tuple(shift_time(t, self.shift) for t in self.base(steps, interpolant))


@register("dynamic_shift")
@dataclass(frozen=True)
class DynamicShift:
    r"""The shift that follows the resolution, as Flux and SD3.5 use it: ``mu``, or ``tokens`` from which it follows.

    .. math:: t' = \frac{t^p}{t^p + s (1 - t)^p}, \quad s = e^\mu \text{ ("exponential") or } s = \mu \text{ ("linear")}

    .. math:: \mu(L) = \mu_0 + (L - L_0) \frac{\mu_1 - \mu_0}{L_1 - L_0}

    Attributes:
        mu: The shift's parameter; or give ``tokens``.
        tokens: L, the length of the packed sequence: 4096 for 1024 x 1024 pixels.
        kind: What mu means.
        exponent: p > 0; 1 is :class:`Shifted` with shift s.
        first, last: (tokens, mu) at the two ends of the line that gives mu; Flux's by default.
        base: The grid that is shifted.

    Raises:
        ArgumentError: Neither mu nor tokens, or both; a value out of range.

    Source: Black Forest Labs 2024, FLUX.1 (the constants and the line); Esser et al. 2024, equation 23.

    Example:
        >>> round(DynamicShift(tokens=1024).shift, 3), round(DynamicShift(tokens=4096).shift, 3)
        (1.878, 3.158)
    """

    mu: float | None = None
    tokens: int | None = None
    kind: Literal["exponential", "linear"] = "exponential"
    exponent: float = 1.0
    first: tuple[int, float] = (256, 0.5)
    last: tuple[int, float] = (4096, 1.15)
    base: GridFunction = UNIFORM

    def __post_init__(self) -> None:
        if (self.mu is None) == (self.tokens is None):
            got = "neither" if self.mu is None else "both"
            raise ArgumentError(
                "mu, tokens", got=got, expected="mu, or the number of image tokens from which it follows"
            )
        if self.kind not in ("exponential", "linear"):
            raise UnknownNameError("kind", got=repr(self.kind), expected="'exponential' or 'linear'")
        if not (math.isfinite(self.exponent) and self.exponent > 0):
            raise ArgumentError("exponent", got=self.exponent, expected="a positive number")
        if self.tokens is not None and self.tokens < 1:
            raise ArgumentError("tokens", got=self.tokens, expected="a positive number of image tokens")
        check_shift(self.shift)

    @property
    def shift(self) -> float:
        """s: by what the odds of the noise level are multiplied."""
        mu = self.mu
        if mu is None:
            assert self.tokens is not None
            (tokens, low), (more, high) = self.first, self.last
            mu = low + (self.tokens - tokens) * (high - low) / (more - tokens)
        return math.exp(mu) if self.kind == "exponential" else mu

    def __call__(self, steps: int, interpolant: Interpolant) -> tuple[float, ...]:
        """The times."""
        p, s = self.exponent, self.shift
        return tuple(t**p / (t**p + s * (1 - t) ** p) for t in self.base(steps, interpolant))


@register("stretched")
@dataclass(frozen=True)
class Stretched:
    r"""Times stretched so that the last noise level before t = 1 is ``terminal``: :math:`t' = t (1 - k) / t_{N-1}`.

    Attributes:
        terminal: k in (0, 1), the noise level 1 - t of the last evaluation; LTX-Video uses 0.1.
        base: The grid that is stretched; its last time, 1, stays.

    Source: HaCohen et al. 2024, LTX-Video (the value); the map is the linear one that keeps t = 0.

    Example:
        >>> from pushforward.models import Linear
        >>> [round(t, 3) for t in Stretched(0.1)(4, Linear())]
        [0.0, 0.3, 0.6, 0.9, 1.0]
    """

    terminal: float = 0.1
    base: GridFunction = UNIFORM

    def __post_init__(self) -> None:
        if not 0 < self.terminal < 1:
            raise ArgumentError("terminal", got=self.terminal, expected="a noise level between 0 and 1")

    def __call__(self, steps: int, interpolant: Interpolant) -> tuple[float, ...]:
        """The times; a single step has nothing to stretch."""
        *times, end = self.base(steps, interpolant)
        scale = (1 - self.terminal) / times[-1] if steps > 1 else 1.0
        return (*(t * scale for t in times), end)


@register("offset")
@dataclass(frozen=True)
class Offset:
    r"""Times that begin a little after pure noise: :math:`t' = s + (1 - s)\, t` of a base grid's times.

    Where alpha = 0 the half log-SNR is infinite: the first step of an exponential solver has order one there, and the
    next one no past to use. From ``start`` on every step is a regular one. The price is to take noise for the state at
    ``start``, of which alpha(start) is data; 0.001 is where diffusers' multistep schedulers begin on flow networks.
    Which weighs more depends on the network: UniPC with 8 steps has the same error on mixtures, and between 0.4 and 1.2
    of it on the bundled digits, by start.

    Attributes:
        start: s in (0, 1).
        base: The grid that is moved; its last time, 1, stays.

    Example:
        >>> from pushforward.models import Linear
        >>> [round(t, 4) for t in Offset(0.01)(4, Linear())]
        [0.01, 0.2575, 0.505, 0.7525, 1.0]
    """

    start: float = 0.001
    base: GridFunction = UNIFORM

    def __post_init__(self) -> None:
        if not 0 < self.start < 1:
            raise ArgumentError("start", got=self.start, expected="a time between 0 and 1")

    def __call__(self, steps: int, interpolant: Interpolant) -> tuple[float, ...]:
        """The times."""
        *times, end = self.base(steps, interpolant)
        return (*(self.start + (1 - self.start) * t for t in times), end)
