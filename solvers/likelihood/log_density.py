"""Log-densities along the probability flow, of given points and of samples as they are drawn."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from ...errors import ArgumentError, DtypeError, ShapeError, UnknownNameError
from ...kernels import PURPOSE_INITIAL, Draw, normal
from ...models import BranchWeights, Model
from ...models.two_heads import TwoSidedModel
from ..adaptive.explicit import ExplicitMethod
from ..adaptive.field import Recipe
from ..adaptive.pairs import Pair
from ..adaptive.solution import Solution
from ..adaptive.solve import as_field, as_method, check_state, solve_ode
from ..adaptive.tolerance import tolerance
from ..gradients.adjoint import tensors_of
from ..gradients.request import Gradient, found_parameters
from .bits import bits_per_dimension
from .divergence import Divergence, ProbeLaw, Trace, trace
from .ends import Ends, LogDensityFunction, base_log_density, ends, no_base
from .field import LikelihoodField, LikelihoodNorm, channels

OPTIONS = ("controller", "first_step", "min_step", "max_step", "max_steps", "stops", "on_failure")
FIRST_STEP = 1e-3  # of the way


@dataclass(eq=False)
class LogDensity:
    r"""Points, their latents, and log-densities, of which every term is there.

    .. math:: \log p(x) = \log p_0(x_0) - \int_{t_0}^{t_1} \mathrm{tr} \frac{\partial v}{\partial x}\, dt + d \log s

    s is the scale of the data at the end :math:`t_1`, which is 1 where the way ends at the data.

    Attributes:
        value: Log-densities in nats, float64 [B]; NaN where a sample did not arrive.
        x: The points, [B, *D].
        x0: Their latents at the base, [B, *D].
        log_base: Log-densities of these, float64 [B].
        divergence: The integral, float64 [B].
        standard_error: Of the values, from the spread of several probes, float64 [B]; None where there are no two.
        times: Of the data and of the base, as they were used.
        noise_ratio: sigma / alpha at the former: ``value`` is the density of x with so much noise added.
        nfe: Evaluations of the field for each sample, int64 [B].
        products: Products of a vector with its Jacobian for each sample, int64 [B]; each costs a backward pass, or a
            share of a batched one.
        solution: The run: statuses, counts of steps.

    """

    value: Tensor
    x: Tensor
    x0: Tensor
    log_base: Tensor
    divergence: Tensor
    standard_error: Tensor | None
    times: tuple[float, float]
    noise_ratio: float
    nfe: np.ndarray
    products: np.ndarray
    solution: Solution

    def bits_per_dimension(self, *, levels: int = 256, low: float = -1.0, high: float = 1.0) -> Tensor:
        """Bits for each dimension, float64 [B]; see :func:`pushforward.solvers.likelihood.bits_per_dimension`."""
        return bits_per_dimension(self.value, math.prod(self.x.shape[1:]), levels=levels, low=low, high=high)


def log_density(
    field: Callable[..., Tensor] | Model | TwoSidedModel,
    x: Tensor,
    times: Sequence[float] | None = None,
    *,
    base: LogDensityFunction | None = None,
    divergence: Divergence = "exact",
    probes: int | None = None,
    probe_law: ProbeLaw = "rademacher",
    trace_chunk: int = 32,
    seed: int = 0,
    samples: Tensor | None = None,
    method: str | Pair = "dopri54",
    rtol: float | Tensor = 1e-5,
    atol: float | Tensor = 1e-5,
    divergence_atol: float | None = None,
    norm: str | Callable[[Tensor], Tensor] = "rms",
    condition: Mapping[str, Any] | None = None,
    null: Mapping[str, Any] | None = None,
    guidance: float | BranchWeights = 1.0,
    gradient: Gradient = "none",
    parameters: Iterable[Tensor] | None = None,
    **options: Any,
) -> LogDensity:
    r"""The log-density of points under what a flow makes of its base, by following them back to it.

    .. math:: \frac{d}{dt} \log p_t(x_t) = -\mathrm{tr} \frac{\partial v}{\partial x}(x_t, t), \qquad
        \log p(x) = \log p_0(x_0) - \int_{t_0}^{t_1} \mathrm{tr} \frac{\partial v}{\partial x}\, dt

    State and integral are one adaptive run; each has its own tolerance, and a step needs both.

    Args:
        field: As of :func:`pushforward.solve_ode`: a function of (x, t), or a model, of which this is the probability
            flow. Autograd must be able to follow it in x. A guided model's density is that of what the guided flow
            makes, not a power of a conditional density.
        x: Points [B, *D], float32 or float64.
        times: The times of x and of the base. Of a function (1, 0) unless given. Of a model, x is data unless they are
            given, and the way goes from t = 1 to ``t_min`` of its path. Where the network determines no velocity at
            t = 1, or has never been trained there (all but velocity networks), it starts at the smallest noise ratio
            of the path, 1e-3 at least, and the value is the density of x with that noise; where none at t = 0, it ends
            at a noise ratio of 1e4. If times are given, x is a state at the first of them.
        base: Log-density at the second time, ``base(x0) -> [B]``; by default that of N(0, sigma^2) with the sigma of
            the path there, and the standard normal for functions. Two-sided paths and PFGM++ need one.
        divergence: "exact", d products with the Jacobian an evaluation; "hutchinson"; or "hutch++".
        probes: Products an evaluation of the estimators: 1 unless given for "hutchinson"; 6 for "hutch++", in three
            parts. They are drawn once and stay fixed along the way: a sample's integrand is a smooth function of time.
        probe_law: "rademacher" (signs) or "gaussian".
        trace_chunk: Products in one backward pass: more memory, fewer calls. 1 asks nothing special of a network.
        seed, samples: Keys of the probes, as of :func:`pushforward.sample`: an estimate does not depend on the batch.
        method: An embedded pair.
        rtol, atol: Tolerances of the state, as of :func:`pushforward.solve_ode`; rtol, if a number, of the integral
            too.
        divergence_atol: Absolute tolerance of the integral for each of the d dimensions; by default atol, or 1e-5 where
            that is a tensor.
        norm: Of the state's error; the larger of this and the integral's error counts.
        condition, null, guidance: As of :func:`pushforward.solve_ode`.
        gradient: "none"; "steps": value and latents have gradients in x, conditions, base, and whatever the field
            closes over: those of the steps that were taken, all of whose stages and products are kept; or "adjoint": in
            x, conditions, base and ``parameters``, by the adjoint equation, which keeps the states between steps.
        parameters: Of "adjoint": tensors to differentiate by; by default the parameters of a module or a model.
        **options: As of :func:`pushforward.solve_ode`: "controller", "first_step", "min_step", "max_step", "max_steps",
            "stops", "on_failure". The first step is 1e-3 of the way unless given: a guess from the slopes at an end,
            which may say little of what follows, can be far too long and pass by accident.

    Returns:
        Values and every term; see :class:`LogDensity`.

    Raises:
        ArgumentError, UnknownNameError, ShapeError, DtypeError, GridError: What is wrong with an argument, or with what
            the field or the base returned.
        IntegrationError, NotFiniteError: As of :func:`pushforward.solve_ode`.

    Source: Chen et al. 2018, Neural Ordinary Differential Equations, theorem 1; Grathwohl et al. 2019 (FFJORD); Song et
        al. 2021, score-based generative modeling, appendix D.2.

    Example:
        >>> from pushforward.models import GaussianOracle
        >>> oracle = GaussianOracle([0.7, -0.4], [[0.09, 0.03], [0.03, 0.2]])
        >>> x = torch.tensor([[0.5, 0.0]], dtype=torch.float64)
        >>> log_density(oracle.model(), x).value, oracle.log_prob(x)
        (tensor([-0.5989], dtype=torch.float64), tensor([-0.5989], dtype=torch.float64))

    """
    way = ends(field, times)
    check_points("x", x)
    if base is None and way.sigma is None:
        raise no_base()
    chosen = trace(divergence, x, probes, probe_law, trace_chunk, seed, samples)
    run = Augmented(field, condition, null, guidance, chosen)
    there = run.solve(
        x if way.scale == 1 else way.scale * x,
        (way.data, way.base),
        method,
        (rtol, atol, divergence_atol, norm),
        gradient=gradient,
        parameters=parameters,
        **options,
    )
    x0, integrals = run.split(there.x[-1], x)
    return assembled(run, there, x, x0, -integrals, way, base)


def sample_with_log_density(
    field: Callable[..., Tensor] | Model | TwoSidedModel,
    start: Tensor | Sequence[int],
    times: Sequence[float] | None = None,
    *,
    base: LogDensityFunction | None = None,
    divergence: Divergence = "exact",
    probes: int | None = None,
    probe_law: ProbeLaw = "rademacher",
    trace_chunk: int = 32,
    seed: int = 0,
    samples: Tensor | None = None,
    method: str | Pair = "dopri54",
    rtol: float | Tensor = 1e-5,
    atol: float | Tensor = 1e-5,
    divergence_atol: float | None = None,
    norm: str | Callable[[Tensor], Tensor] = "rms",
    condition: Mapping[str, Any] | None = None,
    null: Mapping[str, Any] | None = None,
    guidance: float | BranchWeights = 1.0,
    gradient: Gradient = "none",
    parameters: Iterable[Tensor] | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    **options: Any,
) -> LogDensity:
    """Samples and their log-densities in one run, from the base to the data.

    As :func:`log_density` of the samples, to the tolerance, without a second run back.

    Args:
        field, base, divergence, probes, probe_law, trace_chunk: As of :func:`log_density`.
        start: States at the base [B, *D], or a shape to draw noise of the path for, by seed and sample.
        times: The times of the data and of the base, in this order, as of :func:`log_density`.
        seed, samples: Keys of the noise and of the probes.
        method, rtol, atol, divergence_atol, norm, condition, null, guidance: As of :func:`log_density`.
        gradient, parameters, **options: As of :func:`log_density`.
        dtype, device: Of the noise, where ``start`` is a shape; float32 on the CPU by default.

    Returns:
        Samples as ``x`` and their log-densities as ``value``; see :class:`LogDensity`.

    Raises:
        ArgumentError: A shape to start from, with a base that cannot be drawn from; besides what :func:`log_density`
            raises.

    Example:
        >>> from pushforward.models import GaussianOracle
        >>> oracle = GaussianOracle([0.7, -0.4], [[0.09, 0.03], [0.03, 0.2]])
        >>> drawn = sample_with_log_density(oracle.model(), (100, 2), dtype=torch.float64)
        >>> bool((drawn.value - oracle.log_prob(drawn.x)).abs().max() < 1e-3)
        True

    """
    way = ends(field, times)
    if base is None and way.sigma is None:
        raise no_base()
    if not isinstance(start, Tensor):
        if base is not None:
            raise ArgumentError("start", got=f"the shape {tuple(start)}, with a base", expected="draws of the base")
        if any(isinstance(n, bool) or not isinstance(n, int) or n < 0 for n in start):
            raise ShapeError(
                "start", got=tuple(start), expected="a shape [B, *D] of non-negative integers, or a tensor"
            )
        wide, draw = dtype or torch.float32, Draw(PURPOSE_INITIAL, 0)
        start = normal(tuple(start), seed=seed, draw=draw, samples=samples, dtype=wide, device=device or "cpu")
        start = start.mul_(way.sigma or 1.0)
    elif (dtype, device) != (None, None):
        raise ArgumentError("dtype, device", got=(dtype, device), expected="None when start is a tensor")
    check_points("start", start)
    chosen = trace(divergence, start, probes, probe_law, trace_chunk, seed, samples)
    run = Augmented(field, condition, null, guidance, chosen)
    there = run.solve(
        start,
        (way.base, way.data),
        method,
        (rtol, atol, divergence_atol, norm),
        gradient=gradient,
        parameters=parameters,
        **options,
    )
    x, integrals = run.split(there.x[-1], start)
    return assembled(run, there, x if way.scale == 1 else x / way.scale, start, integrals, way, base)


@dataclass(frozen=True)
class Augmented:
    """A field together with the trace of its Jacobian.

    Attributes:
        field, condition, null, guidance: As of :func:`log_density`.
        trace: The estimator.

    """

    field: object
    condition: Mapping[str, Any] | None
    null: Mapping[str, Any] | None
    guidance: float | BranchWeights
    trace: Trace

    def solve(
        self,
        x: Tensor,
        times: tuple[float, float],
        method: str | Pair,
        allowed: tuple[float | Tensor, float | Tensor, float | None, Any],
        *,
        gradient: Gradient,
        parameters: Iterable[Tensor] | None,
        **options: Any,
    ) -> Solution:
        """The run of states and integrals, [2, B, d + channels].

        Raises:
            UnknownNameError: An option that :func:`log_density` does not have.
            ArgumentError: A method that is no explicit pair; tolerances or gradients that make no sense.

        """
        for name in options:
            if name not in OPTIONS:
                raise UnknownNameError("options", got=repr(name), expected=", ".join(OPTIONS))
        if gradient == "adjoint":
            parameters = [*found_parameters(self.field, parameters), *tensors_of(self.condition)]
        if not isinstance(as_method(method), ExplicitMethod):
            raise ArgumentError("method", got=method, expected="an explicit pair")
        rtol, atol, own, norm = allowed
        tolerance(rtol, atol, norm, x)
        event, size = tuple(x.shape[1:]), math.prod(x.shape[1:])
        if own is None:
            own = 1e-5 if isinstance(atol, Tensor) else float(atol)
        elif not 0 <= own < math.inf:
            raise ArgumentError("divergence_atol", got=own, expected="a finite number of at least 0")
        options.setdefault("first_step", FIRST_STEP * abs(times[1] - times[0]))
        width = channels(self.trace)
        columns = [
            column(rtol, x, 1e-5 if isinstance(rtol, Tensor) else float(rtol), width),
            column(atol, x, own * size, width),
        ]

        def make() -> LikelihoodField:
            inner = as_field(self.field, self.condition, self.null, self.guidance, x)
            return LikelihoodField(inner, self.trace, event)

        with torch.inference_mode(False):
            given = x.clone() if x.is_inference() else x
            z = torch.cat([given.reshape(x.shape[0], size), given.new_zeros(x.shape[0], width)], dim=1)
            return solve_ode(
                Recipe(cast(Any, make)),
                z,
                times,
                method=method,
                rtol=columns[0],
                atol=columns[1],
                norm=LikelihoodNorm(norm, event, size),
                gradient=gradient,
                parameters=parameters,
                **options,
            )

    def split(self, z: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """States like ``like``, and the channels in float64."""
        size = math.prod(like.shape[1:])
        return z[:, :size].reshape(like.shape), z[:, size:].to(torch.float64)


def column(value: float | Tensor, x: Tensor, own: float, width: int) -> Tensor:
    """Tolerances of the elements of a sample, with those of the channels behind them: [d + channels] or [B, ...]."""
    size = math.prod(x.shape[1:])
    if isinstance(value, Tensor) and value.ndim:
        of_state = value.to(x).expand(x.shape).reshape(x.shape[0], size)
        return torch.cat([of_state, of_state.new_full((x.shape[0], width), own)], dim=1)
    return torch.cat([x.new_full((size,), float(value)), x.new_full((width,), own)])


def assembled(
    run: Augmented, solution: Solution, x: Tensor, x0: Tensor, integrals: Tensor, way: Ends, base: Any
) -> LogDensity:
    """The result from both ends and the channels of the integral from base to data."""
    integral, each = integrals[:, 0], integrals[:, 1:]
    error = each.detach().std(1) / math.sqrt(each.shape[1]) if each.shape[1] else None
    log_base = base_log_density(base, way.sigma, x0)
    value = log_base - integral + math.prod(x.shape[1:]) * math.log(way.scale)
    counts = (solution.nfe, solution.nfe * run.trace.products)
    return LogDensity(value, x, x0, log_base, integral, error, (way.data, way.base), way.noise_ratio, *counts, solution)


def check_points(name: str, x: Tensor) -> None:
    """Refuse what has no density to speak of.

    Raises:
        ArgumentError, ShapeError: No floating-point tensor [B, *D].
        DtypeError: 16 bits, in which a log-density is lost.

    """
    check_state(x)
    if x.dtype not in (torch.float32, torch.float64):
        hint = "The network may be in half precision: adapt it with dtype=" if x.dtype != torch.float64 else None
        raise DtypeError(name, got=x.dtype, expected="float32 or float64", hint=hint)
