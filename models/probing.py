"""Finding out what a network returns, and whether it is what was declared."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .. import kernels
from ..errors import ArgumentError, ShapeError
from .adapter import Model, adapt
from .clocks import Clock, clock, default_clock
from .interpolants import Interpolant, Linear, interpolant
from .kinds import VelocityPrediction
from .predictions import Prediction, prediction

TIMES = (0.3, 0.5, 0.7, 0.9)  # of the linear path; other paths are tried at equal noise ratios
AT_MOST = 256  # samples; more say no more about which hypothesis is best
MARGIN = 0.95  # another hypothesis must have at most this share of the error to contradict a declaration


@dataclass(frozen=True)
class Finding:
    """How well one hypothesis explains clean samples.

    Attributes:
        prediction: The hypothesis.
        error: Mean of :attr:`errors`.
        errors: Mean squared difference per element between clean estimate and sample, at each time; infinite if the
            network could not be called so.
    """

    prediction: Prediction
    error: float
    errors: tuple[float, ...]

    def __str__(self) -> str:
        return f"{described(self.prediction)}: {self.error:.3g}"


def described(read: Prediction) -> str:
    """A hypothesis in words."""
    sign = "-" if getattr(read, "sign", 1) < 0 else ""
    ratio = " of x / alpha" if getattr(read, "input", "state") == "ratio" else ""
    return f"{sign}{read.kind}{ratio} on {read.interpolant.name}, time {read.network_time}"


def hypotheses(paths: Iterable[str | Interpolant] = ("linear",)) -> list[Prediction]:
    """What networks of these paths may return and be told: every kind, both signs of a velocity, every clock.

    Clocks: t, 1 - t, both times 1000, log(nu) / 4, nu, and the index where the path has levels.
    """
    found = []
    for path in map(interpolant, paths):
        clocks: list[Clock] = [clock(name) for name in ("t", "1-t", "1000*t", "1000*(1-t)", "log(nu)/4", "nu")]
        if default_clock(path) not in clocks:
            clocks.append(default_clock(path))
        for told in clocks:
            kinds = [prediction(kind, path, network_time=told) for kind in ("velocity", "noise", "denoised", "score")]
            kinds += [VelocityPrediction(path, told, sign=-1), prediction("v", path, network_time=told)]
            kinds += [prediction("denoised", path, network_time=told, input="ratio")]
            kinds += [prediction("edm", path, network_time=told)]
            found += kinds
    return found


def identify(
    network: Any,
    data: Tensor,
    tried: Iterable[Prediction] | None = None,
    *,
    condition: Mapping[str, Any] | None = None,
    times: Sequence[float] = TIMES,
    seed: int = 0,
    **options: Any,
) -> list[Finding]:
    r"""What a network returns, by trying: hypotheses in the order of how well they explain clean samples.

    .. math:: \frac{1}{d} E |D_h(\alpha x_1 + \sigma x_0, t) - x_1|^2

    for each hypothesis h on noised samples, at noise ratios that are the same for all paths. The posterior mean has the
    least error that there is, so the right hypothesis is first, up to those that are the same function. The network is
    called three times at most for each clock and time.

    Args:
        network: Any callable, called as ``adapt(network, h, **options)`` calls it; or a :class:`Model`, whose call and
            conditions are kept and whose prediction is not believed.
        data: Clean samples [N, *D]; some hundreds, of which 256 are used.
        tried: Hypotheses; by default those of :func:`hypotheses` on the linear path (a model's: on its own too).
        condition: Keyword arguments of the network: conditions of these samples.
        times: Of the linear path, in (0, 1).
        seed: Of the noise.
        **options: Of :func:`adapt`: ``call``, ``dtype``, ``time_shape``, ``split_variance``.

    Returns:
        Findings, best first; hypotheses under which the network cannot be called come last.

    Raises:
        ArgumentError: Fewer than two samples, no hypothesis, or a time outside (0, 1).

    Example:
        >>> from pushforward.models import reference_mixture
        >>> oracle = reference_mixture()
        >>> described(identify(oracle.network("noise"), oracle.sample(64, seed=1))[0].prediction)
        'noise on linear, time TimeClock(scale=1.0)'
    """
    data = checked(data)[:AT_MOST]
    for t in times:
        if not 0 < t < 1:
            raise ArgumentError("times", got=t, expected="times in (0, 1)")
    if isinstance(network, Model):
        base = network
        paths = [Linear()] if base.interpolant == Linear() else [Linear(), base.interpolant]
    else:
        base, paths = adapt(network, **options), [Linear()]
    trials = list(hypotheses(paths) if tried is None else tried)
    if not trials:
        raise ArgumentError("tried", got="no hypotheses", expected="at least one prediction")
    probe = Probe(data, condition, times, seed)
    found = [probe.finding(base.reading(one)) for one in trials]
    return sorted(found, key=lambda finding: finding.error)


class Probe:
    """Clean samples with noise, and what a network said about them: hypotheses that call it alike share the call.

    Args:
        data: Clean samples [N, *D].
        condition: Their conditions.
        times: Of the linear path.
        seed: Of the noise.
    """

    def __init__(self, data: Tensor, condition: Mapping[str, Any] | None, times: Sequence[float], seed: int) -> None:
        self.data, self.condition, self.ratios = data, condition, [noise_ratio(t) for t in times]
        self.noisy = [data + noise for noise in nested_noise(data, times, seed)]
        self._said: dict[tuple[Any, ...], Tensor] = {}

    @torch.no_grad()
    def errors(self, model: Model) -> tuple[list[NDArray[np.float64]], list[Tensor]]:
        """``|D - x_1|^2 / d`` of each sample at each time, [T][N], and D."""
        read, path = model.prediction, model.interpolant
        squares, estimates = [], []
        for nu, noisy in zip(self.ratios, self.noisy, strict=True):
            t = path.time_at_noise_ratio(nu)
            state, weight, scale = path.alpha(t) * noisy, read.denoised(t), read.input_scale(t)
            asked = (path, read.network_time, scale, t)
            if next(iter(self._said), asked)[:2] != asked[:2]:  # hypotheses come clock by clock
                self._said.clear()
            if asked not in self._said:
                self._said[asked] = model.bind(self.condition).evaluate(scale * state, t)[0]
                if self._said[asked].shape != self.data.shape:
                    got = list(self._said.pop(asked).shape)
                    raise ShapeError("network output", got=got, expected=list(self.data.shape))
            estimates.append(weight.x * state + weight.output * self._said[asked])
            squares.append((estimates[-1] - self.data).double().square().flatten(1).mean(1).cpu().numpy())
        return squares, estimates

    def finding(self, model: Model) -> Finding:
        """The error of one hypothesis; infinite where the network cannot be called so."""
        try:
            errors = [float(one.mean()) for one in self.errors(model)[0]]
        except Exception:  # a network asked in a wrong way may raise anything
            errors = [math.inf] * len(self.ratios)
        errors = tuple(error if math.isfinite(error) else math.inf for error in errors)
        return Finding(model.prediction, float(np.mean(errors)), errors)


def noise_ratio(t: float) -> float:
    """Of the linear path."""
    return (1.0 - t) / t


def nested_noise(data: Tensor, times: Sequence[float], seed: int) -> list[Tensor]:
    r"""Noises :math:`\nu(t) z_t` in which every one is the next less noisy one and an independent one more."""
    total, sofar, found = torch.zeros_like(data), 0.0, {}
    for index, t in enumerate(sorted(times, reverse=True)):
        nu = noise_ratio(t)
        draw = kernels.Draw(kernels.PURPOSE_USER, index)
        fresh = kernels.normal(tuple(data.shape), seed=seed, draw=draw, dtype=data.dtype, device=data.device)
        total = total + math.sqrt(nu * nu - sofar * sofar) * fresh
        sofar, found[t] = nu, total
    return [found[t] for t in times]


def checked(data: Any) -> Tensor:
    """Clean samples.

    Raises:
        ArgumentError: Not a floating-point tensor of at least two finite samples.
    """
    good = isinstance(data, Tensor) and data.is_floating_point() and data.ndim >= 2 and len(data) >= 2
    if not good or not bool(data.isfinite().all()):
        got = list(data.shape) if isinstance(data, Tensor) else type(data).__name__
        raise ArgumentError("data", got=got, expected="finite clean samples [N, *D], N at least 2")
    return data


@dataclass(frozen=True)
class Validation:
    """What :func:`validate` measured.

    Attributes:
        times: Of the linear path, rising.
        errors: Mean squared error of the clean estimate per element at each.
        variance: Of the data, per element: the error of knowing nothing.
        drifts: For each pair of neighbouring times, how far the change of the estimate is from what it must be,
            relative to the error; 0 for a posterior mean.
    """

    times: tuple[float, ...]
    errors: tuple[float, ...]
    variance: float
    drifts: tuple[float, ...]


def validate(
    model: Model,
    data: Tensor,
    *,
    condition: Mapping[str, Any] | None = None,
    times: Sequence[float] = TIMES,
    seed: int = 0,
    tolerance: float = 0.25,
) -> Validation:
    r"""Whether a network is what its declaration says, on clean samples.

    A posterior mean D_t has an error that is below the variance of the data and falls with t; and, where the noise at s
    is that at t > s and more, :math:`E|D_t - D_s|^2 = E|D_s - x_1|^2 - E|D_t - x_1|^2`. A wrong prediction, sign, clock
    or scale breaks one of the three. Trained networks are no exact means, hence the tolerance.

    Args:
        model: Network and declaration.
        data: Clean samples [N, *D] that it was trained on the like of; some hundreds, of which 256 are used.
        condition: Conditions of these samples.
        times: Of the linear path, in (0, 1); at other paths equal noise ratios are taken.
        seed: Of the noise.
        tolerance: Relative to the variance, and to the error: what the three may be missed by.

    Raises:
        ArgumentError: One of the three is missed by more, and by more than four standard errors, or another
            declaration explains the data much better; says what fits.

    Example:
        >>> from pushforward.models import reference_mixture
        >>> oracle = reference_mixture()
        >>> len(validate(oracle.model(), oracle.sample(256, seed=1)).errors)
        4
    """
    data, rising = checked(data)[:AT_MOST], tuple(sorted(times))
    if len(rising) < 2 or not 0 < rising[0] <= rising[-1] < 1:
        raise ArgumentError("times", got=list(times), expected="at least two times in (0, 1)")
    variance = float(data.double().var(dim=0).mean())
    try:
        squares, estimates = Probe(data, condition, rising, seed).errors(model)
    except (RuntimeError, TypeError, IndexError) as error:
        expected, hint = "a network that can be called as declared", "See call=, dtype= and time_shape= of adapt"
        raise ArgumentError("network", got=f"{type(error).__name__}: {error}", expected=expected, hint=hint) from error
    errors = tuple(float(one.mean()) for one in squares)
    drifts, complaint = [], complaint_about(squares, variance, tolerance, rising)
    for i in range(len(rising) - 1):
        moved = (estimates[i + 1] - estimates[i]).double().square().flatten(1).mean(1).cpu().numpy()
        gap = moved - (squares[i] - squares[i + 1])
        allowed = max(tolerance * errors[i], 4 * standard_error(gap))
        drifts.append(float(gap.mean()) / errors[i] if errors[i] > 0 else 0.0)
        if complaint is None and not abs(gap.mean()) <= allowed:
            complaint = f"estimates at t = {rising[i]:g} and {rising[i + 1]:g} do not fit together"
    mean = float(np.mean(errors))
    best = identify(model, data, condition=condition, times=rising, seed=seed)[0]
    explains = best.error <= (1 + tolerance) * variance
    if explains and (best.error < MARGIN * mean or not math.isfinite(mean)):
        got = f"{described(model.prediction)} explains the data worse ({mean:.3g})"
        raise ArgumentError("prediction", got=got, expected=f"{described(best.prediction)} ({best.error:.3g})")
    if complaint is not None:
        expected = "errors of the clean estimate below the variance of the data, falling with t, and consistent"
        hint = "No other prediction, sign or clock fits better: look at data's scale, the path and the conditions"
        raise ArgumentError("network", got=complaint, expected=expected, hint=hint)
    return Validation(rising, errors, variance, tuple(drifts))


def complaint_about(
    squares: Sequence[NDArray[np.float64]], variance: float, tolerance: float, times: Sequence[float]
) -> str | None:
    """What is wrong with the errors, if anything."""
    for i, (t, one) in enumerate(zip(times, squares, strict=True)):
        if not one.mean() <= (1 + tolerance) * variance + 4 * standard_error(one):
            return f"an error of {one.mean():.3g} at t = {t:g}, with data of variance {variance:.3g}"
        if i and not (one - squares[i - 1]).mean() <= max(
            tolerance * variance, 4 * standard_error(one - squares[i - 1])
        ):
            return f"an error that rises from t = {times[i - 1]:g} to {t:g}"
    return None


def standard_error(values: NDArray[np.float64]) -> float:
    """Of their mean."""
    return float(values.std(ddof=1)) / math.sqrt(len(values))
