"""Compiled plans: the same samples, one compilation, and plain runs where there is no compiler."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import pushforward as pf
from pushforward.errors import DtypeError, NotFiniteError, PlanError, ShapeError
from pushforward.models import RefinedModel, adapt
from pushforward.solvers import Plan
from pushforward.solvers.compiled import CompileWarning, compile_plan
from pushforward.solvers.ode import FlowTurbo

SHAPE = (3, 4)
CONDITION, OTHER = ({"scale": torch.tensor(values)} for values in ([0.5, 1.0, 2.0], [1.5, -1.0, 0.1]))


def network(x: Tensor, t: Tensor, scale: Tensor) -> Tensor:
    return torch.tanh(scale[:, None] - x) * (1 + t[:, None])


def refiner(xv: Tensor, t: Tensor, scale: Tensor) -> Tensor:
    return 0.1 * scale[:, None] * torch.sin(xv[:, :4] + xv[:, 4:]) * t[:, None]


@pytest.fixture
def model() -> RefinedModel:
    """A new one for each test: what is compiled is kept with the model."""
    return RefinedModel.around(adapt(network, null={"scale": torch.zeros(1)}), refiner=adapt(refiner))


def planned(model: RefinedModel, **options: object) -> Plan:
    return pf.make_plan(model, solver=FlowTurbo(2, 5, 3), steps=10, guidance=2.0, **options)


def recorded(function: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
    """In the place of a device's graph: the run on its own memory, which the second call fills again."""
    result = function()

    def replay() -> None:
        result.copy_(function())

    return replay, result


def expected(model: RefinedModel, seed: int, condition: dict[str, Tensor]) -> Tensor:
    return pf.sample(model, SHAPE, solver=FlowTurbo(2, 5, 3), steps=10, guidance=2.0, condition=condition, seed=seed)


@pytest.mark.parametrize("capture", [None, recorded])
def test_samples_are_those_of_the_plain_run(model: RefinedModel, capture: object) -> None:
    drawn = compile_plan(planned(model), model, SHAPE, condition=CONDITION, backend="eager", capture=capture)  # type: ignore[arg-type]
    assert drawn.how == ("network" if capture is None else "graph")
    assert drawn.difference == 0, "the backend 'eager' runs the same operations"
    for seed, condition in ((1, CONDITION), (2, OTHER), (1, CONDITION)):
        found = drawn(seed=seed, condition=condition)
        assert torch.equal(found, expected(model, seed, condition))
        assert torch.equal(drawn(found, condition=condition), drawn(found, condition=condition))
        assert torch.equal(found, expected(model, seed, condition)), "a result is not written to by later runs"


def test_compiling_twice_gives_what_is_there(model: RefinedModel) -> None:
    traced: list[int] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., object]:
        traced.append(len(inputs))
        return graph.forward

    plan = planned(model)
    first = plan.compile(model, SHAPE, condition=CONDITION, backend=backend)  # type: ignore[arg-type]
    assert len(traced) == 2, "the network for 2 B rows, and the refiner for 2 B rows"
    assert plan.compile(model, SHAPE, torch.float32, condition=OTHER, backend=backend) is first  # type: ignore[arg-type]
    first(seed=1, condition=OTHER)
    assert len(traced) == 2, "runs compile nothing"
    assert plan.compile(model, (2, 4), condition={"scale": torch.ones(2)}, backend=backend) is not first  # type: ignore[arg-type]
    assert len(traced) == 4


def failing(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., object]:
    raise RuntimeError("no compiler here\nand a long story")


def wrong(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., object]:
    return lambda *given: tuple(1.01 * out for out in graph.forward(*given))


@pytest.mark.parametrize(("backend", "said"), [(failing, "no compiler here"), (wrong, r"outputs differ by 0\.01")])
def test_where_no_compiler_works_the_plan_runs_as_it_is_with_one_warning(
    model: RefinedModel, backend: object, said: str
) -> None:
    torch._dynamo.reset()
    plan = planned(model)
    with pytest.warns(CompileWarning, match=said) as warned:
        drawn = plan.compile(model, SHAPE, condition=CONDITION, backend=backend)  # type: ignore[arg-type]
    assert plan.compile(model, SHAPE, condition=CONDITION, backend=backend) is drawn  # type: ignore[arg-type]
    assert len(warned) == 1
    assert (drawn.how, drawn.difference) == ("eager", 0.0)
    assert torch.equal(drawn(seed=1, condition=CONDITION), expected(model, 1, CONDITION))


def test_a_capture_that_fails_leaves_compiled_networks(model: RefinedModel) -> None:
    def refusing(function: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        raise RuntimeError("operation not permitted when stream is capturing")

    with pytest.warns(CompileWarning, match="not permitted when stream"):
        drawn = compile_plan(planned(model), model, SHAPE, condition=CONDITION, backend="eager", capture=refusing)
    assert drawn.how == "network"


def test_what_it_was_not_compiled_for_is_refused(model: RefinedModel) -> None:
    drawn = planned(model).compile(model, SHAPE, condition=CONDITION, backend="eager")
    with pytest.raises(ShapeError, match=r"start: got \[2, 4\], expected \[3, 4\], as compiled"):
        drawn(torch.zeros(2, 4), condition=CONDITION)
    with pytest.raises(DtypeError, match=r"float64, expected torch\.float32"):
        drawn(torch.zeros(SHAPE, dtype=torch.float64), condition=CONDITION)
    with pytest.raises(ShapeError, match=r"condition\.scale: got \(\(2,\)"):
        drawn(condition={"scale": torch.ones(2)})
    with pytest.raises(ShapeError, match=r"condition\.scale: got None"):
        drawn()
    written = pf.solvers.plan(pf.solver("euler"), [0.0, 1.0])
    with pytest.raises(PlanError, match="optimised"):
        written.compile(model, SHAPE)
    with pytest.raises(ShapeError, match="positive integers"):
        planned(model).compile(model, (0, 4))


def test_an_error_of_the_network_is_raised_as_its_own(model: RefinedModel) -> None:
    with pytest.raises(TypeError, match="scale"):
        planned(model).compile(model, SHAPE, backend="eager")


def test_noise_is_that_of_the_seed_and_not_of_a_graph(model: RefinedModel) -> None:
    plan = pf.make_plan(model, solver="euler_maruyama", steps=3)
    drawn = compile_plan(plan, model, SHAPE, condition=CONDITION, backend="eager", capture=recorded)
    assert drawn.how == "network"
    for seed in (1, 2):
        again = pf.sample(model, SHAPE, solver="euler_maruyama", steps=3, condition=CONDITION, seed=seed)
        assert torch.equal(drawn(seed=seed, condition=CONDITION), again)


def test_a_graph_that_ends_in_nan_says_so(model: RefinedModel) -> None:
    drawn = compile_plan(planned(model), model, SHAPE, condition=CONDITION, backend="eager", capture=recorded)
    broken = {"scale": torch.tensor([1.0, torch.nan, 1.0])}
    with pytest.raises(NotFiniteError, match="check='before'"):
        drawn(seed=1, condition=broken)
    assert drawn(seed=1, condition=broken, check="off").isnan().any()


def test_every_kind_of_model_can_have_its_networks_replaced(model: RefinedModel) -> None:
    seen: list[object] = []

    def noted(change: Callable[..., Tensor]) -> Callable[..., Tensor]:
        seen.append(change)
        return change

    for kind in (model, pf.models.composed(model, other=adapt(network)), model.with_branches(far={"scale": 2.0})):
        seen.clear()
        changed = kind.with_networks(noted)
        assert type(changed) is type(kind)
        assert seen[:2] == [network, refiner]
    two = pf.models.adapt_two_sided(network, refiner, pf.models.TwoSided())
    seen.clear()
    assert dataclasses.asdict(two.with_networks(noted).prediction) == dataclasses.asdict(two.prediction)
    assert seen == [network, refiner]
    assert isinstance(model.with_networks(noted), RefinedModel)
