"""Networks that are told their last estimate: what is counted, kept, gathered, forgotten and refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import pushforward as pf
from pushforward.errors import ArgumentError, ShapeError, UnknownNameError
from pushforward.models import Guidance, SelfConditioned, adapt, composed
from pushforward.models.capabilities import Remembers

GRID = [0.0, 0.2, 0.4, 0.6, 0.8]


class Counter:
    """Its clean estimate is one more than the one it is told; as a velocity of the linear path, (D - x) / (1 - t)."""

    def __init__(self) -> None:
        self.told: list[tuple[float, list[float]]] = []

    def __call__(self, x, time, previous, **condition):
        self.told.append((time[0].item(), previous[:, 0].tolist()))
        return (previous + 1 - x) / (1 - time[:, None])


def counted(update: str = "step", **options) -> tuple[Counter, SelfConditioned]:
    network = Counter()
    return network, SelfConditioned.around(adapt(network), update=update, **options)


@pytest.mark.parametrize(("update", "each"), [("step", 1), ("evaluation", 2)])
def test_heun_counts_steps_or_evaluations(update: str, each: int) -> None:
    """N Heun steps make the count N, or 2 N; the first evaluation of the step after them is told it."""
    network, model = counted(update)
    start = torch.zeros(2, 1, dtype=torch.float64)
    for steps in (1, 2, 3):
        network.told.clear()
        pf.sample(model, start, solver="heun", grid=GRID[: steps + 2])
        time, told = network.told[2 * steps]
        assert time == pytest.approx(GRID[steps])
        assert told == pytest.approx([each * steps] * 2, abs=1e-12)  # sums of four numbers near one in float64


def test_a_run_begins_with_nothing_and_two_runs_are_independent() -> None:
    network, model = counted("evaluation")
    runs = [model.bind(), model.bind()]
    x = torch.zeros(1, 1, dtype=torch.float64)
    for t in (0.0, 0.5):
        for run in runs:
            run.evaluate(x, t)
    assert [told for _, told in network.told] == [[0.0], [0.0], [1.0], [1.0]]


def test_a_rejected_step_leaves_the_memory_unchanged() -> None:
    network, model = counted()
    run, x = model.bind(), torch.zeros(1, 1, dtype=torch.float64)
    for t in (0.0, 0.3, 0.6, 0.9, 0.1):  # three stages of a step that is rejected, then one of a shorter step
        run.evaluate(x, t)
    assert [told[0] for _, told in network.told] == [0.0, 1.0, 2.0, 3.0, 1.0]


def test_adaptive_runs_count_accepted_steps_whatever_was_rejected() -> None:
    """Heun's pair evaluates at both ends of a step: its last stage is told how many steps were begun, that one too."""
    network, model = counted()
    x = torch.zeros(1, 1, dtype=torch.float64)
    solution = pf.solve_ode(model, x, [0.0, 0.8], method="heun21", rtol=0.02, atol=0.02, first_step=0.5)
    assert solution.rejected.item() > 0
    told = [value[0] for time, value in network.told if time == pytest.approx(0.8)]
    assert told[0] == pytest.approx(solution.accepted.item(), abs=1e-9)


def test_rows_at_times_of_their_own_remember_as_alone() -> None:
    """Any order of times, rows dropping out on the way: each row is told what it would be told alone."""
    network, model = counted()
    times = np.array([[0.0, 0.3, 0.6, 0.1, 0.5], [0.0, 0.1, 0.1, 0.2, 0.2], [0.1, 0.05, 0.2, 0.4, 0.3]])
    x = torch.zeros(3, 1, dtype=torch.float64)
    together, rows = model.bind(), np.arange(3)
    seen: dict[int, list[float]] = {0: [], 1: [], 2: []}
    for k in range(5):
        if k == 3:
            together, rows = together.select([2, 0]), rows[[2, 0]]
        together.evaluate_rows(x[: len(rows)], times[rows, k])
        for row, value in zip(rows.tolist(), network.told[-1][1], strict=True):
            seen[row].append(value)
    for row in (0, 2):
        alone = model.bind()
        network.told.clear()
        for k in range(5):
            alone.evaluate(x[:1], float(times[row, k]))
        assert seen[row] == pytest.approx([told[0] for _, told in network.told], abs=1e-12)


def test_resampling_permutes_and_doubles_the_memory() -> None:
    values = torch.tensor([[1.0], [2.0], [3.0]], dtype=torch.float64)
    told = []

    def network(x, time, previous):
        told.append(previous[:, 0].tolist())
        return x  # the estimate is the state

    model = SelfConditioned.around(adapt(network, "denoised"))
    run = model.bind()
    run.evaluate(values, 0.0)
    children = run.select([2, 0, 0])
    children.evaluate(10 * values, 0.5)
    children.evaluate(values, 0.75)
    run.select([1, 2, 0]).evaluate(values, 0.5)
    assert told == [[0.0, 0.0, 0.0], [3.0, 1.0, 1.0], [10.0, 20.0, 30.0], [2.0, 3.0, 1.0]]


def test_branches_keep_their_own_estimates_or_share_one() -> None:
    told = []

    def network(x, time, previous, y):
        told.append(previous[:, 0].tolist())
        return previous + y

    def run(**options):
        inner = adapt(network, "denoised", null={"y": torch.zeros(1, 1)})
        bound = SelfConditioned.around(inner, **options).bind({"y": torch.ones(1, 1)}, guidance=Guidance(3.0))
        told.clear()
        for t in (0.0, 0.25, 0.5):
            bound.evaluate(torch.zeros(1, 1), t, ("cond", "null"))
        return told[-1], bound.calls

    assert run() == ([2.0, 0.0], 3)
    assert run(share="cond") == ([2.0, 2.0], 3)
    assert run(clip=1.5) == ([1.5, 0.0], 3)


@pytest.mark.parametrize("kind", ["velocity", "noise", "denoised", "edm"])
def test_the_estimate_is_that_of_the_prediction(kind: str) -> None:
    oracle = pf.models.GaussianOracle([0.7], [[0.09]])
    inner, told = oracle.model(kind), []

    def network(x, time, previous, **condition):
        told.append(previous.clone())
        return inner.network(x, time, **condition)

    model = SelfConditioned.around(pf.models.adapt(network, inner.prediction, time_dtype=torch.float64))
    x = torch.tensor([[0.3], [-1.0]], dtype=torch.float64)
    run = model.bind()
    scale = inner.prediction.input_scale(0.4)
    run.evaluate(scale * x, 0.4)
    run.evaluate_rows(torch.tensor([[1.0]]) * x, [0.6, 0.7])
    a, b = inner.prediction.denoised(0.4)
    exact = a * x + b * inner.evaluate(scale * x, 0.4)[0]
    # an affine combination of two numbers in float64, its inverse scale included
    torch.testing.assert_close(told[-1], exact, rtol=1e-13, atol=1e-13)


def test_half_precision_networks_are_told_estimates_of_their_own_dtype() -> None:
    def network(x, time, previous):
        assert previous.dtype == x.dtype == torch.bfloat16
        return previous + 1

    run = SelfConditioned.around(adapt(network, "denoised", dtype=torch.bfloat16)).bind()
    assert [run.evaluate(torch.zeros(1, 1), t)[0].item() for t in (0.0, 0.5)] == [1.0, 2.0]


def test_what_needs_an_ode_is_refused() -> None:
    _, model = counted()
    x = torch.zeros(1, 1, dtype=torch.float64)
    for attempt in (
        lambda: pf.sample(model, x, solver="euler", steps=2, backward=True),
        lambda: pf.solve_ode(model, x, [0.9, 0.0]),
        lambda: pf.solve_ode(composed(adapt(lambda x, t: x), other=model), x, [0.9, 0.0]),
        lambda: pf.log_density(model, x),
        lambda: pf.solve_ode(model, x, [0.0, 0.5], gradient="adjoint"),
        lambda: pf.sample_parallel(model, x, steps=4),
    ):
        with pytest.raises(ArgumentError, match="feeds back its own estimate"):
            attempt()
    assert composed(adapt(lambda x, t: x), other=model).remembers is Remembers.FEEDBACK
    with pytest.raises(ArgumentError, match="whose answers depend on earlier calls"):
        pf.search(model, lambda x: x[:, 0], 10, shape=(1, 1))


def test_bad_arguments_are_named() -> None:
    _, model = counted()
    with pytest.raises(UnknownNameError, match="update: got 'stage', expected 'step' or 'evaluation'"):
        counted("stage")
    with pytest.raises(ArgumentError, match="clip: got 0"):
        counted(clip=0.0)
    with pytest.raises(ArgumentError, match=r"inner.*the network's own model. Put other wrappers around this one"):
        SelfConditioned.around(model).bind()
    run = model.bind()
    run.evaluate(torch.zeros(2, 1), 0.0)
    with pytest.raises(ShapeError, match="3 rows, expected 2, as before"):
        run.evaluate(torch.zeros(3, 1), 0.1)
    short = counted(kept=2)[1].bind()
    for t in (0.0, 0.2, 0.4, 0.6):
        short.evaluate(torch.zeros(1, 1), t)
    with pytest.raises(ArgumentError, match="kept: got 2, expected as many values as a step has stages"):
        short.evaluate(torch.zeros(1, 1), 0.1)
