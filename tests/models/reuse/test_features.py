"""Features reused between steps: what is equal bit for bit, what to rounding, and what is counted."""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Any

import pipelines
import pytest
import torch
from torch import Tensor, nn

import pushforward as pf
from pushforward.errors import ArgumentError, ShapeError, UnknownNameError
from pushforward.models import reuse
from pushforward.models.capabilities import Remembers
from pushforward.models.reuse import FASTER_DIFFUSION_KEYS, DeepCache, EncoderPropagation, FeatureCache, Schedule

LABELS = {"label": torch.tensor([3, 5])}
KEYS = reuse.Static(FASTER_DIFFUSION_KEYS)


@cache
def digits() -> pf.models.Model:
    return pf.models.load("digits28-small", dtype=torch.float64)


@cache
def start(rows: int = 2) -> Tensor:
    return torch.randn(rows, 1, 28, 28, generator=torch.Generator().manual_seed(7), dtype=torch.float64)


def cached(policy: Any, kind: type[FeatureCache] = EncoderPropagation, run: dict | None = None, **own: Any) -> Any:
    plan = pf.make_plan(digits(), **(run or {"solver": "ddim", "steps": 50}))
    return kind.around(digits(), schedule=Schedule.of(plan, policy), **own)


def sample(model: pf.models.Model, solver: str = "ddim", steps: int = 50, **more: Any) -> Tensor:
    return pf.sample(model, start(), solver=solver, steps=steps, condition=LABELS, **more)


def execute(model: pf.models.Model, solver: str = "ddim", steps: int = 50) -> tuple[Tensor, Any]:
    """A run, and what it was bound to."""
    bound = model.bind(LABELS)
    return pf.solvers.Executor(pf.make_plan(model, solver=solver, steps=steps), start()).run(bound.evaluate), bound


def close(x: Tensor, y: Tensor, steps: int = 50) -> None:
    """Equal to rounding: other batch sizes sum in another order, in float64, at every step."""
    torch.testing.assert_close(x, y, rtol=0, atol=steps * 1e-13 * float(y.abs().max()))


# --- equal to no cache --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [EncoderPropagation, DeepCache])
@pytest.mark.parametrize(
    "run", [{"solver": "heun", "steps": 3}, {"solver": "euler", "steps": 4, "guidance": 2.0}], ids=str
)
def test_computing_at_every_step_is_the_model_bit_for_bit(kind: type[FeatureCache], run: dict) -> None:
    assert torch.equal(sample(cached(reuse.Interval(1), kind, run), **run), sample(digits(), **run))


def test_times_that_are_not_planned_are_computed_and_change_nothing() -> None:
    model = FeatureCache.around(digits(), schedule=Schedule([0.0, 0.5], reuse.Interval(2)), hold=("",))
    bound, plain = model.bind(LABELS), digits().bind(LABELS)
    (first,) = bound.evaluate(start(), 0.0)
    assert torch.equal(bound.evaluate(start(), 0.3)[0], plain.evaluate(start(), 0.3)[0])
    assert bound.fresh
    rows = bound.evaluate_rows(start(), [0.0, 0.5])[0]
    assert torch.equal(rows, plain.evaluate_rows(start(), [0.0, 0.5])[0])
    assert torch.equal(bound.evaluate(start() + 1, 0.5)[0], first)
    assert not bound.fresh
    assert [decision.fresh for decision in bound.log] == [True, False]


# --- encoder propagation -----------------------------------------------------------------------------------------


def test_counts_of_the_paper_and_evaluations_ahead() -> None:
    rows = {"encoder": 0, "decoder": 0}
    network: Any = digits().network

    def count(name: str) -> Any:
        return lambda module, args, output: rows.__setitem__(name, rows[name] + len(output))

    hooks = [
        network.down1.conv1.register_forward_hook(count("encoder")),
        network.leave.register_forward_hook(count("decoder")),
    ]
    try:
        together, bound = execute(cached(KEYS))
        assert rows == {"encoder": 9 * 2, "decoder": 50 * 2}
        assert (bound.calls, bound.rows) == (9 + 6, 50 * 2), "a call for each key, and for each span behind one"
        assert [decision.index for decision in bound.log if decision.fresh] == list(FASTER_DIFFUSION_KEYS)
    finally:
        for hook in hooks:
            hook.remove()
    one_by_one, bound = execute(cached(KEYS, ahead=False))
    assert bound.calls == 50
    close(together, one_by_one)
    extrapolated = [execute(cached(KEYS, ahead=ahead, order=1))[0] for ahead in (True, False)]
    close(*extrapolated)
    limited, bound = execute(cached(KEYS, max_rows=9))
    assert bound.calls == 9 + 1 + 1 + 1 + 3 + 3 + 4, "at most four evaluations of two rows"
    close(limited, one_by_one)


def test_extrapolated_encoders_are_better_than_as_many_dense_steps() -> None:
    """Held ones are not, and the paper's keys are not for this network: docs/reuse.md has all of them."""
    model, labels = pf.models.load("digits28-small"), {"label": torch.arange(10)}
    keys = reuse.Static((0, 6, 11, 17, 22, 28, 33, 39, 44))
    schedule = Schedule.of(pf.make_plan(model, solver="ddim", steps=50), keys)

    def draw(model: pf.models.Model, solver: str = "ddim", steps: int = 50) -> Tensor:
        return pf.sample(model, (10, 1, 28, 28), solver=solver, steps=steps, condition=labels, seed=1)

    exact = draw(model, "rk4", 8)
    fast, dense = draw(EncoderPropagation.around(model, schedule=schedule, order=1)), draw(model, steps=9)
    assert float((fast - exact).norm()) < 0.6 * float((dense - exact).norm())  # 0.35 with 20 samples


@pytest.mark.parametrize("sequential", [False, True])
def test_guided_branches_are_kept_apart(sequential: bool) -> None:
    """In one call or in two, together or one after another; and a branch that comes later makes a key step."""
    run = {"solver": "euler", "steps": 6, "guidance": pf.models.Guidance(3.0, interval=(0.0, 0.6))}
    base = dataclasses.replace(digits(), sequential=sequential)
    results = []
    for ahead in (True, False):
        schedule = Schedule.of(pf.make_plan(base, **run), reuse.Interval(3))
        model = EncoderPropagation.around(base, schedule=schedule, ahead=ahead)
        results.append(sample(model, **run))
    close(*results, steps=6)
    bound = model.bind(LABELS, guidance=3.0)
    pf.solvers.Executor(pf.make_plan(base, **run), start()).run(bound.evaluate)
    fresh = [(decision.index, decision.branches) for decision in bound.log if decision.fresh]
    assert fresh == [(0, ("cond", "null")), (3, ("cond", "null")), (4, ("cond",))]


def test_stages_at_one_time_are_one_evaluation() -> None:
    run = {"solver": "rk4", "steps": 4}
    ahead, bound = execute(cached(reuse.Interval(3), run=run), **run)
    assert len(bound.schedule.times) == 9
    assert [d.fresh for d in bound.log] == [d.index % 3 == 0 for d in bound.log]
    assert [d.index for d in bound.log] == [k for i in range(4) for k in (2 * i, 2 * i + 1, 2 * i + 1, 2 * i + 2)]
    close(ahead, execute(cached(reuse.Interval(3), run=run, ahead=False), **run)[0], steps=16)


def test_a_network_that_still_sees_the_state_is_not_evaluated_ahead() -> None:
    with pytest.raises(ArgumentError, match="whose output depends on the state"):
        sample(cached(KEYS, DeepCache, ahead=True))


def test_runs_are_independent_and_leave_no_trace() -> None:
    model, network = cached(reuse.Interval(2), run={"solver": "ddim", "steps": 4}), digits().network
    assert isinstance(network, nn.Module)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    plan = pf.make_plan(model, solver="ddim", steps=4)
    bounds = [model.bind(LABELS), model.bind({"label": torch.tensor([8, 1])})]
    runs = [pf.solvers.Executor(plan, start()), pf.solvers.Executor(plan, start().flip(0))]
    alone = [run.run(bound.evaluate).clone() for run, bound in zip(runs, bounds, strict=True)]
    again = [pf.solvers.Executor(plan, start()), pf.solvers.Executor(plan, start().flip(0))]
    for requests in zip(*again, strict=True):  # with the bound models of the first runs, turn by turn
        for run, bound, request in zip(again, bounds, requests, strict=True):
            run.supply(bound.evaluate(request.input, request.time, request.branches))
    assert all(torch.equal(run.result, expected) for run, expected in zip(again, alone, strict=True))
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert not [name for name, module in network.named_modules() if "forward" in vars(module)]
    assert not vars(network).keys() - vars(pf.models.load("digits28-small").network).keys()


def test_other_rows_are_refused_and_selected_ones_start_anew() -> None:
    bound = cached(reuse.Interval(4), ahead=False).bind({"label": torch.tensor([3])})
    bound.evaluate(start(), 0.0)
    with pytest.raises(ShapeError, match="a cache that holds 2 rows, and a call that has 1"):
        bound.evaluate(start()[:1], 0.02)
    assert bound.select([0]).evaluate(start()[:1], 0.02)[0].shape == (1, 1, 28, 28)


def test_searches_refuse_what_remembers_rows() -> None:
    model = cached(reuse.Interval(2), run={"solver": "euler", "steps": 4})
    with pytest.raises(ArgumentError, match="whose answers depend on earlier calls"):
        pf.search(model, lambda x, context: x.flatten(1).sum(1), 20, shape=(1, 1, 28, 28), condition={"label": 3})
    assert (digits().remembers, model.remembers) == (Remembers.NOTHING, Remembers.ROWS)


# --- diffusers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("conditional", [False, True])
def test_unets_of_diffusers(conditional: bool) -> None:
    module = pipelines.unet_condition() if conditional else pipelines.unet()
    condition = {"encoder_hidden_states": pipelines.normal(2, 5, pipelines.DIMENSION)} if conditional else {}
    base = pf.models.from_diffusers(
        module,
        {
            "beta_schedule": "linear",
            "beta_start": 1e-4,
            "beta_end": 0.02,
            "prediction_type": "epsilon",
            "num_train_timesteps": 1000,
        },
    )
    run = {"solver": "ddim", "steps": 6, "grid": [0.01 + i / 7 for i in range(7)]}
    x = pipelines.normal(2, 4 if conditional else 3, 8, 8)
    plan = pf.make_plan(base, **run)

    def result(policy: Any, **own: Any) -> Tensor:
        model = EncoderPropagation.around(base, schedule=Schedule.of(plan, policy), **own)
        return pf.sample(model, x, condition=condition, **run)

    dense = pf.sample(base, x, condition=condition, **run)
    assert torch.equal(result(reuse.Interval(1)), dense)
    ahead, one_by_one = result(reuse.Interval(3)), result(reuse.Interval(3), ahead=False)
    torch.testing.assert_close(ahead, one_by_one, rtol=1e-5, atol=1e-5 * float(dense.abs().max()))
    assert (ahead - dense).abs().max() > 1e-3 * float(dense.abs().max()), "something was reused"


# --- holding everything buys nothing -------------------------------------------------------------------------------


def test_holding_a_velocity_for_k_steps_of_euler_is_one_step_k_times_as_long() -> None:
    run = {"solver": "euler", "steps": 12}
    held = sample(cached(reuse.Interval(4), FeatureCache, run, hold=""), **run)
    close(held, sample(digits(), "euler", 3), steps=12)


def test_holding_a_noise_for_k_steps_of_ddim_is_one_step_k_times_as_long() -> None:
    oracle = pf.models.GaussianOracle([0.3, -0.2], [[0.5, 0.1], [0.1, 0.2]], "cosine")
    network = oracle.model("noise").network

    class Network(nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return network(x, t)

    base = pf.models.adapt(Network(), "noise", "cosine")
    grid = [0.1 + 0.8 * i / 12 for i in range(13)]
    schedule = Schedule.of(pf.make_plan(base, solver="ddim", grid=grid), reuse.Interval(4))
    model = FeatureCache.around(base, schedule=schedule, hold="")
    x = torch.randn(3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    held = pf.sample(model, x, solver="ddim", grid=grid)
    torch.testing.assert_close(held, pf.sample(base, x, solver="ddim", grid=grid[::4]), rtol=1e-12, atol=1e-12)


def test_multistep_methods_are_refused_unless_one_insists() -> None:
    for name in ("ab2", "dpmpp_2m", "unipc", "pseudo_corrector"):
        plan = pf.make_plan(digits(), solver=name, steps=6)
        with pytest.raises(ArgumentError, match="expected a one-step method"):
            Schedule.of(plan, reuse.Interval(2))
        assert Schedule.of(plan, reuse.Interval(2), stale_history=True).keys[:3] == (0, 2, 4)
        assert Schedule.of(plan).keys == tuple(range(len(Schedule.of(plan).times))), "nothing is reused"
    assert Schedule.of(pf.make_plan(digits(), solver="heun", steps=6), reuse.Interval(4)).keys == (0, 4)


def test_held_outputs_do_silence_a_multistep_method() -> None:
    """The reason of the refusal: all differences of held outputs are 0, and AB2 is Euler's method."""
    run = {"solver": "ab2", "steps": 6, "grid": "uniform"}
    plan = pf.make_plan(digits(), **run)
    schedule = Schedule.of(plan, reuse.Static((0,)), stale_history=True)
    held = sample(FeatureCache.around(digits(), schedule=schedule, hold=""), **run)
    close(held, sample(digits(), "euler", 1), steps=6)


# --- extrapolation, residuals, noise ---------------------------------------------------------------------------------


def test_extrapolated_features_are_closer_than_held_ones() -> None:
    run = {"solver": "euler", "steps": 24}
    exact = sample(digits(), **run)
    policy = reuse.Interval(2, warmup=4)
    error = [
        float((sample(cached(policy, DeepCache, run, order=order, variable="t"), **run) - exact).norm())
        for order in (0, 1)
    ]
    assert error[1] < error[0]
    residual = sample(cached(policy, FeatureCache, run, hold=("attention",), reuse="residual"), **run)
    assert 0 < float((residual - exact).norm()) < error[0]


def test_prior_noise_adds_up_and_keeps_its_sum() -> None:
    still = pf.models.adapt(lambda x, t: torch.zeros_like(x))
    x = start()
    for steps, times, expected in ((50, None, 0.003 * 25), (100, [i / 100 for i in range(101)], 0.003 * 25)):
        hook = reuse.PriorNoise(x, times=times)
        gained = pf.sample(still, x, solver="euler", steps=steps, hooks=[hook])
        torch.testing.assert_close(gained, x * (1 + expected), rtol=1e-14 * steps, atol=0)
    with pytest.raises(ArgumentError, match="after"):
        reuse.PriorNoise(x, after=1.0)
    with pytest.raises(ArgumentError, match="times"):
        reuse.PriorNoise(x, times=[0.0, 0.3, 1.0])


# --- bad input -------------------------------------------------------------------------------------------------------


def test_bad_caches() -> None:
    schedule = Schedule([0.0, 0.5], reuse.Interval(2))
    with pytest.raises(ArgumentError, match=r"schedule: got tuple, expected a reuse.Schedule"):
        FeatureCache.around(digits(), schedule=(0.0, 0.5), hold="middle")
    with pytest.raises(UnknownNameError, match=r"'midle', expected a module of DigitUNet, such as \['middle'"):
        FeatureCache.around(digits(), schedule=schedule, hold="midle")
    with pytest.raises(ArgumentError, match="hold: got no names"):
        FeatureCache.around(digits(), schedule=schedule)
    with pytest.raises(ArgumentError, match="expected one that needs no probe"):
        FeatureCache.around(digits(), schedule=Schedule([0.0, 0.5], reuse.FirstBlock(0.1)), hold="middle")
    with pytest.raises(UnknownNameError, match="FeatureCache takes the names of any submodules"):
        EncoderPropagation.around(pf.models.adapt(nn.Linear(2, 2), call="x"), schedule=schedule)
    with pytest.raises(ArgumentError, match=r"a torch.nn.Module to tap\. Pass module="):
        FeatureCache.around(pf.models.adapt(lambda x, t: x), schedule=schedule, hold="middle")
    for bad in ({"reuse": "residual", "ahead": True}, {"reuse": "residual", "order": 1}, {"order": -1}, {"max_rows": 0},
                {"variable": "s"}, {"reuse": "input"}):  # fmt: skip
        with pytest.raises(ArgumentError):
            FeatureCache.around(digits(), schedule=schedule, hold="middle", **bad)


def test_bad_schedules_and_policies() -> None:
    with pytest.raises(ArgumentError, match="The first step has nothing cached"):
        reuse.Static((1, 2))
    with pytest.raises(ArgumentError, match="got 35, expected indices of 20 evaluations"):
        Schedule([i / 20 for i in range(20)], KEYS)
    for bad in ((0, 0), (0, -1), (0, 1.5), (0, True)):
        with pytest.raises(ArgumentError, match="steps"):
            reuse.Static(bad)  # type: ignore[arg-type]
    for bad in ((), (0.0, 0.0), (0.0, 0.5, 0.2), (0.0, float("nan"))):
        with pytest.raises(ArgumentError, match="times"):
            Schedule(bad)
    with pytest.raises(ArgumentError, match="every"):
        reuse.Interval(0)
    with pytest.raises(ArgumentError, match="decides before the run"):
        Schedule([0.0, 0.5], reuse.Accumulated(0.1)).span(0)
    assert str(Schedule([0.5, 0.0])) == "2 evaluations, keys (0, 1)"
    assert Schedule([1.0, 0.5, 0.25], reuse.Interval(2)).span(1) == range(1, 2)
