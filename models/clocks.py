"""Clocks: the time that a network wants to be told, as a function of ours; small, named, printable, invertible."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..errors import ArgumentError, UnknownNameError
from .discrete import NODE_SLACK
from .interpolants import Interpolant, check_parameter

CLOCKS: dict[str, type[Clock]] = {}


@dataclass(frozen=True)
class Clock(ABC):
    """A monotone map between our time and a network's; both directions in float64 on the host."""

    name: ClassVar[str]

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "name" in cls.__dict__:
            CLOCKS[cls.name] = cls

    @abstractmethod
    def __call__(self, t: float, path: Interpolant) -> float:
        """The network's time at our ``t``; infinite where its logarithm or ratio is."""

    @abstractmethod
    def inverse(self, time: float, path: Interpolant) -> float:
        """Our time at the network's ``time``."""

    def each(self, times: NDArray[np.float64], path: Interpolant) -> NDArray[np.float64]:
        """The network's time at each of ``times``; a clock whose formula takes arrays need not loop."""
        return np.array([self(t, path) for t in times.tolist()], dtype=np.float64)

    def to_config(self) -> dict[str, Any]:
        """Name and parameters, ready for JSON; :func:`clock` reads them."""
        return {"name": self.name} | {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}


@dataclass(frozen=True)
class TimeClock(Clock):
    """``scale * t``: networks whose time runs towards the data, as ours (SiT, flow_matching, Lumina)."""

    scale: float = 1.0
    name: ClassVar[str] = "t"

    def __post_init__(self) -> None:
        check_parameter("scale", self.scale, above=0.0)

    def __call__(self, t: float, path: Interpolant) -> float:
        """``scale * t``."""
        return self.scale * t

    def inverse(self, time: float, path: Interpolant) -> float:
        """``time / scale``."""
        return time / self.scale

    def each(self, times: NDArray[np.float64], path: Interpolant) -> NDArray[np.float64]:
        """``scale * t``."""
        return self.scale * times


@dataclass(frozen=True)
class ReverseClock(Clock):
    """``scale * (1 - t)``: networks whose time runs towards the noise (Flux with scale 1, SD3 with scale 1000)."""

    scale: float = 1.0
    name: ClassVar[str] = "1-t"

    def __post_init__(self) -> None:
        check_parameter("scale", self.scale, above=0.0)

    def __call__(self, t: float, path: Interpolant) -> float:
        """``scale * (1 - t)``."""
        return self.scale * (1.0 - t)

    def inverse(self, time: float, path: Interpolant) -> float:
        """``1 - time / scale``."""
        return 1.0 - time / self.scale

    def each(self, times: NDArray[np.float64], path: Interpolant) -> NDArray[np.float64]:
        """``scale * (1 - t)``."""
        return self.scale * (1.0 - times)


@dataclass(frozen=True)
class IndexClock(Clock):
    """``scale * (levels * (1 - t) - 1)``, the index of DDPM's tables, kept in [0, levels - 1] before it is scaled.

    Nearer to the data than the first level the index stays 0, the nearest noise level that the network knows. With
    ``quantise`` the index is rounded: put the grid on the levels then (``DiscreteDDPM.time_of_index``), or the network
    is told another noise level than the state has.
    """

    levels: int = 1000
    quantise: bool = False
    scale: float = 1.0
    name: ClassVar[str] = "index"

    def __post_init__(self) -> None:
        check_parameter("levels", self.levels, above=1)
        check_parameter("scale", self.scale, above=0.0)

    def __call__(self, t: float, path: Interpolant) -> float:
        """``scale * (levels * (1 - t) - 1)``, clamped, ``scale`` times an exact integer at a level."""
        index = self.levels * (1.0 - t) - 1.0
        nearest = float(round(index))
        # At a level the index must be that integer, which embeddings by look-up need, and not differ in the last bits.
        if self.quantise or abs(index - nearest) < NODE_SLACK:
            index = nearest
        return self.scale * min(max(index, 0.0), self.levels - 1.0)

    def inverse(self, time: float, path: Interpolant) -> float:
        """``1 - (index + 1) / levels`` of ``index = time / scale``."""
        return 1.0 - (time / self.scale + 1.0) / self.levels


@dataclass(frozen=True)
class LogNoiseRatioClock(Clock):
    """``scale * log(sigma / alpha)``: EDM's c_noise with scale 1/4 (Karras et al. 2022)."""

    scale: float = 0.25
    name: ClassVar[str] = "log_nu"

    def __post_init__(self) -> None:
        check_parameter("scale", self.scale, above=0.0)

    def __call__(self, t: float, path: Interpolant) -> float:
        """``scale * log(sigma / alpha)``; infinite at a singular end."""
        return -self.scale * path.half_log_snr(t)

    def inverse(self, time: float, path: Interpolant) -> float:
        """The time at which ``log(sigma / alpha) = time / scale``."""
        return path.time_at(-time / self.scale)


@dataclass(frozen=True)
class NoiseRatioClock(Clock):
    """``nu = sigma / alpha``: preconditioned EDM networks and k-diffusion's denoisers."""

    name: ClassVar[str] = "nu"

    def __call__(self, t: float, path: Interpolant) -> float:
        """``sigma / alpha``; infinite where alpha is 0."""
        return path.noise_ratio(t)

    def inverse(self, time: float, path: Interpolant) -> float:
        """The time at which ``sigma / alpha = time``."""
        return path.time_at_noise_ratio(time)


@dataclass(frozen=True)
class FunctionClock(Clock):
    """Any function of t; it cannot be written to JSON, nor inverted."""

    function: Callable[[float], float]

    def __call__(self, t: float, path: Interpolant) -> float:
        """``function(t)``."""
        return float(self.function(t))

    def inverse(self, time: float, path: Interpolant) -> float:
        """Not known."""
        raise ArgumentError("clock", got="a function", expected="a named clock, which has an inverse")

    def to_config(self) -> dict[str, Any]:
        """Not possible."""
        raise ArgumentError("clock", got="a function", expected=f"a named clock ({', '.join(CLOCKS)}) to write as JSON")


SHORTHANDS: dict[str, Clock] = {
    "t": TimeClock(),
    "1000*t": TimeClock(1000.0),
    "1-t": ReverseClock(),
    "1000*(1-t)": ReverseClock(1000.0),
    "index": IndexClock(),
    "log(nu)/4": LogNoiseRatioClock(),
    "nu": NoiseRatioClock(),
}


def clock(which: str | Clock | Mapping[str, Any] | Callable[[float], float]) -> Clock:
    """The clock of that name, configuration or function; a clock is returned as it is.

    Args:
        which: "t", "1000*t", "1-t", "1000*(1-t)", "index", "log(nu)/4", "nu", a :class:`Clock`, what its
            ``to_config`` returned, or a function from our time in [0, 1] to the network's.

    Raises:
        UnknownNameError: No clock has this name; lists those there are.

    Example:
        >>> clock("1000*(1-t)")(0.25, None)
        750.0
    """
    if isinstance(which, Clock):
        return which
    if isinstance(which, Mapping):
        options = dict(which)
        name = options.pop("name", None)
        if name not in CLOCKS:
            raise UnknownNameError("clock", got=repr(name), expected="one of " + ", ".join(CLOCKS))
        return CLOCKS[name](**options)
    if callable(which):
        return FunctionClock(which)
    if which not in SHORTHANDS:
        raise UnknownNameError("clock", got=repr(which), expected="one of " + ", ".join(SHORTHANDS) + ", or a function")
    return SHORTHANDS[which]


def default_clock(path: Interpolant) -> Clock:
    """What networks of this path are told if nothing else is said: the index for DDPM's levels, otherwise t."""
    levels = getattr(path, "levels", None)
    return TimeClock() if levels is None else IndexClock(levels)
