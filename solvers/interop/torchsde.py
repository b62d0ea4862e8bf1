"""`sdeint`, called as torchsde's: Ito SDEs with fixed or adaptive steps, differentiable through the steps."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import ArgumentError, DtypeError, GridError, ShapeError, UnknownNameError
from ..adaptive.control import Limits
from ..adaptive.loop import Run
from ..adaptive.method import Attempt, Live
from ..adaptive.tolerance import tolerance
from ..brownian.diagonal import Diagonal, srk_step
from ..brownian.solve import CONTROLLER
from ..brownian.tree import BrownianTree, Increment
from ..sde.additive_tableau import SRA1

METHODS = ("euler", "milstein", "srk")
NOISES = ("diagonal", "additive", "scalar", "general")
MOST_STEPS = 10**6
RENAMED = {"drift": "f", "diffusion": "g", "drift_and_diffusion": "f_and_g"}


@dataclass(frozen=True)
class Equation:
    """The user's SDE: its functions by name, and how noise multiplies.

    Attributes:
        sde: The user's object.
        names: Attributes of it by torchsde's names of them.
        noise: torchsde's name of the kind of noise.
        like: Dtype and device of the times that the functions get.

    """

    sde: Any
    names: Mapping[str, str]
    noise: str
    like: Tensor

    def has(self, name: str) -> bool:
        """Whether the object defines this function."""
        return hasattr(self.sde, self.names.get(name, name))

    def call(self, name: str, t: float, y: Tensor) -> Any:
        """One of the functions at (t, y)."""
        return getattr(self.sde, self.names.get(name, name))(self.like.new_tensor(t), y)

    def f(self, t: float, y: Tensor) -> Tensor:
        """Drift."""
        return self.call("f", t, y) if self.has("f") else self.call("f_and_g", t, y)[0]

    def g(self, t: float, y: Tensor) -> Tensor:
        """Diffusion."""
        return self.call("g", t, y) if self.has("g") else self.call("f_and_g", t, y)[1]

    def f_and_g(self, t: float, y: Tensor) -> tuple[Tensor, Tensor]:
        """Both, at once where the object can."""
        return self.call("f_and_g", t, y) if self.has("f_and_g") else (self.f(t, y), self.g(t, y))

    def product(self, g: Tensor, v: Tensor) -> Tensor:
        """Diffusion times noise."""
        return g * v if self.noise == "diagonal" else (g @ v[..., None])[..., 0]

    def along(self, t: float, y: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        r"""``g`` and :math:`\sum_k g_k \partial_k g\, v`: the derivative of g along itself, for Milstein's step."""
        recorded = torch.is_grad_enabled()
        with torch.enable_grad():
            at = y if recorded and y.requires_grad else y.detach().requires_grad_(True)
            g = self.g(t, at)
            if not g.requires_grad:
                return g, torch.zeros_like(y)
            if self.noise == "diagonal":
                (found,) = torch.autograd.grad(g, at, g * v, create_graph=recorded, allow_unused=True)
                return g if recorded else g.detach(), torch.zeros_like(y) if found is None else found
            dummy = torch.zeros_like(g, requires_grad=True)  # a derivative forwards, as two backwards
            (back,) = torch.autograd.grad(g, at, dummy, create_graph=True, allow_unused=True)
            if back is None or not back.requires_grad:
                return g if recorded else g.detach(), torch.zeros_like(y)
            (found,) = torch.autograd.grad(back, dummy, g[..., 0], create_graph=recorded)
            return g if recorded else g.detach(), found[..., 0] * v


Step = Callable[[Equation, float, float, Tensor, Increment], Tensor]


def euler(sde: Equation, t: float, h: float, y: Tensor, path: Increment) -> Tensor:
    """``y + h f + g W``."""
    f, g = sde.f_and_g(t, y)
    return y + f * h + sde.product(g, path.w)


def milstein(sde: Equation, t: float, h: float, y: Tensor, path: Increment) -> Tensor:
    """``y + h f + g W + g g' (W^2 - h) / 2``, with the derivative by autograd."""
    if sde.noise == "additive":
        return euler(sde, t, h, y, path)
    f = sde.f(t, y)
    g, derivative = sde.along(t, y, 0.5 * (path.w**2 - h))
    return y + f * h + sde.product(g, path.w) + derivative


def milstein_without_gradient(sde: Equation, t: float, h: float, y: Tensor, path: Increment) -> Tensor:
    """Milstein's step with a difference of g in place of its derivative."""
    if sde.noise == "additive":
        return euler(sde, t, h, y, path)
    f, g = sde.f_and_g(t, y)
    along = g if sde.noise == "diagonal" else g[..., 0]
    support = sde.g(t, y + h * f + along * math.sqrt(h))
    return y + f * h + sde.product(g, path.w) + sde.product(support - g, path.w**2 - h) / (2 * math.sqrt(h))


@dataclass(frozen=True)
class _Within:
    """An equation within a step, for steps that are written for diagonal noise; scalar noise is a row of it."""

    sde: Equation
    t: float
    h: float

    def drift(self, x: Tensor, node: float) -> Tensor:
        return self.sde.f(self.t + node * self.h, x)

    def scale(self, x: Tensor, node: float) -> Tensor:
        g = self.sde.g(self.t + node * self.h, x)
        return g if self.sde.noise == "diagonal" else g[..., 0]


def srk(sde: Equation, t: float, h: float, y: Tensor, path: Increment) -> Tensor:
    """Roessler's methods of strong order 1.5: SRA1 for additive noise, SRI2 otherwise."""
    if sde.noise != "additive":
        within: Diagonal = _Within(sde, t, h)
        return srk_step(within, y, h, path)
    assert path.h is not None
    mean = 0.5 * path.w + path.h
    scales = [sde.g(t + node * h, y) for node in SRA1.nodes]
    first = sde.f(t, y)
    stage = y + SRA1.drift[0][0] * h * first + SRA1.noise[0][0] * sde.product(scales[0], mean)
    second = sde.f(t + SRA1.drift_nodes[1] * h, stage)
    drift = h * (SRA1.weights[0] * first + SRA1.weights[1] * second)
    return y + drift + sde.product(scales[0], path.w) + sde.product(scales[1] - scales[0], mean)


STEPS: dict[str, Step] = {"euler": euler, "milstein": milstein, "srk": srk}


@dataclass(frozen=True)
class Paths:
    """Increments from whatever torchsde or the user calls a Brownian motion."""

    motion: Any
    area: bool

    def increment(self, s: float, u: float) -> Increment:
        """From s to u, of the batch."""
        if isinstance(self.motion, BrownianTree):
            return self.motion.increment(s, u)
        if not self.area:
            return Increment(self.motion(s, u), None)
        try:
            w, integral = self.motion(s, u, return_U=True)
        except TypeError as error:
            expected = "one that returns its integral for return_U=True: method 'srk' reads it"
            raise ArgumentError("bm", got=type(self.motion).__name__, expected=expected) from error
        return Increment(w, integral / (u - s) - 0.5 * w)


@dataclass
class Halving:
    """A step of the whole batch against two halves, as a method of the adaptive loop; remembers where it stood."""

    equation: Equation
    step: Step
    paths: Paths
    order: float
    visited: list[float] = field(default_factory=list)
    name = "halving"
    keeps_slope = False
    dense = False

    def attempt(self, live: Live, h: np.ndarray) -> Attempt:
        """Three steps of a batch that is one sample, [1, B, d]."""
        t, length = float(live.t[0]), float(h[0])
        self.visited.append(t)
        middle, y = t + 0.5 * length, live.x[0]
        first, second = self.paths.increment(t, middle), self.paths.increment(middle, t + length)
        area = None
        if first.h is not None and second.h is not None:
            area = 0.5 * (first.h + second.h) + 0.25 * (first.w - second.w)
        coarse = self.step(self.equation, t, length, y, Increment(first.w + second.w, area))
        fine = self.halves(t, t + length, y, first, second)[None].clone()
        ratio = live.tolerance.ratio(fine - coarse[None], live.x, fine)
        return Attempt(fine, ratio, None, 3)

    def halves(self, t: float, end: float, y: Tensor, first: Increment, second: Increment) -> Tensor:
        """Two steps."""
        half = 0.5 * (end - t)
        return self.step(self.equation, t + half, half, self.step(self.equation, t, half, y, first), second)

    def again(self, y: Tensor, ts: Sequence[float]) -> Tensor:
        """The accepted steps once more, recorded by autograd: rejected ones began where accepted ones did."""
        places = sorted({*self.visited, *ts})
        states = {places[0]: y}
        for t, end in itertools.pairwise(places):
            middle = t + 0.5 * (end - t)
            y = self.halves(t, end, y, self.paths.increment(t, middle), self.paths.increment(middle, end))
            states[end] = y
        return torch.stack([states[t] for t in ts])


def sdeint(
    sde: Any,
    y0: Tensor,
    ts: Tensor | Sequence[float],
    bm: Any = None,
    method: str | None = None,
    dt: float = 1e-3,
    adaptive: bool = False,
    rtol: float = 1e-5,
    atol: float = 1e-4,
    dt_min: float = 1e-5,
    options: Mapping[str, Any] | None = None,
    names: Mapping[str, str] | None = None,
    logqp: bool = False,
    extra: bool = False,
    extra_solver_state: Any = None,
    **unused: Any,
) -> Any:
    r"""Integrate an Ito SDE :math:`dY = f(t, Y)\, dt + g(t, Y)\, dW`; the signature and shapes are torchsde's.

    With fixed steps and the same Brownian motion, "euler", "milstein" and "srk" give torchsde's results to rounding.
    Adaptive steps are those of the whole batch, as there: an error of two half steps against a whole one, within
    ``atol + rtol |y|`` in the root mean square over all elements. Steps end at the times of ``ts``; torchsde
    interpolates. For samples with steps of their own see :func:`~pushforward.solve_sde`.

    Gradients flow through the steps to y0 and to whatever f and g are made of. After adaptive steps the accepted ones
    are run once more for that, along the same path; step sizes are constants.

    Args:
        sde: Object with ``noise_type`` "diagonal" (g is [B, d]), "additive", "scalar" or "general" ([B, d, m]),
            ``sde_type`` "ito", and ``f(t, y)`` and ``g(t, y)``, or ``f_and_g(t, y)``.
        y0: State [B, d].
        ts: Strictly increasing times.
        bm: Brownian motion of shape [B, m]: anything called as ``bm(s, u)``, torchsde's or a :class:`BrownianTree`;
            for "srk" also with ``return_U=True``. Default: a tree with a seed from torch's global generator.
        method: "euler", "milstein" or "srk". Default: "srk", and "euler" for general noise, which has no other.
        dt: Length of a step; of the first one if adaptive.
        adaptive: Whether steps adapt to ``rtol`` and ``atol``.
        dt_min: Least step: one that is this short is taken whatever its error.
        options: ``{"grad_free": True}``: "milstein" with a difference of g instead of its derivative.
        names: Other names of the functions: keys "drift", "diffusion", "drift_and_diffusion".
        logqp, extra_solver_state: Not supported.
        extra: Return ``(states, ())``.

    Returns:
        States [T, B, d].

    Raises:
        UnknownNameError: A method, noise or SDE type that is not supported.
        ArgumentError, ShapeError, DtypeError, GridError: What is wrong with an argument, or with what f or g return.
        IntegrationError, NotFiniteError: An adaptive run that does not arrive.

    Source: the interface of Li, Wong, Chen & Duvenaud 2020, arXiv:2001.01328 (torchsde 0.2).

    Example:
        >>> class Geometric:
        ...     noise_type, sde_type = "diagonal", "ito"
        ...
        ...     def f(self, t, y):
        ...         return 0.1 * y
        ...
        ...     def g(self, t, y):
        ...         return 0.2 * y
        >>> sdeint(Geometric(), torch.ones(3, 2), [0.0, 0.5, 1.0], dt=0.1).shape
        torch.Size([3, 3, 2])

    """
    if unused:
        warnings.warn(f"sdeint: unused arguments {', '.join(sorted(unused))}", UserWarning, stacklevel=2)
    if logqp or extra_solver_state is not None:
        name = "logqp" if logqp else "extra_solver_state"
        raise ArgumentError(name, got="given", expected="not given: it is not supported here")
    times = checked_times(ts)
    if not isinstance(y0, Tensor) or not y0.is_floating_point():
        raise DtypeError("y0", got=getattr(y0, "dtype", type(y0).__name__), expected="a floating-point tensor")
    if y0.ndim != 2:
        raise ShapeError("y0", got=list(y0.shape), expected="[B, d]")
    like = ts.detach() if isinstance(ts, Tensor) and ts.is_floating_point() else y0.detach()
    equation, channels, recorded = checked_equation(sde, y0, times, names, like)
    name, step = checked_method(method, equation, options)
    for argument, value in (("dt", dt), ("dt_min", dt_min)):
        if not 0 < float(value) < math.inf:
            raise ArgumentError(argument, got=float(value), expected="a finite length above 0")
    if adaptive and name == "euler" and equation.noise != "additive":
        message = "adaptive steps of the Euler-Maruyama method need not converge where the noise depends on the state"
        warnings.warn(message, UserWarning, stacklevel=2)
    area = name == "srk"
    paths = Paths(checked_motion(bm, y0, times, channels, area, float(dt_min if adaptive else dt)), area)
    if len(times) < 2:
        states = y0[None]
    elif adaptive:
        order = {"euler": 1.0, "milstein": 1.5, "srk": 2.0}[name]
        method_object = Halving(equation, step, paths, order)
        states = adapt(method_object, y0, times, rtol, atol, float(dt), float(dt_min), recorded)
    else:
        states = fixed(equation, step, paths, y0, times, float(dt))
    return (states, ()) if extra else states


def fixed(sde: Equation, step: Step, paths: Paths, y: Tensor, times: Sequence[float], dt: float) -> Tensor:
    """Steps of length dt from the first time on; a straight line to requested times within a step, as in torchsde."""
    states, t, before, last = [y], times[0], times[0], y
    for asked in times[1:]:
        while t < asked:
            end = min(t + dt, times[-1])
            before, last = t, y
            y = step(sde, t, end - t, y, paths.increment(t, end))
            t = end
        share = (asked - before) / (t - before)
        states.append(y if share == 1 else (1 - share) * last + share * y)
    return torch.stack(states)


def adapt(
    method: Halving, y0: Tensor, times: Sequence[float], rtol: Any, atol: Any, dt: float, dt_min: float, recorded: bool
) -> Tensor:
    """Adaptive steps of the whole batch."""
    with torch.no_grad():
        x = y0.detach()[None]
        live = Live(_NoField(), tolerance(rtol, atol, "rms", x), np.arange(1), x, np.array([times[0]]))
        limits = Limits(dt, dt_min, math.inf, MOST_STEPS, accept_at_min_step=True)
        run = Run(method, live, np.array([times]), CONTROLLER, limits)
        solution = run.solve()
        error = solution.failure(dt_min, MOST_STEPS)
    if error is not None:
        raise error
    return method.again(y0, times) if recorded else solution.x[:, 0]


class _NoField:
    """The loop indexes a field's rows; here the method holds the equation itself."""

    def __call__(self, x: Tensor, times: Tensor) -> Tensor:
        raise ArgumentError("field", got="a call", expected="none: the method evaluates the equation")

    def rows(self, index: Tensor) -> _NoField:
        return self


def checked_times(ts: Any) -> list[float]:
    """Times as floats.

    Raises:
        GridError: None, not finite, or not strictly increasing.

    """
    given = ts.detach().cpu().tolist() if isinstance(ts, Tensor) else ts
    if not isinstance(given, list | tuple) or not all(isinstance(t, int | float) for t in given) or not given:
        raise GridError("ts", got=type(ts).__name__, expected="a tensor [T] or a list of numbers")
    times = [float(t) for t in given]
    if not all(map(math.isfinite, times)) or any(b <= a for a, b in itertools.pairwise(times)):
        raise GridError("ts", got=times, expected="finite, strictly increasing times")
    return times


def checked_equation(
    sde: Any, y0: Tensor, times: Sequence[float], names: Mapping[str, str] | None, like: Tensor
) -> tuple[Equation, int, bool]:
    """The equation, its number of noise channels, and whether autograd records it.

    Raises:
        UnknownNameError, ArgumentError, ShapeError: A kind of SDE or noise that is not supported, functions that are
            missing, or shapes that do not fit.

    """
    kind, noise = getattr(sde, "sde_type", None), getattr(sde, "noise_type", None)
    if kind != "ito":
        hint = "A Stratonovich SDE has an Ito form, with half the noise's own derivative added to the drift"
        raise UnknownNameError("sde.sde_type", got=repr(kind), expected="'ito'", hint=hint)
    if noise not in NOISES:
        raise UnknownNameError("sde.noise_type", got=repr(noise), expected=f"one of {', '.join(NOISES)}")
    renamed = {RENAMED[key]: value for key, value in (names or {}).items() if key in RENAMED}
    equation = Equation(sde, renamed, noise, like)
    for name, key in (("f", "drift"), ("g", "diffusion")):
        if not (equation.has(name) or equation.has("f_and_g")):
            got = f"no attribute {renamed.get(name, name)!r}"
            raise ArgumentError("sde", got=got, expected=f"the {key} as {name}(t, y), f_and_g(t, y), or in names")
    f, g = equation.f_and_g(times[0], y0)
    if f.shape != y0.shape:
        raise ShapeError("f", got=list(f.shape), expected=f"{list(y0.shape)}, like y0")
    if noise == "diagonal":
        fits, expected, channels = g.shape == y0.shape, f"{list(y0.shape)}, like y0: the noise is diagonal", y0.shape[1]
    else:
        fits = g.ndim == 3 and g.shape[:2] == y0.shape and (noise != "scalar" or g.shape[2] == 1)
        expected = f"[{y0.shape[0]}, {y0.shape[1]}, {1 if noise == 'scalar' else 'm'}]: the noise is {noise}"
        channels = g.shape[-1]
    if not fits:
        raise ShapeError("g", got=list(g.shape), expected=expected)
    return equation, channels, f.requires_grad or g.requires_grad or (torch.is_grad_enabled() and y0.requires_grad)


def checked_method(method: str | None, equation: Equation, options: Mapping[str, Any] | None) -> tuple[str, Step]:
    """A step by torchsde's name of it.

    Raises:
        UnknownNameError: Not one of ours, or not for this noise.
        ArgumentError: An option that it does not have.

    """
    general = equation.noise == "general"
    name = ("euler" if general else "srk") if method is None else method
    allowed = ("euler",) if general else METHODS
    if name not in allowed:
        raise UnknownNameError(
            "method", got=repr(name), expected=f"one of {', '.join(allowed)}, for {equation.noise} noise"
        )
    settings = dict(options or {})
    for key in settings:
        if key != "grad_free" or name != "milstein":
            raise ArgumentError(f"options[{key!r}]", got=settings[key], expected="'grad_free', of milstein, alone")
    step = milstein_without_gradient if settings.get("grad_free") else STEPS[name]
    return name, step


def checked_motion(bm: Any, y0: Tensor, times: Sequence[float], channels: int, area: bool, least: float) -> Any:
    """The user's Brownian motion, or a tree that resolves an eighth of the least step.

    Raises:
        ShapeError: A motion of another shape.
        ArgumentError: One that cannot be called, or a tree without the areas that are needed.

    """
    shape = (y0.shape[0], channels)
    if bm is None:
        seed = int(torch.randint(2**62, ()))
        if len(times) < 2:
            return None
        leaf = max(min(least, times[-1] - times[0]) / 8, (times[-1] - times[0]) * 2.0**-30)
        ends = times[0], times[-1]
        return BrownianTree(shape, *ends, seed=seed, tolerance=leaf, area=area, dtype=y0.dtype, device=y0.device)
    if not callable(bm):
        raise ArgumentError("bm", got=type(bm).__name__, expected="a Brownian motion, called as bm(s, u)")
    own = getattr(bm, "shape", None)
    if own is not None and tuple(own) != shape:
        raise ShapeError("bm", got=list(own), expected=f"{list(shape)}, a row for each sample")
    if area and isinstance(bm, BrownianTree) and not bm.area:
        raise ArgumentError("bm", got="a BrownianTree without areas", expected="area=True: method 'srk' reads them")
    return bm
