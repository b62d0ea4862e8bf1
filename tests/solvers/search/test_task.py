"""What a task does for methods: rows of any steps and conditions, networks of any kind, errors that say where."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from search_oracles import Counting, SignPattern, sign_denoiser, three_modes
from searches import sample_ids

import pushforward as pf
from pushforward.errors import ArgumentError, NotFiniteError, ShapeError
from pushforward.models import Guidance, adapt
from pushforward.solvers.search import SVDD, BestOfN, Budget, CoDe, RolloverBudgetForcing, search
from pushforward.solvers.search.search import make_task

DOUBLE = torch.float64
SIGNS = SignPattern(4)
METHODS = [
    BestOfN(candidates=3),
    SVDD(chains=2, candidates=3, finish=2),
    CoDe(chains=1, candidates=4, block=2),
    RolloverBudgetForcing(chains=2, initial=2, finish=2),
]
RAGGED = METHODS[-1]


def shifted(x, t, y, z=None):
    """The pattern's denoiser, moved by the condition: a mixed-up condition shows."""
    del z
    return sign_denoiser(x, t) + 0.3 * y.reshape(-1, 1).to(x)


def named(method):
    return type(method).__name__


def agree(one, other):
    """The same samples, but for the rounding of a network whose elementwise functions see other vector lengths."""
    torch.testing.assert_close(one.samples, other.samples, rtol=0, atol=1e-12)
    return torch.equal(one.rewards, other.rewards)


def run(model, method, budget=80, reward=SIGNS.reward, **options):
    settings = {"shape": (2, 4), "steps": 4, "seed": 3, "dtype": DOUBLE} | options
    return search(model, reward, budget, method=method, **settings)


# --- rows and conditions --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS, ids=named)
@pytest.mark.parametrize("options", [{}, {"batch": 3}, {"guidance": 2.0}, {"guidance": 2.0, "batch": 5}], ids=str)
def test_each_request_has_its_condition(method, options):
    """Three requests with conditions of their own, together, are the three alone; a condition of one row is for all."""
    model = adapt(shifted, "denoised", "linear", null={"y": torch.zeros(1, dtype=DOUBLE)})
    y, ids = torch.tensor([0.5, -1.0, 2.0], dtype=DOUBLE), torch.tensor([7, 1, 3])
    condition = {"y": y, "z": ["unused", {"deep": torch.zeros(1, 5)}]}
    whole = run(model, method, 150, shape=(3, 4), requests=ids, condition=condition, **options)
    for i in range(3):
        alone = run(model, method, 150, shape=(1, 4), requests=ids[i : i + 1], condition={"y": y[i : i + 1]}, **options)
        torch.testing.assert_close(alone.samples[0], whole.samples[i], rtol=0, atol=1e-12)


@pytest.mark.parametrize("method", METHODS, ids=named)
@pytest.mark.parametrize("time_shape", ["one", "scalar"])
@pytest.mark.parametrize("batch", [None, 5])
def test_networks_that_take_one_time_for_all_rows(method, time_shape, batch):
    """Rows at different times are in different calls, and nothing else changes."""
    sizes = Counting(lambda x, t: sign_denoiser(x, t.reshape(-1).expand(len(x))))
    one = run(adapt(sizes, "denoised", "linear", time_shape=time_shape), method, batch=batch)
    assert agree(one, run(SIGNS.model(), method))
    assert sizes.rows == one.ledger.nfe.sum()
    assert batch is None or max(sizes.sizes) <= batch


@pytest.mark.parametrize("method", METHODS, ids=named)
@pytest.mark.parametrize("interval", [(0.2, 0.6), (0.5, 1.0)], ids=["middle", "end"])
def test_guidance_in_an_interval(method, interval):
    """Steps that lack a branch: what is booked is what the network saw, also where only the finish is guided."""
    network = Counting(sign_denoiser)
    model = adapt(network, "denoised", "linear", null={"y": 0.0})
    guidance = Guidance(2.0, interval=interval)
    for budget in (44, 81, 130):
        network.sizes.clear()
        found = run(model, method, budget, guidance=guidance, condition={"y": 1.0})
        assert network.rows == found.ledger.nfe.sum()
        assert (found.ledger.nfe <= budget).all()
    assert (found.ledger.total("evaluations") < found.ledger.nfe).all(), "some step was guided"


def test_guided_steps_are_those_of_the_plain_sampler():
    """One candidate under guidance in an interval, bit for bit."""

    def network(x, t, y):
        return sign_denoiser(x, t) + 0.2 * y.reshape(-1, 1)

    model = adapt(network, "denoised", "linear", null={"y": torch.zeros(1, dtype=DOUBLE)})
    options = {"guidance": Guidance(3.0, interval=(0.3, 0.8)), "condition": {"y": torch.ones(1, dtype=DOUBLE)}}
    found = run(model, SVDD(chains=1, candidates=1), solver="ddpm", **options)
    ids = sample_ids(torch.arange(2), torch.zeros(1, dtype=torch.int64))
    plain = pf.sample(model, (2, 4), solver="ddpm", steps=4, seed=3, samples=ids, dtype=DOUBLE, **options)
    torch.testing.assert_close(found.x, plain, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("method", METHODS, ids=named)
def test_networks_that_return_the_same_memory_again(method):
    """As captured graphs do: what is kept is copied before the next call, in batches and between attempts."""
    memory = torch.empty(0, dtype=DOUBLE)

    def captured(x, t):
        nonlocal memory
        if len(memory) < len(x):
            memory = torch.empty(len(x), 4, dtype=DOUBLE)
        memory[: len(x)] = sign_denoiser(x, t)
        return memory[: len(x)]

    plain = run(SIGNS.model(), method)
    assert agree(run(adapt(captured, "denoised", "linear"), method, batch=2), plain)
    assert agree(run(adapt(captured, "denoised", "linear"), method), plain)


def test_two_branches_in_one_memory_are_refused():
    memory = torch.empty(2, 4, dtype=DOUBLE)

    def captured(x, t, y):
        return memory[: len(x)].copy_(sign_denoiser(x, t))

    model = adapt(captured, "denoised", "linear", null={"y": 0.0}, sequential=True)
    with pytest.raises(ArgumentError, match="step 0, t = 0: got both branches in the same memory"):
        run(model, SVDD(chains=1, candidates=1), guidance=2.0, condition={"y": 1.0})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("method", METHODS, ids=named)
def test_narrow_states(method, dtype):
    """Rewards and choices are float64, states and results keep their dtype; a network of another is cast for."""
    model = adapt(sign_denoiser, "denoised", "linear", dtype=torch.float32)
    found = run(model, method, dtype=dtype)
    assert found.samples.dtype == dtype
    assert found.rewards.dtype == torch.float64
    assert torch.equal(SIGNS.reward(found.x, None), found.best)


def test_batches_bound_calls_of_networks_and_rewards():
    network = Counting(sign_denoiser)
    rows = []

    def reward(x, context):
        rows.append(len(x))
        assert len(context["name"]) == len(x)
        return SIGNS.reward(x, None)

    for method in METHODS:
        run(adapt(network, "denoised", "linear"), method, reward=reward, batch=4, context={"name": ["a", "b"]})
    assert max(network.sizes) == max(rows) == 4
    run(adapt(network, "denoised", "linear"), SVDD(candidates=5), batch=4, pad=True)


# --- errors that say where ------------------------------------------------------------------------------------------


def broken_from(time, value):
    """NaN or infinity in the second row, from that time on."""

    def network(x, t):
        output = sign_denoiser(x, t)
        bad = t.reshape(-1, 1).expand_as(output) >= time
        bad = bad & (torch.arange(len(x)) == 1)[:, None]
        return torch.where(bad, value, output)

    return adapt(network, "denoised", "linear")


@pytest.mark.parametrize("method", METHODS, ids=named)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_network_that_breaks_is_reported_with_step_and_time(method, value):
    """Steps of the uniform grid start at 0, 1/4, 1/2, 3/4; the network breaks at 1/2."""
    with pytest.raises(NotFiniteError, match=r"network output at step 2, t = 0.5") as caught:
        run(broken_from(0.5, value), method, path="linear", grid="uniform")
    assert (caught.value.step, caught.value.t) == (2, 0.5)
    if method is not METHODS[0]:
        assert "request" in str(caught.value)
        assert "slot" in str(caught.value)


@pytest.mark.parametrize("method", METHODS, ids=named)
def test_outputs_of_another_shape_or_dtype_are_reported(method):
    def wrong(change):
        return adapt(lambda x, t: change(x) if float(t[0]) >= 0.5 else sign_denoiser(x, t), "denoised", "linear")

    for change, got in (
        (lambda x: x[:, :3], r"torch.float64 \[\d+, 3\]"),
        (lambda x: x.float(), r"torch.float32 \[\d+, 4\]"),
        (lambda x: x[:1].expand(len(x) + 1, 4), r"torch.float64 \[\d+, 4\]"),
    ):
        with pytest.raises(ShapeError, match=rf"network output at step 2, t = 0.5: got {got} on cpu, expected"):
            run(wrong(change), method, path="linear", grid="uniform")


def test_outputs_of_guided_calls_are_checked_too():
    for change in (lambda x: x[:1], lambda x: x.sum()):
        model = adapt(lambda x, t, y, change=change: change(x), "denoised", "linear", null={"y": 0.0})
        with pytest.raises(ShapeError, match="network output"):
            run(model, METHODS[1], guidance=2.0, condition={"y": torch.zeros(1)})


def scores(bad, row=1):
    def reward(x, context):
        values = SIGNS.reward(x, None)
        values[min(row, len(values) - 1)] = bad
        return values

    return reward


@pytest.mark.parametrize(("bad", "said"), [(math.nan, "NaN"), (math.inf, r"\+inf")])
def test_rewards_that_are_no_numbers_are_reported_with_their_place(bad, said):
    for method, where in (
        (METHODS[0], "finished samples, request 0, slot 1"),
        (METHODS[1], "step 1, t = 0.25, request 0, slot 1"),
        (RAGGED, "step 0, t = 0, request 0, slot 1"),
    ):
        with pytest.raises(NotFiniteError, match=rf"^{where}: reward .*got {said} in row 1"):
            run(SIGNS.model(), method, reward=scores(bad), path="linear", grid="uniform")
    ids = torch.tensor([9, 4])
    with pytest.raises(NotFiniteError, match=rf"^step 1, t = 0.25, request 4, slot {2**20 + 1}: reward .*got {said}"):
        run(SIGNS.model(), METHODS[1], reward=scores(bad, 10), path="linear", grid="uniform", requests=ids)
    with pytest.raises(NotFiniteError, match=r"^step 1, t = 0.25, request 0, slot 2: reward .* in row 0 of 2"):
        run(SIGNS.model(), METHODS[1], reward=late(bad), batch=2, path="linear", grid="uniform")


def late(bad):
    """A reward whose second call goes wrong."""
    calls = []

    def reward(x, context):
        calls.append(len(x))
        return SIGNS.reward(x, None) if len(calls) < 2 else torch.full((len(x),), bad)

    return reward


def test_rewards_of_ragged_rows_are_reported_with_their_own_step():
    """Chains of rollover are at different steps; the one that goes wrong is named."""
    calls = []

    def reward(x, context):
        calls.append(len(x))
        values = torch.zeros(len(x), dtype=DOUBLE)
        if len(calls) == 2:  # the first chain improves at once and goes to step 1; the second does not
            values[0] = 1.0
        if len(calls) == 3:
            values[:] = torch.tensor([math.nan, 0.0])
        return values

    method = RolloverBudgetForcing(chains=2, initial=1, finish=1)
    with pytest.raises(NotFiniteError, match=r"^step 2, t = 0.5, request 0, slot 0: reward"):
        run(SIGNS.model(), method, reward=reward, shape=(1, 4), path="linear", grid="uniform")


@pytest.mark.parametrize("shape", [(), (3,), (6, 1)])
def test_rewards_of_another_shape_are_reported_with_their_step(shape):
    with pytest.raises(ShapeError, match=r"^step 1, t = 0.25: reward returned shape .* for 12 rows; expected one"):
        run(SIGNS.model(), METHODS[1], reward=lambda x, _: torch.zeros(shape), path="linear", grid="uniform")
    with pytest.raises(ShapeError, match=r"^steps? .*: reward returned shape"):
        run(SIGNS.model(), RAGGED, reward=lambda x, _: torch.zeros(shape))
    with pytest.raises(ShapeError, match=r"^finished samples: reward returned shape"):
        run(SIGNS.model(), METHODS[0], reward=lambda x, _: torch.zeros(shape))


@pytest.mark.parametrize("options", [{}, {"guidance": Guidance(2.0, interval=(0.1, 0.4))}], ids=["plain", "guided"])
def test_rows_at_different_steps_are_scaled_by_their_own_times(options):
    """Attempts of rollover with equal quotas are SVDD's candidates, for inputs scaled as EDM's networks want them.

    Chains whose shares differ are at different steps, so each row has a scale and branches of its own.
    """
    problem = three_modes()
    exact = problem.model(kind="edm")
    model = replace(exact, network=lambda x, t, on=None: exact.network(x, t) * (1 if on is None else on.reshape(-1, 1)))
    if options:
        one = torch.ones(1, dtype=DOUBLE)
        model, options = replace(model, null={"on": 0.5 * one}), options | {"condition": {"on": one}}
    settings = {"shape": (3, 2), "steps": 5, "path": "vp", "grid": "circular", "dtype": DOUBLE, "keep": 2} | options
    svdd = search(model, problem.reward, 100, method=SVDD(candidates=4, finish=3), **settings)
    uniform = RolloverBudgetForcing(initial=1, allocation=(4,) * 4, finish=3)
    found = search(model, problem.reward, 100, method=uniform, **settings)
    torch.testing.assert_close(found.samples, svdd.samples, rtol=0, atol=1e-12)
    ragged = search(model, problem.reward, 120, method=RolloverBudgetForcing(initial=1), **settings)
    alone = [
        search(model, problem.reward, 120, method=RolloverBudgetForcing(initial=1), **settings | {"requests": ids})
        for ids in (torch.tensor([0, 7, 8]), torch.tensor([9, 1, 6]))
    ]
    for i, other in enumerate(alone):
        torch.testing.assert_close(other.samples[i], ragged.samples[i], rtol=0, atol=1e-12)


def test_clean_estimates_of_rows_at_different_steps_are_the_oracle_s():
    """Outputs and D of each row at the time of its own step, for scaled inputs."""
    problem = three_modes()
    task = make_task(
        problem.model(kind="edm"),
        problem.reward,
        Budget(100),
        SVDD(),
        shape=(2, 2),
        steps=5,
        path="vp",
        grid="circular",
        dtype=DOUBLE,
    )
    particles, steps = task.start(torch.arange(3)), torch.tensor([0, 3, 1, 4, 0, 2])
    task.evaluate(particles, steps)
    found = task.denoised(particles, steps)
    times = torch.tensor([task.transitions[k].time for k in steps.tolist()], dtype=DOUBLE)
    told = problem.oracle().denoised(particles.x, times)
    torch.testing.assert_close(found, told, rtol=0, atol=1e-12)
    assert [(e.step, e.passes.tolist()) for e in task.ledger.entries] == [
        (0, [1, 1]),
        (1, [1, 0]),
        (2, [0, 1]),
        (3, [1, 0]),
        (4, [0, 1]),
    ]
