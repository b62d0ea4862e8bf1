"""Transitions: a run of a plan as one Gaussian kernel a step, which is what particle methods propose from."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ...errors import ArgumentError, PlanError, SingularTimeError
from ...kernels import Draw
from ...models import BranchWeights, Prediction
from ..plan import Link, Plan, chain, step_weights


@dataclass(frozen=True)
class Transition:
    r"""One step of a sampler as a Gaussian kernel of the state.

    .. math:: x' = a\, x + \sum_j b_j\, o_j(c\, x, t) + \sum_d s_d z_d

    Attributes:
        time, time_next: Where it starts and ends.
        scale: c, of the network's input.
        branches: Which outputs o_j the network returns there.
        weights: a and then the b_j.
        draws, noises: The normals z_d, and their s_d.
        denoised: Weights of x and of the o_j in the clean estimate D(x, t); None where the network does not determine
            it.

    """

    time: float
    time_next: float
    scale: float
    branches: tuple[str, ...]
    weights: tuple[float, ...]
    draws: tuple[Draw, ...]
    noises: tuple[float, ...]
    denoised: tuple[float, ...] | None

    @property
    def noise(self) -> float:
        """Standard deviation of the kernel, Gamma; 0 for a deterministic step."""
        return math.hypot(*self.noises)

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
class Transitions(Sequence[Transition]):
    """The steps of a sampler, in order, as kernels.

    Attributes:
        solver: Name of the solver that wrote them.
        steps: One kernel a step.

    Example:
        >>> from pushforward import solvers
        >>> from pushforward.models import Linear, prediction
        >>> read = prediction("velocity", Linear())
        >>> plan = solvers.plan(solvers.solver("euler_maruyama"), [0.0, 0.5, 1.0]).lower(read)
        >>> [(k.time, k.noise > 0) for k in Transitions.of(plan, read)]
        [(0.0, True), (0.5, False)]

    """

    solver: str
    steps: tuple[Transition, ...]

    @classmethod
    def of(cls, plan: Plan, prediction: Prediction, guidance: BranchWeights | None = None) -> Transitions:
        """The kernels of a lowered plan.

        Args:
            plan: At stage "outputs", of one evaluation a step, each step reading nothing but its own state and output.
            prediction, guidance: Those that it was lowered with.

        Raises:
            PlanError: The plan is not of that kind: multistep methods remember, and others evaluate more than once.
        """
        links = chain(plan)
        return cls(plan.solver, tuple(transition(plan, i, links[i], prediction, guidance) for i in range(len(links))))

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
        return tuple(index for index, step in enumerate(self.steps) if step.noise > 0)


def transition(
    plan: Plan, index: int, link: Link, prediction: Prediction, guidance: BranchWeights | None
) -> Transition:
    """The kernel of one link."""
    remembered = set(link.states) - {index} | {k for k, _ in link.outputs} - {index}
    if remembered:
        raise PlanError(
            "solver",
            got=f"{plan.solver}, whose step {index} remembers step {min(remembered)}",
            expected="one whose steps read nothing but their own state, as particles change between steps",
            hint="For instance 'euler_maruyama', 'ddpm', 'ddim', 'euler_ancestral' or 'seeds1'",
        )
    outputs = [link.outputs.get((index, branch), 0.0) for branch in link.branches]
    return Transition(
        link.time,
        plan.grid[index + 1],
        link.scale,
        link.branches,
        (link.states[index], *outputs),
        tuple(link.draws),
        tuple(link.draws.values()),
        denoised(link, plan, index, prediction, guidance),
    )


def denoised(
    link: Link, plan: Plan, index: int, prediction: Prediction, guidance: BranchWeights | None
) -> tuple[float, ...] | None:
    """Weights of the state and of each output in the clean estimate."""
    try:
        affine = prediction.quantity("denoised", link.time)
    except SingularTimeError:
        return None
    shares = step_weights(plan, index, guidance)
    return (affine.x, *(affine.output * shares[branch] for branch in link.branches))
