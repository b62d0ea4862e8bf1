r"""Predictions: what a network returns, as two numbers, and everything that follows from them.

A network regresses on a combination of data and noise, :math:`o = p\, x_1 + q\, x_0`, so its output estimates
:math:`p D + q n` with :math:`D = E[x_1 | x_t]` and :math:`n = E[x_0 | x_t]`. With :math:`x = \alpha D + \sigma n`
this is a linear system of two equations. Its solution, for any kind of network and any path, with
:math:`\Delta = \alpha q - \sigma p`, is

.. math:: D = (q x - \sigma o) / \Delta, \quad n = (\alpha o - p x) / \Delta, \quad
    v = \alpha' D + \sigma' n, \quad s = -n / \sigma

Nothing else is divided by, and for velocities :math:`-\Delta` is the Wronskian :math:`\alpha' \sigma - \alpha \sigma'`.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import ArgumentError, SingularTimeError, UnknownNameError
from .capabilities import check_source_is_noise
from .clocks import Clock, clock, default_clock
from .interpolants import (
    Coefficients,
    Interpolant,
    check_time,
    equal_noise,
    interpolant,
    interpolant_from_config,
)

PREDICTIONS: dict[str, type[Prediction]] = {}
QUANTITIES = ("velocity", "denoised", "noise", "score")


class Affine(NamedTuple):
    """A quantity as ``x * state + output * raw network output``."""

    x: float
    output: float


class Target(NamedTuple):
    """What a network regresses on: ``data * x_1 + noise * x_0``."""

    data: float
    noise: float


@dataclass(frozen=True)
class Prediction(ABC):
    """How to read one kind of network on one path; a subclass needs its :meth:`target` only.

    Immutable, hashable, equal by value. All numbers are float64 on the host, known before the network runs.

    Args:
        interpolant: The path, an :class:`Interpolant` or the name of one.
        network_time: The network's clock, anything that :func:`clock` takes. Default: the DDPM index on the path
            "ddpm", log(nu)/4 for EDM networks, nu for denoisers of x / alpha, otherwise t.

    Source:
        Kingma & Gao 2023 for the equivalence; the conversions are those of the module's docstring.
    """

    interpolant: Interpolant
    network_time: Clock = None  # type: ignore[assignment]  # resolved below

    kind: ClassVar[str]
    dimensions: ClassVar[float] = math.inf
    """Augmented dimensions of the noise of training (PFGM++); infinity where it is Gaussian."""

    source_is_noise: ClassVar[bool] = True
    """Whether x_0 is a standard normal independent of x_1: else there is no score, and no noise to predict."""

    heads: ClassVar[tuple[str, ...]] = ()
    """Names of the outputs of a network that has several (two-sided paths); empty where it has one."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "kind" in cls.__dict__:
            PREDICTIONS[cls.kind] = cls

    def __post_init__(self) -> None:
        object.__setattr__(self, "interpolant", interpolant(self.interpolant))
        given = self.network_time
        object.__setattr__(self, "network_time", self.default_clock() if given is None else clock(given))

    def default_clock(self) -> Clock:
        """The clock of a network of this kind on this path, if none was given."""
        return default_clock(self.interpolant)

    # --- what the network is given, and what it regresses on ---------------------------------------------------

    @abstractmethod
    def target(self, t: float) -> Target:
        """The two numbers: the output estimates ``data * x_1 + noise * x_0``; infinite where it has no limit."""

    def input_scale(self, t: float) -> float:
        """The network's input is this times the state: 1, but for EDM networks and k-diffusion denoisers."""
        del t
        return 1.0

    def time(self, t: float) -> float:
        """What the network is told at our time ``t`` in [0, 1], in float64; to be cast last."""
        return self.network_time(check_time(t), self.interpolant)

    # --- what follows ------------------------------------------------------------------------------------------

    def denoised(self, t: float) -> Affine:
        """``D = E[x_1 | x_t]``; where sigma is 0, x / alpha whatever the network returns.

        Raises:
            SingularTimeError: Not determined at ``t``, or the network cannot be called there.
        """
        self.check_callable(t)
        a, s, _, _ = self.interpolant(t)
        if s == 0:
            return Affine(1 / a, 0.0)
        _, q, delta = self._system(t, "denoised estimate")
        return Affine(q / delta, -s / delta)

    def noise(self, t: float) -> Affine:
        """``n = E[x_0 | x_t]``.

        Raises:
            SingularTimeError: Not determined at ``t``, or the network cannot be called there.
        """
        self.check_callable(t)
        a, _, _, _ = self.interpolant(t)
        p, _, delta = self._system(t, "noise")
        return Affine(-p / delta, a / delta)

    def velocity(self, t: float) -> Affine:
        """``v = E[dx_t/dt | x_t] = alpha' D + sigma' n``.

        Raises:
            SingularTimeError: Not determined at ``t`` or infinite, or the network cannot be called there.
        """
        _, _, da, ds = self.finite_rates(t)
        denoised, noise = self.denoised(t), self.noise(t)
        return Affine(da * denoised.x + ds * noise.x, da * denoised.output + ds * noise.output)

    def score(self, t: float) -> Affine:
        """``s = -n / sigma``, the gradient of the log-density of x_t; none where sigma is 0.

        Raises:
            SingularTimeError: Not determined at ``t``, or the network cannot be called there.
            ArgumentError: The noise is not Gaussian, or x_0 no noise at all, so that this is not the score.
        """
        check_source_is_noise(self, "score")
        if math.isfinite(self.dimensions):
            got = f"a network of PFGM++ with {self.dimensions:g} augmented dimensions"
            raise ArgumentError("score", got=got, expected="Gaussian noise: only then is it -n / sigma")
        sigma = self.interpolant(t).sigma
        if sigma == 0:
            raise self.singular(t, "where sigma = 0 the score has no finite bound")
        noise = self.noise(t)
        return Affine(-noise.x / sigma, -noise.output / sigma)

    def quantity(self, name: str, t: float) -> Affine:
        """Velocity, denoised, noise or score by name; "output" or the prediction's own kind is the raw output.

        Raises:
            UnknownNameError: None of these.
            SingularTimeError: Not determined at ``t``, or the network cannot be called there.
        """
        if name in QUANTITIES:
            if name == "noise":  # E[x_0 | x_t] exists, and paths are converted by it, but it is none
                check_source_is_noise(self, name)
            return getattr(self, name)(t)
        if name in (self.kind, "output"):
            self.check_callable(t)
            return Affine(0.0, 1.0)
        raise UnknownNameError("quantity", got=repr(name), expected="one of " + ", ".join((*QUANTITIES, "output")))

    # --- many times at once: rows of a batch that have times of their own ----------------------------------------

    def times(self, times: NDArray[np.float64]) -> NDArray[np.float64]:
        """:meth:`time` at each of ``times``, [R]."""
        if type(self).time is not Prediction.time:
            return np.array([self.time(t) for t in times.tolist()], dtype=np.float64)
        for t in extremes(times):
            check_time(t)
        return self.network_time.each(times, self.interpolant)

    def input_scales(self, times: NDArray[np.float64]) -> NDArray[np.float64]:
        """:meth:`input_scale` at each of ``times``, [R]."""
        if type(self).input_scale is Prediction.input_scale:
            return np.ones(len(times))
        return np.array([self.input_scale(t) for t in times.tolist()], dtype=np.float64)

    def columns(self, name: str, times: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """:meth:`quantity` at each of ``times``: what multiplies the state, [R], and the raw output, [R]."""
        table = np.array([self.quantity(name, t) for t in times.tolist()], dtype=np.float64).reshape(-1, 2)
        return table[:, 0], table[:, 1]

    # --- another path, JSON ------------------------------------------------------------------------------------

    def on(self, path: Interpolant | str) -> Prediction:
        """The same network serving a solver on another path (see :class:`OnPath`)."""
        path = interpolant(path)
        return self if path == self.interpolant else OnPath(path, self.network_time, self)

    def to_config(self) -> dict[str, Any]:
        """Kind, path, clock and options, ready for JSON; :func:`prediction_from_config` is the inverse."""
        own = {"kind": self.kind}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            own[field.name] = value.to_config() if hasattr(value, "to_config") else value
        return own

    # --- singular times ----------------------------------------------------------------------------------------

    def _system(self, t: float, wanted: str) -> tuple[float, float, float]:
        """``(p, q, Delta)``, checked: what is wanted divides by Delta."""
        a, s, _, _ = self.interpolant(t)
        p, q = self.target(t)
        delta = a * q - s * p
        if delta == 0 or not math.isfinite(p) or not math.isfinite(q):
            end = "alpha = 0" if a == 0 else "sigma = 0"
            raise self.singular(t, f"where {end} the {self.kind} prediction does not determine the {wanted}")
        return p, q, delta

    def finite_rates(self, t: float) -> Coefficients:
        """The path at ``t``, where its derivatives, and so the velocity, are finite."""
        coefficients = self.interpolant(t)
        if not math.isfinite(coefficients.dalpha) or not math.isfinite(coefficients.dsigma):
            raise self.singular(t, f"the velocity of {self.interpolant} is infinite there")
        return coefficients

    def check_callable(self, t: float) -> None:
        """Refuse times that cannot be told to the network, before a plan is made of them."""
        time, scale = self.time(t), self.input_scale(t)
        if not math.isfinite(time) or not math.isfinite(scale):
            raise self.singular(t, f"the network's time there is {time:g} and its input's scale {scale:g}")

    def singular(self, t: float, because: str) -> SingularTimeError:
        """The error to raise, with advice that depends on the end."""
        begin = f"Start the grid at t >= {self.interpolant.t_min or 1e-3:.3g}"
        end = "End with a step in the denoised estimate, which evaluates before t = 1"
        return SingularTimeError("t", got=t, because=because, hint=begin if t < 0.5 else end)


@dataclass(frozen=True)
class OnPath(Prediction):
    r"""A network of one path serving a solver on another.

    At the network's time :math:`\tilde t` of equal noise ratio, the states of the two paths are multiples of one
    another, D and n are the same functions, and the target keeps its two numbers; so only the input's scale and the
    clock change, and the velocity is that of the solver's path.

    Args:
        interpolant: The solver's path.
        network_time: The clock of ``inner``, on its own path.
        inner: How to read the network on the path it was trained on.

    Source:
        Karras et al. 2022 (all paths are one in x / alpha and nu).
    """

    inner: Prediction = None  # type: ignore[assignment]  # never defaulted: follows fields that are

    kind: ClassVar[str] = "on_path"

    @property
    def dimensions(self) -> float:  # type: ignore[override]
        """Those of ``inner``."""
        return self.inner.dimensions

    @property
    def source_is_noise(self) -> bool:  # type: ignore[override]
        """That of ``inner``."""
        return self.inner.source_is_noise

    def _there(self, t: float) -> tuple[float, float]:
        """The network's own time of equal noise ratio, and the multiple of the state that lies on its path there."""
        try:
            return equal_noise(self.interpolant, t, self.inner.interpolant)
        except SingularTimeError as error:
            raise self.singular(t, f"the network's path does not reach this noise level ({error})") from error

    def target(self, t: float) -> Target:
        """That of ``inner`` at equal noise ratio."""
        return self.inner.target(self._there(t)[0])

    def input_scale(self, t: float) -> float:
        """The ratio of the two states, times the scale of ``inner``."""
        time, ratio = self._there(t)
        return self.inner.input_scale(time) * ratio

    def time(self, t: float) -> float:
        """The time of ``inner`` at equal noise ratio."""
        return self.inner.time(self._there(t)[0])

    def denoised(self, t: float) -> Affine:
        """That of ``inner`` for the scaled state."""
        time, ratio = self._there(t)
        x, output = self.inner.denoised(time)
        return Affine(x * ratio, output)

    def noise(self, t: float) -> Affine:
        """That of ``inner`` for the scaled state."""
        time, ratio = self._there(t)
        x, output = self.inner.noise(time)
        return Affine(x * ratio, output)

    def on(self, path: Interpolant | str) -> Prediction:
        """Straight from ``inner``, without a chain of paths."""
        return self.inner.on(path)


def extremes(times: NDArray[np.float64]) -> tuple[float, ...]:
    """Smallest and largest of the times, NaN if there is one; nothing of none."""
    return (float(times.min()), float(times.max())) if times.size else ()


def prediction(kind: str | Prediction, path: Interpolant | str = "linear", **options: Any) -> Prediction:
    """The prediction of that kind on a path, or the instance itself.

    Args:
        kind: "velocity", "denoised", "noise", "score", "v", "edm", or a :class:`Prediction`.
        path: The interpolant or its name.
        **options: ``network_time`` and the options of the kind (``sign``, ``input``, ``sigma_data``).

    Raises:
        UnknownNameError: No prediction has this name; lists those there are.
        ArgumentError: An option is unknown or out of range.

    Example:
        >>> prediction("velocity", "linear", sign=-1, network_time="1-t").denoised(0.25)
        Affine(x=1.0, output=-0.75)
    """
    if isinstance(kind, Prediction):
        if options:
            raise ArgumentError("options", got=sorted(options), expected=f"none beside an instance ({kind})")
        return kind
    if kind not in PREDICTIONS:
        raise UnknownNameError("prediction", got=repr(kind), expected="one of " + ", ".join(sorted(PREDICTIONS)))
    cls = PREDICTIONS[kind]
    known = {field.name for field in dataclasses.fields(cls)} - {"interpolant"}
    if not options.keys() <= known:
        expected = ", ".join(sorted(known))
        raise ArgumentError(f"options of prediction {kind!r}", got=sorted(options.keys() - known), expected=expected)
    return cls(interpolant(path), **options)


def prediction_from_config(config: Mapping[str, Any]) -> Prediction:
    """Inverse of :meth:`Prediction.to_config`, also after a trip through JSON.

    Raises:
        ArgumentError: The mapping has no kind or no path.
    """
    if not {"kind", "interpolant"} <= config.keys():
        raise ArgumentError("config", got=sorted(config), expected="a mapping with 'kind', 'interpolant' and options")
    options = dict(config)
    kind, path = options.pop("kind"), interpolant_from_config(options.pop("interpolant"))
    if "inner" in options:
        options["inner"] = prediction_from_config(options["inner"])
    return prediction(kind, path, **options)
