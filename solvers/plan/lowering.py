"""From quantities to raw network outputs: predictions, input scaling and guidance become coefficients."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import TypeAlias, cast

from ...errors import PlanError, SingularTimeError
from ...models import BranchWeights, Prediction, TwoSidedPrediction
from ...models import prediction as make_prediction
from ...models.bound import VARIANCE
from ...models.refined import refiner_branch
from .expression import Expression, combine_of
from .instructions import Boundary, Evaluate, Instruction, Register, Transform, reads, writes
from .plan import Plan

RENOISING = "ddim"  # x' = alpha' D + sigma' n

Outputs: TypeAlias = Mapping[str, Expression]
"""The guided output under the name "", or each head of a two-sided path under its own."""


def lower(plan: Plan, prediction: Prediction, guidance: BranchWeights | None = None) -> Plan:
    r"""Rewrite every evaluation over what the network returns.

    Each quantity is affine in the state and the guided output, :math:`q = a x + b \sum_j w_j o_j`, with a and b from
    the prediction at the evaluation's time and the weights from the guidance at the start of its step (so that all
    stages of a step agree). The network's input is scaled where the prediction says so. Boundaries get the step's
    latest clean estimate; one that nobody observes is dropped by the optimiser.

    Args:
        plan: A plan at stage "quantities".
        prediction: What the network returns, on the plan's own interpolant.
        guidance: Weights of the branches; without it there is one branch, "cond".

    Returns:
        A plan at stage "outputs".

    Raises:
        PlanError: The plan is at another stage, the prediction is on another interpolant, or the plan draws Gaussian
            noise for a network of PFGM++.
        SingularTimeError: A quantity is not determined by this prediction at one of the plan's times.

    """
    if plan.stage != "quantities":
        raise PlanError("plan.stage", got=repr(plan.stage), expected="'quantities' (a plan is lowered once)")
    if plan.stochastic and math.isfinite(prediction.dimensions):
        got, hint = plan.solver, "It has no diffusion SDE; choose a solver without noise"
        raise PlanError("solver", got=got, expected="one without noise for a network of PFGM++", hint=hint)
    if prediction.heads and guidance is not None:
        raise PlanError("guidance", got=guidance, expected="none for a two-sided path")
    if guidance is not None and guidance.renoises:
        check_renoises(plan, guidance)
    if prediction.interpolant != plan.interpolant:
        raise PlanError("prediction.interpolant", got=prediction.interpolant, expected=plan.interpolant)
    return Lowering(plan, prediction, guidance).run()


def check_renoises(plan: Plan, guidance: BranchWeights) -> None:
    """Refuse steps other than the one that the weights were derived for.

    Raises:
        PlanError: The solver does not renoise a clean estimate.
    """
    if plan.solver != RENOISING:
        hint = "Use 'ddim', or Guidance(cfgpp_weight(scale, h)) with any solver"
        raise PlanError(
            "solver", got=plan.solver, expected=f"one that renoises a clean estimate, for {guidance}", hint=hint
        )


def step_weights(plan: Plan, step: int, guidance: BranchWeights | None) -> dict[str, float]:
    """Branches that are evaluated in a step of the plan, with their weights, which sum to one."""
    if guidance is None:
        return {"cond": 1.0}
    return guidance.step_weights(plan.grid[step], plan.grid[step + 1], plan.interpolant)


class Lowering:
    """One traversal of the program."""

    def __init__(self, plan: Plan, prediction: Prediction, guidance: BranchWeights | None) -> None:
        self.plan, self.prediction, self.guidance = plan, prediction, guidance
        self.instructions: list[Instruction] = []
        self.registers = 1 + max((r for i in plan.instructions for r in (*reads(i), *writes(i))), default=0)
        self.latest: tuple[Evaluate, Prediction, Outputs] | None = None
        self.transformed: tuple[int, Register] | None = None

    def run(self) -> Plan:
        """The lowered plan."""
        for instruction in self.plan.instructions:
            match instruction:
                case Evaluate():
                    self.evaluate(instruction)
                case Boundary():
                    self.boundary(instruction)
                case Transform():
                    self.transformed = (instruction.step, instruction.out)
                    self.instructions.append(instruction)
                case _:
                    self.instructions.append(instruction)
        return self.plan.replace(instructions=tuple(self.instructions), stage="outputs")

    def new(self) -> Register:
        """A register that the program does not use yet."""
        self.registers += 1
        return self.registers - 1

    def define(self, value: Expression) -> Register:
        """A register that holds ``value``."""
        out = self.new()
        self.instructions.append(combine_of([out], [value]))
        return out

    def evaluate(self, evaluation: Evaluate) -> None:
        """One call of the network, then each quantity as a combination of the state and its outputs."""
        if evaluation.base is not None:
            return self.refine(evaluation, evaluation.base)
        weights = {} if self.prediction.heads else self.branch_weights(evaluation.step)
        raw = {branch: self.new() for branch in weights or self.heads_of(evaluation)}
        scale = self.prediction.input_scale(evaluation.time)
        state = Expression.register(evaluation.input)
        source = evaluation.input if scale == 1 else self.define(scale * state)
        asked = zip(evaluation.labels, evaluation.outs, strict=True)
        told = raw | {label: out for label, out in asked if label == VARIANCE}  # guided or not, it is what it is
        self.instructions.append(Evaluate(tuple(told.values()), tuple(told), source, evaluation.time, evaluation.step))
        outputs: Outputs = {head: Expression.register(raw[head]) for head in raw}
        if weights:
            outputs = {"": sum((weights[branch] * outputs[branch] for branch in raw), Expression({}))}
        self.define_quantities(evaluation, self.prediction, outputs)

    def refine(self, evaluation: Evaluate, base: Register) -> None:
        """One call of the refiner: the velocity is the earlier one plus the guided change, whatever is predicted."""
        if self.prediction.heads:
            raise PlanError("solver", got=self.plan.solver, expected="one without a refiner for a two-sided path")
        weights = self.branch_weights(evaluation.step)
        raw = {branch: self.new() for branch in weights}
        labels = tuple(refiner_branch(branch) for branch in raw)
        self.instructions.append(dataclasses.replace(evaluation, outs=tuple(raw.values()), labels=labels))
        change = sum((weights[branch] * Expression.register(raw[branch]) for branch in raw), Expression({}))
        velocity = make_prediction("velocity", self.plan.interpolant)
        self.define_quantities(evaluation, velocity, {"": Expression.register(base) + change})

    def define_quantities(self, evaluation: Evaluate, read: Prediction, outputs: Outputs) -> None:
        """What the evaluation was asked for, over the state and the outputs as ``read`` reads them."""
        self.latest = (evaluation, read, outputs)
        for out, quantity in zip(evaluation.outs, evaluation.labels, strict=True):
            if quantity == VARIANCE:
                continue
            self.instructions.append(combine_of([out], [self.quantity(quantity, evaluation, read, outputs)]))

    def quantity(self, name: str, evaluation: Evaluate, read: Prediction, outputs: Outputs) -> Expression:
        """The named quantity over the state and the guided output, or the heads."""
        if read.heads:
            shares = self.head_weights(name, evaluation.time)
            return sum((shares[head] * outputs[head] for head in shares), Expression({}))
        affine = read.quantity(name, evaluation.time)
        return affine.x * Expression.register(evaluation.input) + affine.output * outputs[""]

    def head_weights(self, name: str, time: float) -> dict[str, float]:
        """What multiplies each head in the quantity, for the heads that it needs."""
        weights = cast(TwoSidedPrediction, self.prediction).quantity(name, time).outputs
        return {head: w for head, w in zip(self.prediction.heads, weights, strict=True) if w != 0}

    def heads_of(self, evaluation: Evaluate) -> tuple[str, ...]:
        """The heads that the evaluation's quantities need: an ODE does not call the second."""
        needed = {head for label in evaluation.labels for head in self.head_weights(label, evaluation.time)}
        return tuple(head for head in self.prediction.heads if head in needed)

    def branch_weights(self, step: int) -> dict[str, float]:
        """Branches that are evaluated in this step, with their weights, which sum to one."""
        return step_weights(self.plan, step, self.guidance)

    def boundary(self, boundary: Boundary) -> None:
        """Add the clean estimate of the latest evaluation, which may be a step ago: a predictor-corrector ends so."""
        step = boundary.step if self.latest is None else self.latest[0].step
        self.instructions.append(
            Boundary(boundary.step, boundary.time, boundary.state, self.denoised(step), boundary.replaceable)
        )

    def denoised(self, step: int) -> Register | None:
        """The latest clean estimate of the step, if it has an evaluation and the network determines it there."""
        if self.transformed is not None and self.transformed[0] == step:
            return self.transformed[1]
        if self.latest is None or self.latest[0].step != step or self.prediction.heads:
            return None
        try:
            return self.define(self.quantity("denoised", *self.latest))
        except SingularTimeError:
            return None
