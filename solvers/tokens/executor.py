"""Runs a solver with a time for each token: every combination has a row of coefficients for each grid that differs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ... import kernels
from ...errors import ArgumentError, NotFiniteError, PlanError
from ...kernels.arguments import check_same
from ...models import BranchWeights, Prediction
from ..lowered import lowered_plan
from ..plan import Combine, Evaluate, Plan, Register
from ..plan.instructions import Instruction, writes
from ..solver import FixedGridSolver
from .times import TokenGrid, check_tokens

EvaluateTokens: TypeAlias = Callable[[Tensor, NDArray[np.float64], tuple[str, ...]], Sequence[Tensor]]
"""``evaluate(input, times [N], branches)`` returns one raw output for each branch."""


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """A network evaluation that the executor waits for.

    Attributes:
        input: What to feed the network, already scaled token by token.
        times: Solver times of the tokens, [N].
        branches: Guidance branches to evaluate.
        step: Which step.
    """

    input: Tensor
    times: NDArray[np.float64]
    branches: tuple[str, ...]
    step: int


class TokenExecutor:
    r"""One run in which each token goes over a grid of its own. Iterate over it and answer each request.

    A step of a token is the step of the solver between its two times: the coefficients are those of the solver's plan
    for that interval, and `combine` takes them by token. So uniform grids give the bits of the ordinary executor, and
    tokens that do not see each other those of separate runs. A token whose time stays keeps its state exactly; one
    that has moved and will move again is shown to the network where it would be,

    .. math:: x_i + (\tau - t_i) v_i

    at the latest time :math:`\tau` of those that move, with its last velocity (``extrapolate``): tokens that differ in
    time by steps of size h cost an error of order h either way, but a smaller one so. Given tokens (t = 1 from the
    start) and finished ones are shown as they are, at their own time.

    A step to a singular end that needs less than others has zeros for what it does not need.

    Args:
        solver: Deterministic and without a memory of earlier steps: "euler", "heun", "ddim" and others.
        grid: Times of the tokens.
        x0: State at the first times, [B, *D]; never written to.
        tokens: Token of each element of the state, int64, with extents that are the state's or 1: [1, N, 1] for
            states [B, N, C], :func:`patch_tokens` for images.
        prediction: What the network returns.
        guidance: Weights of its branches. Branches must be the same for all tokens that move in a step.
        extrapolate: See above.

    Attributes:
        result: The state at the last times, once the iteration has ended.

    Raises:
        PlanError: A solver with noise or memory; intervals whose programs differ.
        ShapeError, ArgumentError: Tokens that do not fit.

    Source:
        Times by token: Chen et al. 2024, Diffusion Forcing; the extrapolation is that of Liu et al. 2025 (RAS).

    Example:
        >>> from pushforward.models import Linear, prediction
        >>> from pushforward.solvers import solver
        >>> grid = TokenGrid([[0.0, 0.0], [0.5, 0.0], [1.0, 1.0]])
        >>> tokens = torch.tensor([[0, 1]])
        >>> run = TokenExecutor(solver("euler"), grid, torch.zeros(1, 2), tokens, prediction("velocity", Linear()))
        >>> run.run(lambda x, times, branches: [torch.ones_like(x)])
        tensor([[1., 1.]])
    """

    def __init__(
        self,
        solver: FixedGridSolver,
        grid: TokenGrid,
        x0: Tensor,
        tokens: Tensor,
        prediction: Prediction,
        guidance: BranchWeights | None = None,
        *,
        extrapolate: bool = True,
    ) -> None:
        if solver.stochastic or solver.starting_steps:
            got = f"{solver}, which {'draws noise' if solver.stochastic else 'remembers earlier steps'}"
            raise PlanError(
                "solver", got=got, expected="a deterministic one whose steps stand alone: euler, heun, ddim"
            )
        if solver.times_on(prediction.interpolant) is not None:
            got = f"{solver}, which has a grid of its own"
            raise PlanError("solver", got=got, expected="one for any grid, as tokens have theirs: euler, heun, ddim")
        self.solver, self.grid, self.prediction, self.guidance = solver, grid, prediction, guidance
        self.columns, self.which = grid.groups
        groups = torch.from_numpy(self.which).to(x0.device)
        self.groups = groups[check_tokens(tokens, grid, x0)]
        self.extrapolate = extrapolate
        self.result = x0
        self._pending = self._started = False
        self._answer: tuple[Tensor, ...] = ()
        self._program = self._steps(x0)

    def __iter__(self) -> Iterator[TokenRequest]:
        return self

    def __next__(self) -> TokenRequest:
        if self._pending:
            raise PlanError("executor", got="a request for the next evaluation", expected="supply() for the last first")
        request = self._program.send(self._answer) if self._started else next(self._program)
        self._pending = self._started = True
        return request

    def supply(self, outputs: Sequence[Tensor]) -> None:
        """Answer the pending request: one output for each of its branches, of the state's shape and dtype."""
        if not self._pending:
            raise PlanError("executor", got="an output", expected="a pending request: iterate first")
        for output in outputs:
            check_same("network output", [output], self.result, "the state")
        self._pending, self._answer = False, tuple(outputs)

    def run(self, evaluate: EvaluateTokens) -> Tensor:
        """Drive the run with ``evaluate(input, times, branches) -> outputs`` and return the result."""
        for request in self:
            self.supply(evaluate(request.input, request.times, request.branches))
        return self.result

    # --- the program -------------------------------------------------------------------------------------------

    def _steps(self, x: Tensor) -> Generator[TokenRequest, tuple[Tensor, ...], None]:
        """All steps; the state goes to ``result`` after each."""
        held = self.extrapolate and bool((np.diff(self.columns, axis=0) == 0).any())
        last = Velocities(torch.zeros_like(x), np.zeros(self.columns.shape[1], dtype=bool)) if held else None
        for step in range(self.grid.steps):
            plans = self._plans(step)
            if plans:
                x = yield from self._step(step, plans, x, last)
                self.result = x
        if not bool(x.isfinite().all()):
            raise NotFiniteError("result", got="NaN or infinity", expected="finite numbers")

    def _plans(self, step: int) -> dict[int, Plan]:
        """The program of each group that moves, all of one structure."""
        now, then = self.columns[step], self.columns[step + 1]
        plans = {
            int(g): one_step(self.solver, float(now[g]), float(then[g]), self.prediction, self.guidance)
            for g in np.flatnonzero(now != then)
        }
        combines = zip(
            *([i for i in plan.instructions if isinstance(i, Combine)] for plan in plans.values()), strict=False
        )
        if len({structure(plan) for plan in plans.values()}) > 1 or not all(
            common_inputs([combine.inputs for combine in each]) for each in combines
        ):
            times = [plan.grid for plan in plans.values()]
            expected = "steps that are the same but for their coefficients"
            hint = "Guidance that acts on some of the tokens, or a singular last step of some, cannot be merged"
            raise PlanError(f"step {step}", got=f"steps that differ, over {times}", expected=expected, hint=hint)
        return plans

    def _step(
        self, step: int, plans: dict[int, Plan], x: Tensor, last: Velocities | None
    ) -> Generator[TokenRequest, tuple[Tensor, ...], Tensor]:
        """One step of the groups that move; the others keep their state."""
        first = next(iter(plans.values()))
        values: dict[Register, Tensor] = {0: x}
        observed = False
        for position, instruction in enumerate(first.instructions):
            each = {g: plan.instructions[position] for g, plan in plans.items()}
            if isinstance(instruction, Evaluate):
                times = self.columns[step].copy()
                times[list(each)] = [evaluate.time for evaluate in each.values()]  # type: ignore[union-attr]
                shown, told = self._shown(step, each, values[instruction.input], times, last)
                outputs = yield TokenRequest(shown, told[self.which], instruction.labels, step)
                if len(outputs) != len(instruction.outs):
                    got = f"{len(outputs)} tensors"
                    raise ArgumentError("outputs", got=got, expected=f"one for each of {instruction.labels}")
                values.update(zip(instruction.outs, outputs, strict=True))
                if last is not None and not observed:
                    self._observe(step, each, x, outputs, instruction.labels, last)
                    observed = True
            elif isinstance(instruction, Combine):
                self._combine(cast("dict[int, Combine]", each), values)
        return values[first.result]

    def _combine(self, each: dict[int, Combine], values: dict[Register, Tensor]) -> None:
        """A row of the matrix for each group; a group that does not move has the state at the start for any output."""
        inputs = common_inputs([combine.inputs for combine in each.values()]) or ()
        groups, outs = self.columns.shape[1], next(iter(each.values())).outs
        if len(each) < groups and 0 not in inputs:
            inputs = (*inputs, 0)
        matrix = torch.zeros(groups, len(outs), len(inputs), dtype=torch.float64)
        for group in range(groups):
            if group in each:
                columns = [inputs.index(register) for register in each[group].inputs]
                matrix[group, :, columns] = torch.tensor(each[group].matrix, dtype=torch.float64)
            else:
                matrix[group, :, inputs.index(0)] = 1.0
        results = kernels.combine([values[register] for register in inputs], matrix, groups=self.groups)
        values.update(zip(outs, results, strict=True))

    def _shown(
        self, step: int, moving: Collection[int], given: Tensor, times: NDArray[np.float64], last: Velocities | None
    ) -> tuple[Tensor, NDArray[np.float64]]:
        """What the network sees, and when: groups that wait where they would be by now, or where they are."""
        now = self.columns[step]
        waiting = [g for g in range(len(now)) if g not in moving]
        if not waiting:
            return given, times
        forward = self.columns[-1].sum() >= self.columns[0].sum()
        latest = (max if forward else min)(float(times[g]) for g in moving)
        weights = torch.tensor([[1.0, 0.0]], dtype=torch.float64).repeat(len(now), 1)
        for g in waiting:
            ahead = last is not None and bool(last.known[g]) and bool((self.columns[step:, g] != now[g]).any())
            told = latest if ahead else float(now[g])
            scale, times[g] = self.prediction.input_scale(told), told
            weights[g] = torch.tensor([scale, scale * (told - now[g]) if ahead else 0.0], dtype=torch.float64)
        if last is None and bool((weights[:, 0] == 1).all()):
            return given, times
        velocity = given if last is None else last.value
        return self._weighted([given, velocity], weights), times

    def _observe(
        self,
        step: int,
        moving: Collection[int],
        x: Tensor,
        outputs: Sequence[Tensor],
        labels: tuple[str, ...],
        last: Velocities,
    ) -> None:
        """Remember the velocities of the groups that move."""
        weights = torch.zeros(len(self.columns[step]), 2 + len(outputs), dtype=torch.float64)
        weights[:, 0] = 1.0
        for g in moving:
            t = float(self.columns[step, g])
            affine = self.prediction.velocity(t)
            share = {"cond": 1.0} if self.guidance is None else self.guidance.weights_at(t, self.prediction.interpolant)
            parts = [affine.output * share.get(label, 0.0) for label in labels]
            weights[g] = torch.tensor([0.0, affine.x, *parts], dtype=torch.float64)
            last.known[g] = True
        last.value = self._weighted([last.value, x, *outputs], weights)

    def _weighted(self, tensors: Sequence[Tensor], weights: Tensor) -> Tensor:
        """One sum, with a row of weights for each group."""
        return cast(Tensor, kernels.combine(tensors, weights, groups=self.groups))


@dataclass(slots=True)
class Velocities:
    """The last velocity of each token, and of which groups one is known."""

    value: Tensor
    known: NDArray[np.bool_]


@lru_cache(maxsize=4096)
def one_step(
    solver: FixedGridSolver, t: float, t_next: float, prediction: Prediction, guidance: BranchWeights | None
) -> Plan:
    """The program of one step; kept, since tokens of a wave all take the same ones."""
    plan = lowered_plan(solver, (t, t_next), prediction.interpolant, prediction, guidance)
    plan.check_one_number("a grid for each token")
    return renumbered(plan.optimise())


def renumbered(plan: Plan) -> Plan:
    """The plan with registers in the order in which they are written, so that programs can be compared."""
    names = {plan.start: 0}
    instructions: list[Instruction] = []
    for instruction in plan.instructions:
        names.update({register: len(names) + k for k, register in enumerate(writes(instruction))})
        if isinstance(instruction, Evaluate):
            outs = tuple(names[register] for register in instruction.outs)
            instructions.append(dataclasses.replace(instruction, outs=outs, input=names[instruction.input]))
        elif isinstance(instruction, Combine):
            outs, inputs = (tuple(names[r] for r in registers) for registers in (instruction.outs, instruction.inputs))
            instructions.append(dataclasses.replace(instruction, outs=outs, inputs=inputs))
    return plan.replace(instructions=tuple(instructions), start=0, result=names[plan.result], buffers=())


def structure(plan: Plan) -> tuple[object, ...]:
    """What programs must share to be run as one: everything but coefficients, times and what has no coefficient."""
    return tuple(
        ("evaluate", i.outs, i.input, i.labels) if isinstance(i, Evaluate) else ("combine", writes(i))
        for i in plan.instructions
    )


def common_inputs(each: Sequence[tuple[Register, ...]]) -> tuple[Register, ...] | None:
    """The longest of some sequences if the others are parts of it, in order: sums then keep theirs. None if not.

    Example:
        >>> common_inputs([(0, 3), (3,)]), common_inputs([(0, 3), (3, 0)])
        ((0, 3), None)
    """
    longest = max(each, key=len)
    for inputs in each:
        rest = iter(longest)
        if not all(register in rest for register in inputs):
            return None
    return longest
