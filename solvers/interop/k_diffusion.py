"""Functions called as k-diffusion's samplers are, made from the registry of solvers.

``sample_NAME(model, x, sigmas, extra_args=None, callback=None, disable=None, **options)`` exists for every registered
solver, and for k-diffusion's own names where those differ. ``model(x, sigma, **extra_args)`` returns the clean
estimate at noise level ``sigma`` [B], as k-diffusion's wrappers and ComfyUI's models do.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal, Protocol, cast

import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from ...errors import ArgumentError, DtypeError, GridError, UnknownNameError
from ...kernels import Draw
from ...models import EDM, Interpolant, Linear, Prediction
from ...models import prediction as make_prediction
from ..executor import Executor, TransformFunction
from ..plan import Plan
from ..solver import REGISTRY, FixedGridSolver, LastStep, plan
from .generators import sample_ids
from .noise import noise_name, with_outside_noise

NoiseSampler = Callable[[Tensor, Tensor], Tensor]

# k-diffusion's and ComfyUI's names: the solvers that are meant, best first, each with what the name implies.
NAMES: dict[str, tuple[tuple[str, dict[str, Any]], ...]] = {
    "euler_ancestral": (("euler_ancestral", {}), ("ddim", {"eta": 1.0})),
    "dpmpp_2m": (("dpmpp_2m", {"lower_order_final": "never"}),),
    "dpmpp_2m_sde": (("dpmpp_2m_sde", {"lower_order_final": "never"}),),
    "dpmpp_3m_sde": (("dpmpp_3m_sde", {"lower_order_final": "never"}),),
    "dpm_2": (("dpm2", {}), ("dpm2_churn", {"s_churn": 0.0})),
    "dpm_2_ancestral": (("dpm2_ancestral", {}),),
    "heun": (("edm_heun", {}), ("heun", {})),
    "uni_pc": (("unipc", {"variant": "bh1"}),),
    "uni_pc_bh2": (("unipc", {"variant": "bh2"}),),
    "deis": (("deis_tab3", {}),),
}
CHURNED = {"euler": "euler_churn", "heun": "edm_stochastic", "dpm_2": "dpm2_churn"}  # with s_churn > 0
OPTIONS = {"order": "solver_order"}  # options by k-diffusion's name and by ours
NEUTRAL = {"s_churn": 0.0, "s_tmin": 0.0, "s_tmax": math.inf, "s_noise": 1.0}  # values that ask for nothing


class Sampler(Protocol):
    """A function of k-diffusion's signature."""

    def __call__(
        self,
        model: Callable[..., Tensor],
        x: Tensor,
        sigmas: Tensor | Sequence[float],
        extra_args: Mapping[str, Any] | None = None,
        callback: Callable[[dict[str, Any]], Any] | None = None,
        disable: bool | None = None,
        *,
        noise_sampler: NoiseSampler | None = None,
        seed: int | None = None,
        path: Literal["edm", "linear"] = "edm",
        last_step: LastStep = "auto",
        **options: Any,
    ) -> Tensor:
        """See :func:`sampler`."""
        ...


@lru_cache(maxsize=256)
def sampler(name: str | FixedGridSolver) -> Sampler:
    """k-diffusion's ``sample_NAME``, for the name of a registered solver or one of k-diffusion's own.

    Instead of a name, a solver object: then the function has no options. A fitted plan is for its own noise levels
    alone, ``sigmas=fitted.noise_ratios`` (rounded to float32 or not), which begin at a finite one if the grid of the
    fit begins after t = 0.

    The function returned moves ``x`` along ``sigmas`` and takes:

    Args of it:
        model: ``model(x, sigma, **extra_args)`` returns the clean estimate; x like the state, sigma [B].
        x: State at ``sigmas[0]``, [B, *D]: data plus sigma times noise.
        sigmas: Noise levels, strictly decreasing (or increasing, from data to noise), any of them; a last 0 ends in
            the clean estimate. A tensor on a device is read once, at the start.
        extra_args: Further arguments of the model. An integer ``"seed"`` among them keys the noise.
        callback: Called once a step, after its first evaluation, with {"x", "i", "sigma", "sigma_hat", "denoised"};
            "x" is a copy.
        disable: True: no progress bar. None: one on terminals only.
        noise_sampler: ``noise_sampler(sigma, sigma_next)`` returns standard normal noise for that interval, instead of
            our own. A step with n draws asks for n intervals: between the levels at which it asks the network, if
            these are as many, otherwise equal in log sigma.
        seed: Of our noise; by default that of ``extra_args``, else torch's default generator decides.
        path: "edm": sigma is the noise ratio, x / alpha the state, as always in k-diffusion. "linear": rectified flow,
            x = (1 - sigma) data + sigma noise.
        last_step: See :func:`pushforward.solvers.plan`.
        **options: Of the solver: ``eta``, ``s_churn``, ``order`` ...

    Raises:
        UnknownNameError: No such solver.

    Raises, when called:
        GridError: Levels that are none, or others than a fitted plan's own.
        ArgumentError: Options that the solver does not have; any beside an object.

    Example:
        >>> x = sampler("heun")(lambda x, sigma: 0 * x, torch.ones(1, 2), [2.0, 1.0, 0.5])
        >>> x
        tensor([[0.2500, 0.2500]])

    """
    if isinstance(name, str) and name not in available():
        raise UnknownNameError("sampler", got=repr(name), expected="one of " + ", ".join(available()))

    @torch.no_grad()
    def sample(
        model: Callable[..., Tensor],
        x: Tensor,
        sigmas: Tensor | Sequence[float],
        extra_args: Mapping[str, Any] | None = None,
        callback: Callable[[dict[str, Any]], Any] | None = None,
        disable: bool | None = None,
        *,
        noise_sampler: NoiseSampler | None = None,
        seed: int | None = None,
        path: Literal["edm", "linear"] = "edm",
        last_step: LastStep = "auto",
        **options: Any,
    ) -> Tensor:
        levels = noise_levels(sigmas)
        arguments = dict(extra_args or {})
        steps = Steps(resolve(name, options), levels, path, last_step, outside=noise_sampler is not None)
        run = steps.executor(x, noise_sampler, arguments.get("seed") if seed is None else seed)
        asked = steps.network_levels(x)
        hidden = not sys.stderr.isatty() if disable is None else disable
        shown = -1
        with Progress(console=Console(stderr=True), disable=hidden) as progress:
            bar = progress.add_task(sample.__name__, total=len(asked))
            for request in run:
                sigma = asked[request.index]
                denoised = model(request.input, sigma, **arguments).to(x.dtype)
                if callback is not None and request.step != shown:
                    shown = request.step
                    told = {"x": request.input.clone(), "i": shown, "sigma": sigmas[shown]}
                    callback(told | {"sigma_hat": sigma[0] if len(sigma) else sigma, "denoised": denoised})
                run.supply((denoised,))
                progress.advance(bar)
        return run.result

    sample.__name__ = sample.__qualname__ = f"sample_{name if isinstance(name, str) else name.name}"
    sample.__doc__ = f"``{sample.__name__}(model, x, sigmas, ...)``; see :func:`sampler`."
    return sample


def available() -> list[str]:
    """Every name that :func:`sampler` knows."""
    return sorted({*REGISTRY, *(name for name, ways in NAMES.items() if any(way in REGISTRY for way, _ in ways))})


def resolve(name: str | FixedGridSolver, options: Mapping[str, Any]) -> FixedGridSolver:
    """The solver behind a name of k-diffusion's, with its options; a solver object itself.

    Options that ask for nothing (``s_churn=0``) are dropped where the solver does not have them; ``s_churn`` above 0
    turns Euler and Heun into their stochastic forms.
    """
    given = dict(options)
    if isinstance(name, FixedGridSolver):
        asked = [key for key, value in given.items() if NEUTRAL.get(key) != value]
        if asked:
            raise ArgumentError("options", got=asked, expected="none beside a solver object")
        return name
    if given.get("s_churn", 0) and CHURNED.get(name) in REGISTRY:
        name = CHURNED[name]
    ways = [way for way in NAMES.get(name, ((name, {}),)) if way[0] in REGISTRY]
    if not ways:
        raise UnknownNameError("sampler", got=repr(name), expected="one of " + ", ".join(available()))
    registered, preset = ways[0]
    known = {field.name for field in dataclasses.fields(cast(Any, REGISTRY[registered].kind))}
    given = {key if key in known else OPTIONS.get(key, key): value for key, value in given.items()}
    given = {key: value for key, value in given.items() if key in known or NEUTRAL.get(key) != value}
    return REGISTRY[registered](**(preset | given))


def noise_levels(sigmas: Tensor | Sequence[float]) -> tuple[float, ...]:
    """The levels as float64 numbers.

    Raises:
        GridError: Fewer than two, one that is negative or not finite, or not strictly monotone; names the first.

    """
    values = sigmas.tolist() if isinstance(sigmas, Tensor) else [float(sigma) for sigma in sigmas]
    if not isinstance(values, list) or len(values) < 2 or isinstance(values[0], list):
        raise GridError("sigmas", got=f"{sigmas}", expected="at least two noise levels, in one dimension")
    falling = values[-1] < values[0]
    for index, sigma in enumerate(values):
        if not (math.isfinite(sigma) and sigma >= 0):
            raise GridError(f"sigmas[{index}]", got=sigma, expected="a finite number, at least 0")
        if index and (sigma == values[index - 1] or (sigma < values[index - 1]) != falling):
            expected = "strictly decreasing levels (or strictly increasing ones, from data to noise)"
            raise GridError(f"sigmas[{index}]", got=f"{sigma} after {values[index - 1]}", expected=expected)
    return tuple(values)


class Steps:
    """A solver on given noise levels: its plan, and the levels at which it asks the network.

    Args:
        solver: The method.
        levels: Noise levels.
        path: "edm" or "linear".
        last_step: Of the plan.
        outside: Whether noise comes from a function.

    """

    def __init__(
        self,
        solver: FixedGridSolver,
        levels: tuple[float, ...],
        path: str,
        last_step: LastStep,
        *,
        outside: bool,
    ) -> None:
        self.levels = levels
        self.read = network(max(levels), path)
        interpolant = self.read.interpolant
        linear = isinstance(interpolant, Linear)
        if linear and max(levels) > 1:
            raise GridError("sigmas", got=max(levels), expected="levels in [0, 1], for path='linear'")
        self.times = tuple(1 - s if linear else interpolant.time_at_noise_ratio(s) for s in levels)
        self.plan, self.draws = written(solver, self.times, self.read, last_step, outside)
        self.plan.check_plain("k-diffusion")

    def network_levels(self, x: Tensor) -> Tensor:
        """What the network is told at each evaluation, [evaluations, B]; the given levels where it is asked at one."""
        exact = dict(zip(self.times, self.levels, strict=True))
        told = [exact.get(e.time, self.read.time(e.time)) for e in self.plan.evaluations]
        dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
        return torch.tensor(told, dtype=dtype).to(x.device)[:, None].expand(-1, x.shape[0])

    def executor(self, x: Tensor, noise_sampler: NoiseSampler | None, seed: int | None) -> Executor:
        """A run from ``x``."""
        if not isinstance(x, Tensor) or not x.is_floating_point():
            raise DtypeError("x", got=getattr(x, "dtype", type(x).__name__), expected="a floating-point tensor")
        ids = sample_ids(None, x.shape[0], x.device) if seed is None and self.plan.stochastic else None
        transforms = {} if noise_sampler is None else self.noise(x, noise_sampler)
        return Executor(self.plan, x, seed=seed or 0, samples=ids, transforms=transforms)

    def noise(self, x: Tensor, noise_sampler: NoiseSampler) -> dict[str, TransformFunction]:
        """For each draw, the call of the noise sampler for its share of the step."""
        counts: dict[int, int] = {}
        for draw in self.draws:
            counts[draw.step] = max(counts.get(draw.step, 0), draw.stage + 1)
        bounds = {step: torch.tensor(self.intervals(step, count)).to(x.device) for step, count in counts.items()}

        def ask(draw: Draw) -> TransformFunction:
            high, low = bounds[draw.step][draw.stage], bounds[draw.step][draw.stage + 1]
            return lambda start, _: noise_sampler(high, low).to(start.dtype)

        return {noise_name(draw): ask(draw) for draw in self.draws}

    def intervals(self, step: int, count: int) -> list[float]:
        """Levels that part the step between its draws: where the network is asked if it is asked as often."""
        first, last = self.levels[step], self.levels[step + 1]
        asked = [self.read.interpolant.noise_ratio(e.time) for e in self.plan.evaluations if e.step == step]
        if count == len(asked) and asked == sorted(set(asked), reverse=first > last):
            return [first, *asked[1:], last]
        return [between(first, last, k / count) for k in range(count + 1)]


def between(first: float, last: float, share: float) -> float:
    """The level at a share of a step, geometrically; linearly towards 0."""
    if share in (0, 1):
        return last if share else first
    if first == 0 or last == 0:
        return first + share * (last - first)
    return first ** (1 - share) * last**share


@lru_cache(maxsize=64)
def network(largest: float, path: str) -> Prediction:
    """How the model is read: a clean estimate at a noise level.

    The path reaches twice the largest level, so that samplers which raise the noise before they lower it (churn) can.
    """
    if path not in ("edm", "linear"):
        raise UnknownNameError("path", got=repr(path), expected="'edm' or 'linear'")
    on: Interpolant = EDM(largest / 1e6, 2 * largest) if path == "edm" else Linear()
    return make_prediction("denoised", on, network_time="nu" if path == "edm" else "1-t")


@lru_cache(maxsize=256)
def written(
    solver: FixedGridSolver, times: tuple[float, ...], read: Prediction, last_step: LastStep, outside: bool
) -> tuple[Plan, tuple[Draw, ...]]:
    """The optimised plan, and its draws if they come from outside."""
    program = plan(solver, times, read.interpolant, prediction=read, last_step=last_step).lower(read)
    draws: tuple[Draw, ...] = ()
    if outside:
        program, draws = with_outside_noise(program)
    return program.optimise(), draws


def __getattr__(name: str) -> Any:
    """``sample_NAME`` for every name there is."""
    if name.startswith("sample_"):
        try:
            return sampler(name.removeprefix("sample_"))
        except UnknownNameError as error:
            raise AttributeError(str(error)) from error
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *(f"sample_{name}" for name in available())])
