from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pushforward import models, solvers
from pushforward.errors import ArgumentError, PlanError, SingularTimeError, UnknownNameError
from pushforward.kernels import Draw
from pushforward.models import Linear, prediction
from pushforward.solvers import Expression, Plan
from pushforward.solvers.plan import Boundary, Combine, Evaluate
from pushforward.solvers.plan.chain import chain
from pushforward.solvers.plan.expression import combine_of, expressions

GRID = [0.1 + 0.1 * i for i in range(9)]
ALL = dict(solvers.solvers())
ONE_EVALUATION = (
    "euler ab2 ab3 ab4 pseudo_corrector ddim euler_maruyama dpmpp_2m dpmpp_3m_exact dpm_solver_2m dpm_blocks unipc "
    "unipc3 deis_tab3 lms plms"
).split()
STAGES = {
    2: "midpoint heun ralston stochastic_heun abm2 abm3 abm4 dpm_solver2 dpmpp_2s edm_heun dpm2",
    3: "kutta3 ssprk3 dpm_solver3 dpmpp_3s",
    4: "rk4 rk38",
}
KINDS = ["velocity", "denoised", "noise", "score", "v", "edm"]


def interpret(plan: Plan, start: float) -> float:
    """The plan on numbers: evaluations are sin(x + t) and cos(x - t), draws a number made from their key."""
    values = {plan.start: start}
    for instruction in plan.instructions:
        if isinstance(instruction, Evaluate):
            x, t = values[instruction.input], instruction.time
            for out, label in zip(instruction.outs, instruction.labels, strict=True):
                values[out] = math.cos(x - t) if label == "null" else math.sin(x + t)
        elif isinstance(instruction, Combine):
            results = [
                sum(
                    w * values[a] if isinstance(a, int) else w * (hash(tuple(a)) % 97 - 48) / 48
                    for a, w in e.terms.items()
                )
                for e in expressions(instruction)
            ]
            values.update(zip(instruction.outs, results, strict=True))
    return values[plan.result]


def lowered(
    name: str, kind: str = "velocity", guidance: models.Guidance | None = None, grid: list[float] = GRID
) -> Plan:
    read = prediction(kind, Linear())
    return solvers.plan(ALL[name], grid, Linear(), prediction=read).lower(read, guidance)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ALL)
def test_optimisation_does_not_change_results(name: str, kind: str) -> None:
    for guidance in (None, models.Guidance(3.0, interval=(0.25, 0.65))):
        plan = lowered(name, kind, guidance)
        exact = interpret(plan, 0.7)
        for options in ({}, {"observe": True}, {"replace": True}):
            assert interpret(plan.optimise(**options), 0.7) == pytest.approx(exact, rel=1e-11, abs=1e-11)


@pytest.mark.parametrize("name", ONE_EVALUATION)
@pytest.mark.parametrize("kind", KINDS)
def test_one_pass_a_step_for_one_evaluation_solvers(name: str, kind: str) -> None:
    """Whatever the prediction and however it is guided; EDM's scaled network input is a second output of that pass."""
    for guidance in (None, models.Guidance(2.0)):
        plan = lowered(name, kind, guidance).optimise()
        starting = plan.nfe - plan.steps  # Runge-Kutta starts, or the pseudo-corrector's first velocity
        scales_input = kind == "edm"  # the very first input is scaled before any step
        assert plan.cost().passes == plan.steps + starting + scales_input


@pytest.mark.parametrize(("name", "stages"), [(name, n) for n, names in STAGES.items() for name in names.split()])
def test_as_many_passes_as_stages(name: str, stages: int) -> None:
    for kind in ("velocity", "denoised"):
        plan = lowered(name, kind).optimise()
        assert plan.cost().passes == plan.nfe
        assert plan.nfe == plan.steps * stages or name.startswith("abm")  # they start with Runge-Kutta steps


def test_guidance_costs_no_pass_and_one_more_read() -> None:
    plain, guided = lowered("heun").optimise().cost(), lowered("heun", guidance=models.Guidance(2.0)).optimise().cost()
    assert plain.passes == guided.passes
    assert plain.network_calls == guided.network_calls == 16
    assert guided.forward_passes == 2 * plain.forward_passes


BUFFERS = {"euler": 1, "ddim": 1, "euler_maruyama": 1, "heun": 2, "rk4": 2, "ab2": 1, "pseudo_corrector": 2}


@pytest.mark.parametrize(("name", "buffers"), BUFFERS.items())
def test_buffers(name: str, buffers: int) -> None:
    cost = lowered(name).optimise().cost((2, 3), None)
    assert cost.buffers == buffers
    assert cost.state_bytes == 24
    assert str(buffers) in str(cost)


def test_bytes_moved_are_counted() -> None:
    cost = lowered("euler").optimise().cost((8, 16))
    assert cost.bytes_moved == 8 * (2 + 1) * 8 * 16 * 4  # read x and v, write x, eight times


@pytest.mark.parametrize("name", ALL)
def test_json_round_trip_is_exact(name: str) -> None:
    plain = solvers.plan(ALL[name], GRID)
    for plan in (plain, plain.lower(prediction("velocity", Linear())), lowered(name).optimise(observe=True)):
        again = Plan.from_json(plan.to_json())
        assert again == plan
        assert hash(again) == hash(plan)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "other"}', '{"format": "pushforward-plan/1"}'])
def test_json_that_is_no_plan_is_refused(text: str) -> None:
    with pytest.raises(PlanError, match="plan"):
        Plan.from_json(text)


def test_tampered_json_is_refused() -> None:
    fields = json.loads(lowered("euler").to_json())
    fields["instructions"][1]["inputs"] = [99, 98]
    with pytest.raises(PlanError, match="before it is written"):
        Plan.from_json(json.dumps(fields))
    fields = json.loads(lowered("heun").optimise().to_json())
    next(i for i in fields["instructions"] if i["kind"] == "combine")["matrix"][0].append(1.0)
    with pytest.raises(PlanError, match="rows of"):
        Plan.from_json(json.dumps(fields))


@pytest.mark.parametrize("name", [name for name, solver in ALL.items() if solver.stochastic])
def test_constant_clean_estimates_are_followed_exactly(name: str) -> None:
    """With D = y everywhere, a state without noise stays without noise: x = alpha y, but for what the step adds."""
    plan = solvers.plan(ALL[name], GRID)
    values = {plan.start: GRID[0]}  # coefficients of y
    for instruction in plan.instructions:
        if isinstance(instruction, Evaluate):
            t = instruction.time
            noise = (values[instruction.input] - t) / (1 - t)
            quantities = {"denoised": 1.0, "noise": noise, "velocity": 1 - noise, "score": -noise / (1 - t)}
            values.update(zip(instruction.outs, (quantities[label] for label in instruction.labels), strict=True))
        elif isinstance(instruction, Combine):
            for out, row in zip(instruction.outs, instruction.matrix, strict=True):
                values[out] = sum(w * values[r] for w, r in zip(row, instruction.inputs, strict=True))
    assert values[plan.result] == pytest.approx(GRID[-1], abs=1e-13)


@pytest.mark.parametrize("name", [name for name, solver in ALL.items() if not solver.stochastic])
def test_weights_are_consistent(name: str) -> None:
    """A constant velocity moves the state by the length of the grid: the weights of the outputs sum to it."""
    plan = solvers.plan(ALL[name], GRID)
    values = {plan.start: np.array([1.0, 0.0])}  # coefficients of the start and of the velocity
    for instruction in plan.instructions:
        if isinstance(instruction, Evaluate):
            t = instruction.time
            point = values[instruction.input]
            quantities = {
                "velocity": np.array([0.0, 1.0]),
                "denoised": point + np.array([0.0, 1 - t]),
                "noise": point - np.array([0.0, t]),
            }
            values.update(zip(instruction.outs, (quantities[label] for label in instruction.labels), strict=True))
        elif isinstance(instruction, Combine):
            for out, row in zip(instruction.outs, instruction.matrix, strict=True):
                values[out] = sum(w * values[r] for w, r in zip(row, instruction.inputs, strict=True))
    assert values[plan.result] == pytest.approx([1.0, GRID[-1] - GRID[0]], abs=1e-13)


def test_listing_shows_the_program() -> None:
    text = str(lowered("heun", grid=[0.0, 1.0]).optimise())
    assert "heun: 1 steps from t = 0 to 1 on linear" in text
    assert "0.5" in text
    assert "2 network calls, 2 passes" in text
    stochastic = str(solvers.plan(solvers.solver("euler_maruyama"), [0.1, 0.2, 0.3]))
    assert "normal(" in stochastic


# --- ends ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ALL)
def test_every_solver_ends_at_the_data_with_every_prediction(name: str, kind: str) -> None:
    grid = [0.1, 0.4, 0.7, 0.9, 1.0]
    plan = lowered(name, kind, grid=grid).optimise()
    assert math.isfinite(interpret(plan, 0.3))
    assert all(e.time < 1 for e in plan.evaluations) or kind == "velocity"


def test_the_plan_records_its_closing_step() -> None:
    denoised = solvers.plan(ALL["heun"], [0.5, 1.0], prediction=prediction("denoised", Linear()))
    assert any("clean estimate" in note for note in denoised.notes)
    assert denoised.nfe == 1
    assert solvers.plan(ALL["heun"], [0.5, 1.0]).notes == ()
    assert solvers.plan(ALL["heun"], [0.5, 1.0], last_step="denoise").nfe == 1
    with pytest.raises(SingularTimeError):
        solvers.plan(ALL["heun"], [0.5, 1.0], prediction=prediction("denoised", Linear()), last_step="solver")


@pytest.mark.parametrize("kind", ["noise", "score"])
def test_a_noise_network_is_never_called_where_alpha_vanishes(kind: str) -> None:
    with pytest.raises(SingularTimeError, match="t: got 0"):
        solvers.plan(ALL["euler"], [0.0, 0.5, 1.0], prediction=prediction(kind, Linear()))
    backward = solvers.plan(ALL["heun"], [0.9, 0.5, 0.0], prediction=prediction(kind, Linear()))
    assert min(e.time for e in backward.evaluations) == 0.5
    assert any("clean estimate" in note for note in backward.notes)


# --- errors ----------------------------------------------------------------------------------------------------


def test_what_steps_carry_besides_the_state() -> None:
    for name in "euler ddim euler_maruyama dpmpp_2m dpm_solver_2m deis_tab3 lms".split():
        plan = lowered(name)
        remembers = any(link.first < index for index, link in enumerate(chain(plan)))
        assert [bool(p.carried) for p in (plan, plan.optimise(), plan.optimise(replace=True))] == [remembers] * 3, name
    for name in " ".join(STAGES.values()).split():
        expected = int(name[3:]) - 1 if name.startswith("abm") else 0
        assert lowered(name).optimise().carried == expected, name
    with pytest.raises(PlanError, match="a lowered plan"):
        _ = solvers.plan(ALL["euler"], GRID, Linear()).carried


def test_stages_come_in_order() -> None:
    plan = solvers.plan(ALL["euler"], GRID)
    with pytest.raises(PlanError, match="call lower"):
        plan.optimise()
    low = plan.lower(prediction("velocity", Linear()))
    with pytest.raises(PlanError, match="lowered once"):
        low.lower(prediction("velocity", Linear()))
    with pytest.raises(PlanError, match="optimise\\(\\) once"):
        low.optimise().optimise()
    with pytest.raises(PlanError, match=r"prediction\.interpolant"):
        plan.lower(prediction("velocity", models.VPLinear()))


def test_unknown_solvers_and_options_are_named() -> None:
    with pytest.raises(UnknownNameError, match=r"got 'eular', expected one of .*euler"):
        solvers.solver("eular")
    with pytest.raises(ArgumentError, match="'etta'"):
        solvers.solver("ddim", etta=1)
    with pytest.raises(ArgumentError, match="eta: got 2"):
        solvers.solver("ddim", eta=2)
    with pytest.raises(ArgumentError, match="order"):
        solvers.ode.AdamsBashforth(order=5)
    with pytest.raises(ArgumentError, match="terminal"):
        solvers.solver("pseudo_corrector", terminal="never")
    with pytest.raises(UnknownNameError, match="diffusion"):
        solvers.solver("euler_maruyama", diffusion="sgima")
    with pytest.raises(ArgumentError, match="scale"):
        solvers.solver("euler_maruyama", diffusion=-1.0)


def test_solvers_print_their_options() -> None:
    assert str(solvers.solver("ddim", eta=0.5)) == "ddim(eta=0.5)"
    assert str(solvers.solver("ab3")) == "ab3"
    assert solvers.ode.AdamsBashforth(order=4).name == "ab4"


def test_a_step_must_advance_once() -> None:
    class Idle(solvers.FixedGridSolver):
        order, source = 1, "none"

        def step(self, s: solvers.StepBuilder) -> None:
            s.velocity(s.x, s.t)

    class Twice(Idle):
        def step(self, s: solvers.StepBuilder) -> None:
            s.advance(s.x)
            s.advance(s.x)

    with pytest.raises(PlanError, match="no new state"):
        solvers.plan(Idle(), GRID)
    with pytest.raises(PlanError, match="second call"):
        solvers.plan(Twice(), GRID)


def test_the_reversal_diffusion_is_infinite_at_the_noise_end() -> None:
    with pytest.raises(SingularTimeError, match="reversal"):
        solvers.plan(solvers.solver("euler_maruyama", diffusion="reversal"), [0.0, 0.5, 1.0])


# --- expressions -----------------------------------------------------------------------------------------------

atoms = st.one_of(st.integers(0, 6), st.builds(Draw, st.just(1), st.integers(0, 3)))
linear = st.dictionaries(atoms, st.floats(-4, 4).filter(lambda w: abs(w) > 1e-6), max_size=5).map(Expression)


@given(a=linear, b=linear, w=st.floats(-3, 3))
def test_expressions_are_a_vector_space(a: Expression, b: Expression, w: float) -> None:
    assert (a - a).terms == {}
    assert a + b == b + a
    assert (0.0 * a).terms == {}
    negative = -a
    assert -negative == a
    total = w * (a + b)
    for atom in {*a.terms, *b.terms}:
        assert total.terms.get(atom, 0.0) == pytest.approx(
            w * a.terms.get(atom, 0) + w * b.terms.get(atom, 0), abs=1e-12
        )


@given(values=st.lists(linear, min_size=1, max_size=4))
def test_combine_is_the_inverse_of_its_expressions(values: list[Expression]) -> None:
    assert expressions(combine_of(range(10, 10 + len(values)), values)) == values


@settings(max_examples=60)
@given(data=st.data(), regions=st.integers(1, 4))
def test_passes_preserve_random_programs(data: st.DataObject, regions: int) -> None:
    """Not only programs that our solvers write: any straight-line program of the three instructions."""
    instructions, known, register = [], [0], 1
    for region in range(regions):
        for _ in range(data.draw(st.integers(0, 3))):
            chosen = data.draw(st.dictionaries(st.sampled_from(known), st.floats(0.1, 1), min_size=1, max_size=4))
            instructions.append(combine_of([register], [Expression(chosen)]))
            known.append(register)
            register += 1
        if data.draw(st.booleans()):
            instructions.append(Boundary(region, 0.5, data.draw(st.sampled_from(known))))
        instructions.append(Evaluate((register,), ("cond",), data.draw(st.sampled_from(known)), 0.1 * region, region))
        known.append(register)
        register += 1
    instructions.append(combine_of([register], [Expression({r: 0.5 for r in known[-3:]})]))
    plan = Plan("random", Linear(), (0.0, 1.0), tuple(instructions), 0, register, stage="outputs")
    for options in ({}, {"observe": True}, {"replace": True}):
        optimised = plan.optimise(**options)
        assert interpret(optimised, 0.4) == pytest.approx(interpret(plan, 0.4), rel=1e-11)
        assert interpret_with_buffers(optimised, 0.4) == pytest.approx(interpret(plan, 0.4), rel=1e-11)


def interpret_with_buffers(plan: Plan, start: float) -> float:
    """As :func:`interpret`, but registers with a buffer share it, so that a wrong reuse shows."""
    buffer = {register: ("b", index) for register, index in plan.buffers}
    renamed = {
        r: buffer.get(r, r) for i in plan.instructions for r in (*getattr(i, "outs", ()), *getattr(i, "inputs", ()))
    }
    memory = {plan.start: start}
    for instruction in plan.instructions:
        if isinstance(instruction, Evaluate):
            memory[instruction.outs[0]] = math.sin(
                memory[renamed.get(instruction.input, instruction.input)] + instruction.time
            )
        elif isinstance(instruction, Combine):
            read = [memory[renamed[r]] for r in instruction.inputs]
            for out, row in zip(instruction.outs, instruction.matrix, strict=True):
                memory[renamed[out]] = sum(w * x for w, x in zip(row, read, strict=True))
    return memory[renamed.get(plan.result, plan.result)]
