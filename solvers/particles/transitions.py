"""Transitions: the steps of a sampler, one by one, which is what particle methods propose from."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ...errors import ArgumentError, PlanError, SingularTimeError
from ...kernels import Draw
from ...models import BranchWeights, Prediction
from ..plan import Combine, Plan, chain, cut, evaluation_at_start, step_weights

Branches = tuple[str, ...]


@dataclass(frozen=True)
class Transition(ABC):
    """One step of a sampler: where it is, what the network says there, and what a draw of the next state costs.

    Attributes:
        time, time_next: Where it starts and ends.
        scale: Of the network's input at its state.
        branches: Which outputs the network returns there.
        denoised: Weights of the state and of these outputs in the clean estimate D(x, t); None where the network does
            not determine it.
        known: Which of its evaluations is the one at its own state, whose outputs particles bring along; None if it
            evaluates elsewhere only.

    """

    time: float
    time_next: float
    scale: float
    branches: Branches
    denoised: tuple[float, ...] | None
    known: int | None

    @property
    @abstractmethod
    def stochastic(self) -> bool:
        """Whether it draws noise."""

    @property
    @abstractmethod
    def calls(self) -> tuple[Branches, ...]:
        """What every draw asks of the network, call by call, beyond the outputs that particles bring along."""

    def evaluated(self, look: bool) -> bool:
        """Whether the network is run at its state: where somebody looks at it, or the step begins with that."""
        return look or self.known is not None


@dataclass(frozen=True)
class GaussianTransition(Transition):
    r"""A step of one evaluation, at its own state: a Gaussian kernel, which has a density.

    .. math:: x' = a\, x + \sum_j b_j\, o_j(c\, x, t) + \sum_d s_d z_d

    Attributes:
        weights: a and then the b_j, of the outputs o_j; c is ``scale``.
        draws, noises: The normals z_d, and their s_d.

    """

    weights: tuple[float, ...]
    draws: tuple[Draw, ...]
    noises: tuple[float, ...]

    @property
    def noise(self) -> float:
        """Standard deviation of the kernel, Gamma; 0 for a deterministic step."""
        return math.hypot(*self.noises)

    @property
    def stochastic(self) -> bool:
        """Whether Gamma is above 0."""
        return self.noise > 0

    @property
    def calls(self) -> tuple[Branches, ...]:
        """None: a draw is one combination."""
        return ()

    def log_density(self, inputs: Sequence[Tensor], new: Tensor) -> Tensor:
        r"""Logarithm of the kernel at x', :math:`-|x' - \mu|^2 / (2 \Gamma^2)` without its constant, float64 [R].

        Args:
            inputs: The state and the outputs of ``branches`` there, [R, *D] each.
            new: x', [R, *D].

        Raises:
            ArgumentError: The step is deterministic.
        """
        if self.noise == 0:
            raise ArgumentError("step", got=f"the deterministic one at t = {self.time:.6g}", expected="one with noise")
        mean = sum(weight * x.double() for weight, x in zip(self.weights, inputs, strict=True))
        return -0.5 * ((new.double() - mean) / self.noise).square().flatten(1).sum(1)


@dataclass(frozen=True)
class PlannedTransition(Transition):
    """A step of several evaluations, or of one that is not at its state: a plan of one step.

    Its next states can be drawn, but have no density that could be written down: the noise passes through the network.

    Attributes:
        plan: The step alone, optimised; its draws are keyed by the number of the step in the whole run.

    """

    plan: Plan

    @property
    def stochastic(self) -> bool:
        """Whether the plan draws noise."""
        return any(
            scale != 0 for i in self.plan.instructions if isinstance(i, Combine) for row in i.scales for scale in row
        )

    @property
    def calls(self) -> tuple[Branches, ...]:
        """Branches of the plan's evaluations, but for the one that is known."""
        return tuple(e.labels for index, e in enumerate(self.plan.evaluations) if index != self.known)

    @property
    def described(self) -> str:
        """Why it is no Gaussian kernel, in words."""
        if self.plan.channels is not None:
            return "has coefficients that differ by channel"
        if self.known is None:
            return "evaluates where noise has moved the state" if self.stochastic else "evaluates away from its state"
        return f"evaluates {self.plan.nfe} times"


@dataclass(frozen=True)
class Transitions(Sequence[Transition]):
    """The steps of a sampler, in order: Gaussian kernels where a step is one, else plans of one step.

    Attributes:
        solver: Name of the solver that wrote them.
        steps: One transition a step.

    Example:
        >>> from pushforward import solvers
        >>> from pushforward.models import Linear, prediction
        >>> read = prediction("velocity", Linear())
        >>> plan = solvers.plan(solvers.solver("stochastic_heun"), [0.0, 0.5, 1.0]).lower(read)
        >>> [(type(k).__name__, k.stochastic, len(k.calls)) for k in Transitions.of(plan, read)]
        [('PlannedTransition', True, 1), ('GaussianTransition', False, 0)]

    """

    solver: str
    steps: tuple[Transition, ...]

    @classmethod
    def of(cls, plan: Plan, prediction: Prediction, guidance: BranchWeights | None = None) -> Transitions:
        """The transitions of a lowered plan.

        Args:
            plan: At stage "outputs", each step reading nothing but its own state and what it evaluates.
            prediction, guidance: Those that it was lowered with.

        Raises:
            PlanError: The plan is not of that kind: multistep methods remember.
        """
        plan.check_plain("particles")
        return cls(plan.solver, tuple(transition(part, prediction, guidance) for part in cut(plan)))

    def __getitem__(self, index):  # Sequence's two overloads
        return self.steps[index]

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[Transition]:
        return iter(self.steps)

    @cached_property
    def times(self) -> NDArray[np.float64]:
        """Start of every step, and the end of the last."""
        return np.array([*(step.time for step in self.steps), self.steps[-1].time_next])

    @property
    def searchable(self) -> tuple[int, ...]:
        """Steps that draw noise: those at which candidates differ."""
        return tuple(index for index, step in enumerate(self.steps) if step.stochastic)

    def gaussian(self, what: str) -> tuple[GaussianTransition, ...]:
        """The steps as Gaussian kernels, for what needs their mean and variance.

        Raises:
            PlanError: A step is none; says that ``what`` needs one.
        """
        found: list[GaussianTransition] = []
        for index, step in enumerate(self.steps):
            if isinstance(step, PlannedTransition):
                raise PlanError(
                    "solver",
                    got=f"{self.solver}, whose step {index} {step.described}",
                    expected=f"one evaluation a step, at its state: {what} needs the step's mean and variance",
                    hint="For instance 'ddpm', 'euler_maruyama' or 'seeds1'; others propose where nothing needs them",
                )
            found.append(cast(GaussianTransition, step))
        return tuple(found)


def transition(part: Plan, prediction: Prediction, guidance: BranchWeights | None) -> Transition:
    """What a plan of one step is."""
    start, branches = evaluation_at_start(part), part.evaluations[0].labels  # all evaluations of a step have the same
    here = {
        "time": part.grid[0],
        "time_next": part.grid[1],
        "scale": prediction.input_scale(part.grid[0]) if start is None else start.scale,
        "branches": branches,
        "denoised": denoised(part, branches, prediction, guidance),
        "known": None if start is None else start.index,
    }
    if start is None or len(part.evaluations) > 1 or part.channels is not None:
        return PlannedTransition(**here, plan=part.optimise())
    (link,) = chain(part)
    weights = (link.states[0], *(link.outputs.get((0, branch), 0.0) for branch in branches))
    return GaussianTransition(**here, weights=weights, draws=tuple(link.draws), noises=tuple(link.draws.values()))


def denoised(
    part: Plan, branches: Branches, prediction: Prediction, guidance: BranchWeights | None
) -> tuple[float, ...] | None:
    """Weights of the state and of each output in the clean estimate where the step starts."""
    try:
        affine = prediction.quantity("denoised", part.grid[0])
    except SingularTimeError:
        return None
    shares = step_weights(part, 0, guidance)
    return (affine.x, *(affine.output * shares[branch] for branch in branches))
