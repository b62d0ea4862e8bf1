"""A plan driven from outside, one network output at a time: what stands between a pipeline and the executor."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from torch import Tensor

from ...errors import ArgumentError
from ...models import Prediction
from ..executor import Executor, Request, TransformFunction
from ..plan import Plan
from ..solver import FixedGridSolver, LastStep, plan


@lru_cache(maxsize=256)
def compiled(
    solver: FixedGridSolver,
    times: tuple[float, ...],
    prediction: Prediction,
    transform: str | None = None,
    last_step: LastStep = "auto",
) -> Plan:
    """The optimised plan; kept, since every argument is immutable and so is the plan."""
    program = plan(
        solver, times, prediction.interpolant, prediction=prediction, transform=transform, last_step=last_step
    )
    return program.lower(prediction).optimise()


def tail(
    whole: Plan,
    begin: int,
    solver: FixedGridSolver,
    prediction: Prediction,
    transform: str | None = None,
    last_step: LastStep = "auto",
) -> Plan:
    """The plan of a run that begins at evaluation ``begin`` of another: the same later evaluations, without its past.

    Raises:
        ArgumentError: No run of this solver has those evaluations: it was to begin within a step, or the solver starts
            with evaluations of its own.

    """
    if begin == 0:
        return whole
    asked = [evaluation.time for evaluation in whole.evaluations[begin:]]
    if asked:
        step = whole.evaluations[begin].step
        for first in (step, step + 1):  # a corrector evaluates at the end of its step what is the start of the next
            if first + 1 < len(whole.grid):
                part = compiled(solver, whole.grid[first:], prediction, transform, last_step)
                if [evaluation.time for evaluation in part.evaluations] == asked:
                    return part
    raise ArgumentError(
        "begin_index",
        got=begin,
        expected=f"the index of an evaluation with which a run of {solver} can start",
        hint="It must be a multiple of the scheduler's order; a solver that starts with extra evaluations begins at 0",
    )


class OutsideRun:
    """One run of a plan whose states pass through other hands.

    Every network input is a tensor of its own, so that whoever drives may keep it, and what it hands back counts: if
    it wrote over the state (inpainting), the run goes on from there. Gradients flow. Nothing is read from the device.

    Args:
        plan: An optimised plan of one branch.
        sample: What the first evaluation is made at, [B, *D].
        samples: Sample ids that key the noise.
        transforms: Functions for the plan's transforms.

    Attributes:
        done: Whether the last output has been given.

    """

    def __init__(
        self,
        plan: Plan,
        sample: Tensor,
        samples: Tensor | None = None,
        transforms: Mapping[str, TransformFunction] | None = None,
    ) -> None:
        self.executor = Executor(plan, sample, samples=samples, transforms=transforms, check="off", differentiable=True)
        self.evaluations = plan.evaluations
        self.request: Request | None = next(self.executor)

    @property
    def done(self) -> bool:
        """Whether the last output has been given."""
        return self.request is None

    def advance(self, output: Tensor, sample: Tensor) -> Tensor:
        """Take the network's ``output`` at ``sample``; return its next input, or the result after the last one."""
        executor, request = self.executor, self.request
        if request is None:
            raise ArgumentError("step", got="another output", expected="a new run: the last evaluation was answered")
        register = self.evaluations[request.index].input
        if register in executor.values:  # otherwise nothing but the network reads it
            executor.values[register] = sample
        executor.supply((output,))
        self.request = following = next(executor, None)
        return executor.result if following is None else following.input
