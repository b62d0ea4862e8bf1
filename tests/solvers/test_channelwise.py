"""Coefficients that differ by channel: a plan with them is the plans of its channels, to the bit."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import operator
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from runs import noise
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import pushforward as pf
from pushforward import models, solvers
from pushforward.errors import ArgumentError, PlanError, ShapeError
from pushforward.models import Guidance, Linear, VPLinear, prediction
from pushforward.solvers import Channelwise, Executor, FixedGridSolver, Plan, StepBuilder
from pushforward.solvers.interop.run import OutsideRun, Program
from pushforward.solvers.particles import Transitions
from pushforward.solvers.plan import Coefficient, chain, cut, evaluation_at_start
from pushforward.solvers.plan.channelwise import channels_of
from pushforward.solvers.plan.expression import Expression, combine_of
from pushforward.solvers.tokens.executor import one_step

GRID = (0.1, 0.3, 0.55, 0.9)
SHAPE = (2, 3, 4, 2)
KEEP, NEW, OLD = (Channelwise(row) for row in ([1.0, 0.7, -0.2], [1 / 3, 1.5, 0.9], [0.6, -0.45, 0.1 + 0.2]))


@dataclass(frozen=True)
class TwoStep(FixedGridSolver):
    """x' = keep x + h (new u + old u_last + spread z) in the velocity u, or without memory where ``old`` is 0."""

    keep: Coefficient
    new: Coefficient
    old: Coefficient
    spread: Coefficient = 0.0

    order, source = 1, "none"

    def step(self, s: StepBuilder) -> None:
        u = s.denoised(s.x, s.t) - s.noise_prediction(s.x, s.t)
        last = s.history(1) if s.index and self.old else s.x
        x = self.keep * s.x + s.h * (self.new * u + self.old * last)
        if self.spread:
            x = x + s.h * (self.spread * s.normal())
        s.advance(x, remember=u if self.old else None)

    def of_channel(self, c: int) -> TwoStep:
        """With the numbers of one channel."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return TwoStep(**{k: v.values[c] if isinstance(v, Channelwise) else v for k, v in values.items()})


SOLVER = TwoStep(KEEP, NEW, OLD)
CASES = {
    "velocity": ("velocity", Linear(), None, {}),
    "noise on VP": ("noise", VPLinear(), None, {}),
    "guided": ("velocity", Linear(), Guidance(2.5), {}),
    "observed": ("denoised", VPLinear(), Guidance(1.5), {"observe": True}),
    "replaced": ("noise", VPLinear(), None, {"replace": True}),
}


def network(x: Tensor, t: float, branches: Sequence[str]) -> list[Tensor]:
    """Elementwise, so that a channel of a run is the channel of a run with its numbers alone."""
    return [torch.sin((3 + b) * x) * (1 + t) - x / (1 + t + b) for b in range(len(branches))]


def planned(solver: FixedGridSolver, case: str = "velocity") -> Plan:
    kind, path, guidance, options = CASES[case]
    read = prediction(kind, path)
    return solvers.plan(solver, GRID, path, prediction=read).lower(read, guidance).optimise(**options)


def channel_by_channel(solver: TwoStep, x0: Tensor, case: str = "velocity", **options: Any) -> Tensor:
    """The channels of runs with their numbers."""
    plans = [planned(solver.of_channel(c), case) for c in range(x0.shape[1])]
    return torch.stack([Executor(p, x0, **options).run(network)[:, c] for c, p in enumerate(plans)], 1)


# --- runs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_a_run_is_the_runs_of_its_channels(case: str) -> None:
    """Same sums in the same order, so the same bits, of every dtype, on both backends."""
    plan = planned(SOLVER, case)
    for dtype, backend in ((torch.float32, "native"), (torch.float64, "native"), (torch.float64, "reference")):
        x0 = noise(*SHAPE, dtype=dtype)
        with pf.kernels.backend(backend):
            result = Executor(plan, x0).run(network)
            assert torch.equal(result, channel_by_channel(SOLVER, x0, case))
    assert len({float(result[:, c].std()) for c in range(3)}) == 3


def test_of_equal_numbers_it_is_the_plan_of_numbers() -> None:
    solver = TwoStep(0.9, 0.7, 0.4)
    repeated = TwoStep(*[Channelwise([w] * 3) for w in (0.9, 0.7, 0.4)])
    x0 = noise(2, 3)
    assert torch.equal(Executor(planned(repeated), x0).run(network), Executor(planned(solver), x0).run(network))
    assert planned(repeated) != planned(solver)


@pytest.mark.parametrize("spread", [0.8, Channelwise([0.8, 0.2, 1.1])])
def test_noise_is_that_of_the_whole_state(spread: Coefficient) -> None:
    solver, x0 = dataclasses.replace(SOLVER, spread=spread), noise(*SHAPE)
    result = Executor(planned(solver), x0, seed=5).run(network)
    assert torch.equal(result, channel_by_channel(solver, x0, seed=5))
    assert not torch.equal(result, Executor(planned(SOLVER), x0).run(network))


def test_strides_do_not_matter() -> None:
    def strided(x: Tensor, t: float, branches: Sequence[str]) -> list[Tensor]:
        return [out.transpose(2, 3).contiguous().transpose(2, 3) for out in network(x, t, branches)]

    x0, plan = noise(*SHAPE), planned(SOLVER)
    expected = Executor(plan, x0).run(network)
    assert torch.equal(Executor(plan, x0).run(strided), expected)
    assert torch.equal(Executor(plan, x0.to(memory_format=torch.channels_last)).run(network), expected)


def test_converted_plans() -> None:
    """A plan of the VP path for a network of the linear one, whose scalars merge with the channels' numbers."""
    read = prediction("velocity", Linear())

    def converted(solver: FixedGridSolver) -> Plan:
        return solvers.plan(solver, GRID, VPLinear()).on(Linear()).lower(read).optimise()

    x0 = noise(*SHAPE, dtype=torch.float64)
    result = Executor(converted(SOLVER), x0).run(network)
    for c in range(3):
        assert torch.equal(result[:, c], Executor(converted(SOLVER.of_channel(c)), x0).run(network)[:, c])


def test_every_number_moves_its_channel_alone() -> None:
    x0 = noise(*SHAPE, dtype=torch.float64)
    whole = Executor(planned(SOLVER), x0).run(network)
    for name in ("keep", "new", "old"):
        for c in range(3):
            values = list(getattr(SOLVER, name).values)
            values[c] *= 1.01
            mutant = dataclasses.replace(SOLVER, **{name: Channelwise(values)})
            moved = (Executor(planned(mutant), x0).run(network) != whole).flatten(2).any(2).all(0)
            assert moved.tolist() == [k == c for k in range(3)]


@pytest.mark.parametrize("checkpoint", [False, True])
def test_gradients(checkpoint: bool) -> None:
    """Of some forty sums of products in float64: a relative 40 eps. Kept tables must not be of inference mode."""
    solver = dataclasses.replace(SOLVER, keep=Channelwise([0.5 + checkpoint, 0.4, 0.3]))
    x0, weights = noise(*SHAPE, dtype=torch.float64), noise(*SHAPE, dtype=torch.float64, seed=1)
    with torch.inference_mode():
        expected = Executor(planned(solver), x0).run(network)
    start = x0.clone().requires_grad_()
    result = Executor(planned(solver), start, differentiable=True).run(network, checkpoint=checkpoint)
    (found,) = torch.autograd.grad((result * weights).sum(), start)
    assert torch.equal(result, expected)
    for c in range(3):
        scalar = Executor(planned(solver.of_channel(c)), start, differentiable=True).run(network)
        (gradient,) = torch.autograd.grad((scalar * weights)[:, c].sum(), start)
        assert (found - gradient)[:, c].abs().max() <= 40 * torch.finfo(torch.float64).eps * gradient.abs().max()


def test_fake_tensors_leave_nothing_behind() -> None:
    plan = planned(dataclasses.replace(SOLVER, keep=Channelwise([0.9, 0.8, 0.7])))
    with FakeTensorMode():
        shape = Executor(plan, torch.empty(SHAPE), check="off", differentiable=True).run(network).shape
    assert Executor(plan, noise(*SHAPE)).run(network).shape == shape == SHAPE


# --- other drivers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spread", [0.0, 0.5])
def test_driven_from_outside(spread: float) -> None:
    """As the diffusers drop-in does."""
    plan = planned(dataclasses.replace(SOLVER, spread=spread))
    program, ids, x0 = Program.of(plan), torch.arange(2), noise(*SHAPE)
    run, x = OutsideRun(copy.deepcopy(program), x0, cast(Any, None), samples=ids), x0
    for evaluation in plan.evaluations:
        x = run.advance(network(x, evaluation.time, ("cond",))[0], x)
    assert torch.equal(x, Executor(plan, x0, samples=ids).run(network))
    with pytest.raises(ShapeError, match=r"sample: got \[2, 4\], expected \[B, 3, \*D\]"):
        OutsideRun(program, noise(2, 4), cast(Any, None))


def test_compiled_plans() -> None:
    model = models.adapt(lambda x, t: network(x, float(t[0]), ("cond",))[0])
    plan = planned(SOLVER)
    x0 = noise(*SHAPE)
    expected = Executor(plan, x0).run(model.bind().evaluate)
    assert torch.equal(plan.compile(model, SHAPE, backend="eager")(x0), expected)
    with pytest.raises(ShapeError, match=r"shape: got \[2, 4, 2\], expected \[B, 3, \*D\]"):
        plan.compile(model, (2, 4, 2), backend="eager")


def test_particles_take_such_steps_one_by_one() -> None:
    read = prediction("velocity", Linear())
    plan = solvers.plan(TwoStep(KEEP, NEW, 0.0), GRID).lower(read)
    x0 = x = noise(*SHAPE, dtype=torch.float64)
    for part in cut(plan):
        x = Executor(part.optimise(), x).run(network)
    # The state is rounded once more where a step ends: some thirty roundings in float64, of errors that sin(3x) and
    # the steps may treble.
    whole = Executor(plan.optimise(), x0).run(network)
    assert (x - whole).abs().max() <= 100 * torch.finfo(torch.float64).eps * whole.abs().max()
    assert [step.stochastic for step in Transitions.of(plan, read)] == [False] * 3
    with pytest.raises(PlanError, match="differ by channel"):
        Transitions.of(plan, read).gaussian("this")


def test_another_state_than_the_start_is_no_multiple_of_it() -> None:
    class Away(TwoStep):
        def step(self, s: StepBuilder) -> None:
            s.advance(s.x + s.h * s.velocity(self.keep * s.x, s.t))

    for keep, scale in ((KEEP, None), (0.5, 0.5)):
        start = evaluation_at_start(solvers.plan(Away(keep, 0.0, 0.0), GRID).lower(prediction("velocity", Linear())))
        assert (start and start.scale) == scale


def test_drivers_of_numbers_refuse_them() -> None:
    plan = solvers.plan(SOLVER, GRID).lower(prediction("velocity", Linear()))
    with pytest.raises(PlanError, match="differ by channel, expected one number for all, for a chain"):
        chain(plan)
    with pytest.raises(PlanError, match="for a grid for each token"):
        one_step(TwoStep(KEEP, NEW, 0.0), 0.2, 0.4, prediction("velocity", Linear()), None)


# --- plans -----------------------------------------------------------------------------------------------------


def test_json_keeps_every_bit() -> None:
    for case in CASES:
        plan = planned(SOLVER, case)
        text = plan.to_json()
        again = Plan.from_json(text)
        assert again == plan
        assert hash(again) == hash(plan)
        assert again.to_json() == text
        assert again.channels == 3
    assert json.loads(text)["format"] == "pushforward-plan/2"
    scalar = planned(SOLVER.of_channel(0)).to_json()
    assert json.loads(scalar)["format"] == "pushforward-plan/1"
    assert Plan.from_json(scalar).channels is None


@pytest.mark.parametrize("channels", ["[1, 2]", "[1e999, 1, 1]", '["a", 1, 1]', "[]", "3"])
def test_json_that_is_no_plan(channels: str) -> None:
    text = planned(SOLVER).to_json().replace('{"channels": [', f'{{"channels": {channels}, "was": [', 1)
    with pytest.raises(PlanError, match=r"channels|coefficient"):
        Plan.from_json(text)


def test_a_plan_costs_the_same_and_prints_its_numbers() -> None:
    plan, scalar = planned(SOLVER), planned(SOLVER.of_channel(1))
    assert plan.cost(SHAPE) == scalar.cost(SHAPE)
    assert str(Channelwise(range(64))) == "[0, 1, 2, 3, ... 64 channels]"
    noisy = str(solvers.plan(TwoStep(KEEP, 0.0, 0.0, Channelwise([1.0, -2.0, 4.0])), (0.0, 0.25)))
    assert "r3 = [1, 0.7, -0.2] r0 + [0.25, -0.5, 1] normal(1, 0, 0, 0)" in noisy


def test_a_state_without_the_channels_is_refused() -> None:
    plan = planned(SOLVER)
    for shape in ((2,), (2, 4), (3, 2, 5)):
        expected = rf"x0: got \[{', '.join(map(str, shape))}\], expected \[B, 3, \*D\]: coefficients of TwoStep"
        with pytest.raises(ShapeError, match=expected):
            Executor(plan, noise(*shape))


def test_gradients_of_noise_alone_are_refused_as_ever() -> None:
    """A combination without tensors has no shape where it allocates its results."""
    for spread in (1.0, Channelwise([1.0, 2.0, 3.0])):
        plan = planned(TwoStep(0.0, 0.0, 0.0, spread))
        with pytest.raises(ArgumentError, match="inputs: got none"):
            Executor(plan, noise(*SHAPE), differentiable=True).run(network)
    whole = Executor(plan, noise(*SHAPE), seed=1).run(network)
    assert torch.equal(whole, channel_by_channel(TwoStep(0.0, 0.0, 0.0, spread), noise(*SHAPE), seed=1))


def test_a_plan_is_for_one_number_of_channels() -> None:
    halves = [combine_of([r], [Expression({0: Channelwise([0.5] * (r + 1))})]) for r in (1, 2)]
    with pytest.raises(ShapeError, match=r"channels: got \[2, 3\]"):
        Plan("two", Linear(), (0.0, 1.0), tuple(halves), 0, 2)
    assert channels_of(halves[0].matrix) == 2


# --- numbers ---------------------------------------------------------------------------------------------------

numbers = st.floats(-1e6, 1e6).map(lambda w: round(w, 6) + 0.0)
OPERATIONS = [operator.add, operator.sub, operator.mul, operator.truediv]


@given(a=st.lists(numbers, min_size=1, max_size=4), data=st.data(), operation=st.sampled_from(OPERATIONS))
def test_arithmetic_is_that_of_numbers(a: list[float], data: st.DataObject, operation: Any) -> None:
    b = data.draw(st.lists(numbers, min_size=len(a), max_size=len(a)))
    for other, each in ((Channelwise(b), b), (b[0], [b[0]] * len(a)), (np.float64(b[0]), [b[0]] * len(a))):
        for flipped in (False, True):
            left, right = (other, Channelwise(a)) if flipped else (Channelwise(a), other)
            pairs = list(zip(each, a, strict=True) if flipped else zip(a, each, strict=True))
            if operation is operator.truediv and any(divisor == 0 for _, divisor in pairs):
                with pytest.raises(ZeroDivisionError):
                    operation(left, right)
            else:
                result = operation(left, right)
                assert isinstance(result, Channelwise)
                assert result.values == tuple(operation(float(x), float(y)) for x, y in pairs)
    negative = -Channelwise(a)
    assert -negative == Channelwise(a) == 1 * Channelwise(a)


def test_a_coefficient_equals_its_like_alone() -> None:
    a = Channelwise([0.5, 0.0])
    assert a == Channelwise((0.5, 0))
    assert hash(a) == hash(Channelwise([0.5, -0.0]))
    assert a != 0.5
    assert Channelwise([0.5]) != 0.5
    assert Channelwise([1.0, 1.0]) != Channelwise([1.0, 1.0, 1.0])
    assert a
    assert not Channelwise([0.0, -0.0])
    assert (a - a) * Expression.register(0) == Expression({})
    assert math.copysign(1, Channelwise([-0.0]).values[0]) == 1
    for again in (pickle.loads(pickle.dumps(a)), copy.deepcopy(a), eval(repr(a))):
        assert again == a
    with pytest.raises(dataclasses.FrozenInstanceError):
        a.values = (1.0,)
    for wrong in (float, len, iter, abs):
        with pytest.raises(TypeError):
            wrong(a)  # no number, and no sequence: nothing broadcasts it


def test_bad_numbers_are_named() -> None:
    with pytest.raises(ShapeError, match="channels: got 3, expected 2, as in the other coefficient"):
        Channelwise([1.0, 2.0]) + Channelwise([1.0, 2.0, 3.0])
    with pytest.raises(ArgumentError, match="coefficient: got inf in channel 1"):
        Channelwise([1.0, 1e300]) * 1e300
    with pytest.raises(ArgumentError, match="coefficient: got nan in channel 0"):
        Channelwise([math.nan])
    for values in ([], ["a"], 3.0):
        with pytest.raises(ArgumentError, match="channels: got"):
            Channelwise(cast(Any, values))
