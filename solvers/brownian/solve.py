"""`solve_sde`: one call from a drift and a noise scale to states at the times asked for."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from ...errors import ArgumentError, UnknownNameError
from ...models import BranchWeights, Model
from ...models.fields import ModelField
from ...models.two_heads import TwoSidedModel
from ..adaptive.controller import Controller
from ..adaptive.controller import controller as controller_named
from ..adaptive.field import Field, JointField, function_field
from ..adaptive.loop import Run
from ..adaptive.method import Live
from ..adaptive.solution import Solution
from ..adaptive.solve import OnFailure, batched, check_state, checked_limits, report, requested_times
from ..adaptive.tolerance import Norm, tolerance
from ..sde.diffusion import Diffusion, DiffusionLike
from .field import MarginalField, ModelScale, NoiseScale, StochasticField, check_additive, noise_scale
from .scheme import Brownian, JointBrownian, Scheme, StochasticMethod, scheme
from .tree import BrownianTree

CONTROLLER = Controller(proportional=0.1, integral=0.3)
LEAST_STEP = 2.0**-16  # of the way, unless given
LEAVES = 8  # smallest intervals of the tree in the least step


class JointScale:
    """The noise scale of a batch that is integrated as one, [1, B, *D]."""

    def __init__(self, inner: NoiseScale) -> None:
        self.inner = inner

    def __call__(self, x: Tensor, times: np.ndarray) -> np.ndarray | Tensor:
        """Of the whole batch."""
        scale = self.inner(x[0], np.repeat(times, x.shape[1]))
        return scale[None] if isinstance(scale, Tensor) else scale[:1]

    def rows(self, index: Tensor) -> JointScale:
        """Itself."""
        return self


def solve_sde(
    drift: Callable[..., Tensor] | Model | TwoSidedModel,
    diffusion: float | Callable[..., Tensor] | DiffusionLike,
    x0: Tensor,
    times: Sequence[float] | np.ndarray | Tensor,
    *,
    method: str | Scheme = "shark",
    rtol: float | Tensor = 1e-2,
    atol: float | Tensor = 1e-2,
    norm: str | Norm = "rms",
    per_sample: bool = True,
    controller: str | Controller = CONTROLLER,
    first_step: float | None = None,
    min_step: float | None = None,
    max_step: float = math.inf,
    max_steps: int = 10_000,
    seed: int = 0,
    samples: Tensor | None = None,
    brownian: Brownian | None = None,
    condition: Mapping[str, Any] | None = None,
    null: Mapping[str, Any] | None = None,
    guidance: float | BranchWeights = 1.0,
    denoise: bool = False,
    on_failure: OnFailure = "raise",
) -> Solution:
    r"""Integrate :math:`dX = f(X, t)\, dt + G \odot dW` (Ito) adaptively, every sample with steps of its own.

    Each sample follows one Brownian path, the one of its seed and id, whatever its steps: a step that is rejected, and
    a run at another tolerance or with another method, see the same path. So results converge path by path as the
    tolerances fall, and the law of a result is not that of the increments that happened to pass.

    Of a model this is the SDE with the marginals of its flow, :math:`dx = (v + g s)\, dt + \sqrt{2 g}\, dW`, from
    noise to data or back.

    Args:
        drift: ``f(x, t, **condition)`` as in :func:`~pushforward.solve_ode`, or a :class:`~pushforward.models.Model`.
        diffusion: G: a number; or ``G(x, t, **condition)``, returning a tensor like x or [b]. With a model, what a
            :class:`~pushforward.solvers.Diffusion` may be made from: g.
        x0: State [B, *D], floating point.
        times: Strictly increasing or decreasing: [T] for all samples, or [B, T]. Steps end at them.
        method: "shark", "sra1", "sra3", "sosra" (strong order 1.5) or "heun_em" (order 1) for additive noise, where G
            depends on the time alone; "srk" (1.5), "milstein" (1) or "euler_maruyama" (1/2) for G that depends on the
            state, each element on its own element alone. The latter compare a step with two half steps.
        rtol, atol, norm: As in :func:`~pushforward.solve_ode`, of the error of a step along its path. Tolerances below
            0.001 ask for very many steps: a path is rough.
        per_sample: Whether each sample has its own step size.
        controller: By default PI control with P = 0.1 and I = 0.3.
        first_step: Length of the first step; by default a hundredth of the way.
        min_step: Least length of a step, by default 2**-16 of the way. The Brownian tree resolves an eighth of it.
        max_step, max_steps: Bounds of a step's length and of the attempts of a sample.
        seed, samples: Key of the noise, as in :func:`pushforward.sample`.
        brownian: The paths, instead of those of the key: a :class:`BrownianTree`, or any object with its ``increment``
            and ``rows``.
        condition: Keyword arguments of drift and diffusion; tensors with B rows are indexed as samples leave.
        null, guidance: Of a model: see :func:`pushforward.sample`.
        denoise: Of a model: replace the state at the last time by its clean estimate there, one evaluation more.
        on_failure: As in :func:`~pushforward.solve_ode`.

    Returns:
        States at ``times``, statuses and counts; see :class:`~pushforward.solvers.adaptive.Solution`.

    Raises:
        ArgumentError, ShapeError, DtypeError, UnknownNameError, GridError: What is wrong with an argument: for one, a
            diffusion that depends on the state with a method for additive noise.
        IntegrationError, NotFiniteError: As in :func:`~pushforward.solve_ode`.
        SingularTimeError: A model's score or velocity is not determined at a time: begin and end a little inside.

    Source: Rackauckas & Nie 2017, arXiv:1804.04344 (step control along one path); Jolicoeur-Martineau et al. 2021,
        arXiv:2105.14080 (of diffusion models, each sample with its own steps).

    Example:
        >>> x0 = torch.ones(3, 2, dtype=torch.float64)
        >>> def solve(tolerance):
        ...     return solve_sde(lambda x, t: -x, 0.5, x0, [0.0, 1.0], rtol=0.0, atol=tolerance, seed=1)
        >>> bool((solve(1e-3).x - solve(1e-2).x).abs().max() < 0.02)  # along the same path
        True

    """
    check_state(x0)
    grid = requested_times(times, x0.shape[0])
    chosen = scheme(method)
    if on_failure not in ("raise", "warn", "return"):
        raise UnknownNameError("on_failure", got=repr(on_failure), expected="'raise', 'warn' or 'return'")
    is_model = isinstance(drift, Model | TwoSidedModel)
    if not is_model and (null is not None or guidance != 1 or denoise):
        raise ArgumentError("guidance, null, denoise", got="one of them", expected="none: the drift is no Model")
    if not per_sample and batched(times):
        got = "False, with a row of times for each sample"
        raise ArgumentError("per_sample", got=got, expected="True: they belong to single samples")
    low, high = (float(grid.min()), float(grid.max())) if grid.size else (0.0, 1.0)
    span = high - low
    limits = checked_limits(first_step, min_step, max_step, max_steps)
    if min_step is None:
        limits = replace(limits, min_step=min(LEAST_STEP * span, max_step) if span else None)
    with torch.no_grad():
        x = x0.detach()
        if is_model:
            scale = ModelScale(Diffusion.of(cast(DiffusionLike, diffusion)), drift.interpolant)
            direction = -1.0 if grid.size and grid[0, -1] < grid[0, 0] else 1.0
            right = StochasticField(MarginalField(drift, condition, null, guidance, scale, direction), scale)
        else:
            given = noise_scale(diffusion, condition, x0.shape[0])
            right = StochasticField(function_field(drift, condition, x0.shape[0]), given)
            if chosen.additive and x0.shape[0]:
                check_additive(given, x, grid[:, 0].copy(), f"method {method!r}")
        if brownian is None and span:
            leaf = max((limits.min_step or 0) / LEAVES, span * 2.0**-30)
            like = {"dtype": x.dtype, "device": x.device}
            brownian = BrownianTree(
                x.shape, low, high, seed=seed, samples=samples, tolerance=leaf, area=chosen.area, **like
            )
        if not per_sample:
            x, grid = x[None], grid[:1]
            right = StochasticField(JointField(right.drift), JointScale(right.scale))
            brownian = None if brownian is None else JointBrownian(brownian)
        live = Live(cast(Field, right), tolerance(rtol, atol, norm, x), np.arange(x.shape[0]), x, grid[:, 0].copy())
        name = method if isinstance(method, str) else type(method).__name__
        run = Run(
            StochasticMethod(name, chosen, cast(Brownian, brownian)), live, grid, controller_named(controller), limits
        )
        solution = run.solve()
        if not batched(times):
            solution.times = requested_times(times, 1)[0]
        if not per_sample:
            solution = solution.of_samples(x0.shape[0])
        if denoise:
            clean(solution, ModelField(cast(Model, drift), condition, null, guidance, "denoised"))
    report(solution, on_failure, run)
    return solution


def clean(solution: Solution, denoiser: ModelField) -> None:
    """Replace the last states of the samples that arrived by their clean estimates."""
    arrived = torch.from_numpy(np.flatnonzero(solution.success))
    if not len(arrived):
        return
    place = arrived.to(solution.final.device)
    states = denoiser.rows(arrived)(solution.final.index_select(0, place), solution.t[arrived.numpy()])
    solution.final.index_copy_(0, place, states)
    solution.x[-1].index_copy_(0, place, states)
    solution.nfe[arrived.numpy()] += 1
    solution.calls += 1
