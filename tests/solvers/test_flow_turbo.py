"""FlowTurbo's blocks against Heun's, which they equal where the refiner is exact, and what is refused."""

from __future__ import annotations

import pytest
import torch
from problems import asymptotic_steps, mixture_flow, shows_order
from torch import Tensor

import pushforward as pf
from pushforward import solvers
from pushforward.errors import ArgumentError, PlanError
from pushforward.models import GaussianOracle, Guidance, Linear, MixtureOracle, RefinedModel, Trigonometric, adapt
from pushforward.solvers.interop.run import Program
from pushforward.solvers.ode import FlowTurbo
from pushforward.solvers.plan import Plan

ORACLES = (
    MixtureOracle([0.4, 0.6], [[1.0, 0.5], [-0.7, 0.3]], [[[0.3, 0.1], [0.1, 0.2]], [[0.16, 0.0], [0.0, 0.4]]]),
    GaussianOracle([0.2, -0.4], [[0.6, 0.2], [0.2, 0.5]]),
)
GRID = [0.1 + 0.08 * i for i in range(11)]
START = ORACLES[0].sample(6, seed=3, t=0.1)
LABEL, NULL = {"which": torch.tensor([0])}, {"which": torch.tensor([1])}
HEUN = solvers.solver("heun")


def velocity(x: Tensor, t: Tensor, which: Tensor) -> Tensor:
    """Of the oracle that each row asks for."""
    both = [oracle.velocity(x, float(t[0])) for oracle in ORACLES]
    return torch.where(which[:, None] == 0, *both)


def exact_change(state_and_velocity: Tensor, t: Tensor, which: Tensor) -> Tensor:
    """What a perfect refiner returns."""
    x, earlier = state_and_velocity.chunk(2, dim=1)
    return velocity(x, t, which) - earlier


REFINER = adapt(exact_change)
REFINED = RefinedModel.around(adapt(velocity, null=NULL), refiner=REFINER)


def drawn(solver: solvers.FixedGridSolver, model: pf.models.Model = REFINED, **options: object) -> Tensor:
    """The end of the run over GRID."""
    return pf.sample(model, START, solver=solver, grid=GRID, condition=LABEL, **options)


@pytest.mark.parametrize("guidance", [1.0, 2.5, Guidance(3.0, interval=(0.3, 0.6))], ids=str)
def test_with_an_exact_refiner_refined_steps_are_heun_steps(guidance: float | Guidance) -> None:
    """For each branch too: the earlier velocity is the guided one, and weights of the change sum to one."""
    expected = drawn(HEUN, guidance=guidance)
    for solver in (FlowTurbo(1, 0, 9), FlowTurbo(3, 0, 7)):
        assert (drawn(solver, guidance=guidance) - expected).abs().max() < 1e-12
        assert (drawn(solver, guidance=guidance, check="before") - expected).abs().max() < 1e-12
    mixed, without = drawn(FlowTurbo(2, 4, 4), guidance=guidance), drawn(FlowTurbo(2, 8, 0), guidance=guidance)
    assert 1e-6 < (mixed - without).abs().max() < 0.2, "another method of the same run"


def test_the_refiner_is_asked_about_the_guided_velocity_in_every_row() -> None:
    seen: list[tuple[Tensor, Tensor]] = []

    def network(x: Tensor, t: Tensor, which: Tensor) -> Tensor:
        out = velocity(x, t, which)
        seen.append((torch.empty(0), out.clone()))
        return out

    def refiner(xv: Tensor, t: Tensor, which: Tensor) -> Tensor:
        seen.append((xv.clone(), which))
        return exact_change(xv, t, which)

    model = RefinedModel.around(adapt(network, null=NULL), refiner=adapt(refiner))
    pf.sample(model, START, solver=FlowTurbo(1, 0, 1), grid=[0.1, 0.2, 0.3], condition=LABEL, guidance=2.5)
    second_stage, (asked, which) = seen[1][1], seen[2]
    guided = 2.5 * second_stage[:6] - 1.5 * second_stage[6:]
    torch.testing.assert_close(asked[:, 2:], guided.repeat(2, 1), rtol=1e-13, atol=1e-13)
    assert which.tolist() == [0] * 6 + [1] * 6
    assert [len(rows) for rows, _ in seen] == [0, 0, 12, 12], "two Heun evaluations, two of the refiner"


def test_refined_steps_take_any_prediction_transform_hooks_and_gradients() -> None:
    solver = FlowTurbo(1, 0, 9)
    for kind in ("noise", "denoised", "edm"):
        teacher = ORACLES[0].model(kind)
        refiner = adapt(lambda xv, t: ORACLES[0].velocity(xv[:, :2], float(t[0])) - xv[:, 2:])
        model = RefinedModel.around(teacher, refiner=refiner)
        run = {"grid": GRID, "transform": lambda d, t: d.clamp(-0.8, 0.8)}
        found, expected = (pf.sample(model, START, solver=s, **run) for s in (solver, HEUN))
        assert (found - expected).abs().max() < 1e-12
    shown: dict[str, list[Tensor]] = {"turbo": [], "heun": []}
    for name, which in (("turbo", solver), ("heun", HEUN)):

        def look(state: solvers.StepState, name: str = name) -> None:
            assert state.denoised is not None
            shown[name].append(state.denoised.clone())

        look.replaces_state = False  # type: ignore[attr-defined]
        drawn(which, hooks=[look])
    torch.testing.assert_close(shown["turbo"], shown["heun"], rtol=1e-12, atol=1e-12)
    start = START.clone().requires_grad_()
    for checkpoint in (False, True):
        out = pf.sample(
            REFINED, start, solver=solver, grid=GRID, condition=LABEL, differentiable=True, checkpoint=checkpoint
        )
        assert (out.detach() - drawn(HEUN)).abs().max() < 1e-12
        (slope,) = torch.autograd.grad(out.square().sum(), start)
        assert slope.isfinite().all()


def test_blocks_of_one_kind_are_the_methods_of_that_name() -> None:
    assert torch.equal(drawn(FlowTurbo(10, 0)), drawn(HEUN))
    assert torch.equal(drawn(FlowTurbo(0)), drawn(solvers.solver("pseudo_corrector")))
    plan = solvers.plan(FlowTurbo(2, 8), GRID)
    assert plan.nfe == 2 * 2 + 8, "after a Heun block the cache is there already"


def test_mixtures_of_heun_and_pseudo_corrector_have_order_two() -> None:
    problem, solver = mixture_flow(), FlowTurbo(heun=5)
    assert shows_order([problem.error(solver, steps) for steps in asymptotic_steps(solver)], 2)


def test_a_plan_shows_its_blocks_and_ships_them() -> None:
    written = solvers.plan(FlowTurbo(2, 5, 3), GRID)
    read = pf.models.prediction("velocity", Linear())
    optimised = written.lower(read, Guidance(2.0)).optimise()
    for plan in (written, optimised):
        lines = str(plan).splitlines()
        titles = [line.strip() for line in lines if ": step" in line and line.startswith(" ") and "=" not in line]
        assert titles == ["heun: steps 0 to 1", "pseudo-corrector: steps 2 to 6", "refine: steps 7 to 9"]
        assert "base" in lines[lines.index(" refine: steps 7 to 9") + 1]
        assert Plan.from_json(plan.to_json()) == plan
    assert optimised.cost().branch_rows == {"cond": 9, "null": 9, "refiner": 6, "refiner.null": 6}
    relative = optimised.cost().relative({"cond": 1, "null": 1, "refiner": 0.05, "refiner.null": 0.05}, against=1)
    assert relative == pytest.approx(15 / (9 + 6 * 0.05))
    assert solvers.plan(HEUN, GRID).blocks == ()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FlowTurbo(-1), "heun: got -1"),
        (lambda: FlowTurbo(1, reach=0), "reach: got 0"),
        (lambda: FlowTurbo(0, 0, 3), "must start with heun or pseudo-corrector"),
        (lambda: solvers.plan(FlowTurbo(0, None, 10), GRID), "must start with heun or pseudo-corrector"),
        (lambda: solvers.plan(FlowTurbo(2, 4, 3), GRID), r"steps: got 10, expected 2 \+ 4 \+ 3"),
        (lambda: solvers.plan(FlowTurbo(1, None, 1), GRID[::2]), "h = 0.16 in step 4, expected refined steps of 0 < h"),
        (lambda: solvers.plan(FlowTurbo(1, None, 1), GRID[::-1]), "h = -0.08"),
        (lambda: solvers.plan(FlowTurbo(1, 0, 9), GRID, restarts=(5,)), "must start with heun or pseudo-corrector"),
        (lambda: solvers.plan(FlowTurbo(1, 0, 9), GRID).on(Trigonometric()), "the refiner's own"),
        (lambda: drawn(FlowTurbo(1, 0, 9), adapt(velocity)), "which has no refiner"),
        (lambda: RefinedModel.around(adapt(velocity)), "refiner: got NoneType, expected a model"),
        (lambda: RefinedModel.around(adapt(velocity), refiner=adapt(exact_change, "noise")), "predicts noise"),
        (
            lambda: RefinedModel.around(adapt(velocity, interpolant="trigonometric"), refiner=REFINER),
            "the model's own path",
        ),
        (lambda: REFINED.on("trigonometric"), "on which the refiner was trained"),
        (lambda: REFINED.bind(LABEL).evaluate(START, 0.5, ("refiner.far",), START), "'refiner.far', expected one of"),
        (lambda: REFINED.bind(LABEL).evaluate(START[:, 0], 0.5, ("refiner",), START[:, 0]), "for a refiner"),
    ],
)
def test_what_cannot_be_refined_is_refused(make: object, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        make()  # type: ignore[operator]


def test_drivers_of_one_network_refuse_a_refiner() -> None:
    plan = solvers.plan(FlowTurbo(1, 0, 9), GRID)
    with pytest.raises(PlanError, match="one that asks the network alone, for a pipeline"):
        plan.check_plain("a pipeline")
    with pytest.raises(PlanError, match="for a pipeline"):
        Program.of(plan.lower(REFINED.prediction).optimise())


def test_a_model_with_a_refiner_is_its_model_to_other_solvers() -> None:
    teacher = adapt(velocity, null=NULL)
    assert torch.equal(drawn(HEUN, guidance=2.0), drawn(HEUN, teacher, guidance=2.0))
    bound = REFINED.bind({"which": torch.tensor([0, 1, 0])})
    rows = bound.select([1, 2])
    x = START[:2]
    (change,) = rows.evaluate(x, 0.4, ("refiner",), torch.zeros_like(x))
    time = torch.tensor([0.4], dtype=torch.float64)
    assert torch.equal(change, velocity(x, time, torch.tensor([1, 0])))
    assert (rows.calls, rows.rows, bound.calls) == (1, 2, 0)
    (led,) = pf.models.composed(REFINED, other=teacher).bind(LABEL).evaluate(x, 0.4, ("refiner",), x)
    assert torch.equal(led, velocity(x, time, LABEL["which"]) - x)


@pytest.fixture(scope="module")
def digits() -> RefinedModel:
    base, refiner = pf.models.load("digits28-base"), pf.models.load("digits28-refiner")
    model = RefinedModel.around(base, refiner=refiner)
    assert isinstance(model, RefinedModel)
    return model


def test_the_bundled_refiner_beats_velocities_that_are_held(digits: RefinedModel) -> None:
    """At equal steps, against Heun's; "held" is a refiner that says nothing has changed."""
    held = RefinedModel.around(digits.inner, refiner=adapt(lambda xv, t, label: torch.zeros_like(xv[:, :1])))
    label = {"label": torch.arange(10)}
    run = {"steps": 9, "condition": label, "seed": 5}
    exact = pf.sample(digits, (10, 1, 28, 28), solver="heun", **run)
    errors = {}
    for name, model in (("refined", digits), ("held", held)):
        found = pf.sample(model, (10, 1, 28, 28), solver=FlowTurbo(2, 4, 3), **run)
        errors[name] = (found - exact).square().mean().sqrt().item()
    assert errors["refined"] < 0.8 * errors["held"], errors
