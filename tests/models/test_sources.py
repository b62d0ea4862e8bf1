"""Flows that start from encoded data: what the source draws, how runs start there, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch

import pushforward as pf
from pushforward.errors import ArgumentError, ShapeError
from pushforward.models import (
    CouplingOracle,
    EncodedSource,
    GaussianOracle,
    GaussianSource,
    TwoSided,
    adapt,
    prediction_from_config,
)

MEANS = torch.tensor([[1.0, -2.0], [0.0, 3.0], [5.0, 0.5]], dtype=torch.float64)
SPREADS = torch.tensor([[0.5, 2.0], [1.0, 0.1], [0.25, 1.5]], dtype=torch.float64)
SOURCE = EncodedSource(lambda label: (MEANS[label], 2 * SPREADS[label].log()), ("label",))
PAIRED = CouplingOracle(
    [1.0], [([0.5], [[1.0]])], [([2.0], [[0.8]])], [[[0.6]]], TwoSided(strength=0.0)
)  # x_1 = 0.6 (x_0 - 0.5) + 2 and noise of variance 0.44


def flow(network=lambda x, t, **told: -x, **options):
    return adapt(network, "velocity", source_is_noise=False, **options)


def test_the_source_has_the_moments_of_its_encoder() -> None:
    """Mean and variance of 1e4 draws within 4 standard errors; sqrt(2 / n) is that of a normal variance."""
    count = 10_000
    for label in range(3):
        x = SOURCE.sample(7, torch.arange(count), {"label": torch.tensor([label])})
        assert x.shape == (count, 2)
        error = SPREADS[label] / math.sqrt(count)
        assert ((x.mean(0) - MEANS[label]).abs() < 4 * error).all()
        assert ((x.var(0) / SPREADS[label] ** 2 - 1).abs() < 4 * math.sqrt(2 / count)).all()


def test_draws_belong_to_samples() -> None:
    label = torch.tensor([0, 2, 1, 1])
    whole = SOURCE.sample(3, None, {"label": label})
    assert torch.equal(SOURCE.sample(3, torch.tensor([2]), {"label": label[2:3]}), whole[2:3])
    assert not torch.equal(SOURCE.sample(4, None, {"label": label}), whole)
    fixed = EncodedSource(SOURCE.encoder, ("label",), deterministic=True)
    assert torch.equal(fixed.sample(3, None, {"label": label}), MEANS[label])
    noise = GaussianSource((2,), torch.float64).sample(3, torch.arange(4))
    torch.testing.assert_close(whole, MEANS[label] + SPREADS[label] * noise, rtol=1e-15, atol=1e-15)


def test_a_run_starts_from_a_source() -> None:
    """The encoder takes its part of the condition, the network the rest; noise is the default, said in another way."""
    told = []

    def network(x, t, **condition):
        told.append(sorted(condition))
        return condition["target"] - x

    condition = {"label": torch.tensor([2, 0, 1]), "target": torch.ones(1, 2, dtype=torch.float64)}
    x = pf.sample(flow(network), SOURCE, solver="euler", steps=4, condition=condition, seed=5)
    start = SOURCE.sample(5, None, condition)
    assert told[0] == ["target"]
    torch.testing.assert_close(x, 1 + (start - 1) * 0.75**4, rtol=1e-14, atol=1e-14)
    model = GaussianOracle([0.7, 0.1], [[0.09, 0.0], [0.0, 0.2]]).model()
    ids = torch.tensor([4, 1])
    plain = pf.sample(model, (2, 2), steps=5, seed=8, samples=ids)
    assert torch.equal(pf.sample(model, GaussianSource((2,)), steps=5, seed=8, samples=ids), plain)


def test_the_indicator_guides_at_the_same_state_with_two_rows() -> None:
    def network(x, t, ignore):
        return torch.where(ignore[:, None], -x, 1 - x)

    model = flow(network, null={"ignore": torch.tensor([True])})
    bound = model.bind({"ignore": torch.tensor([False])}, guidance=7.0)
    cond, null = bound.evaluate(torch.zeros(3, 2), 0.5, ("cond", "null"))
    assert (bound.calls, bound.rows) == (1, 6)
    assert torch.equal(cond - null, torch.ones(3, 2))
    x = pf.sample(
        model, torch.zeros(3, 2), solver="euler", steps=1, guidance=7.0, condition={"ignore": torch.tensor([False])}
    )
    assert torch.equal(x, torch.full((3, 2), 7.0))


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("heun", 2)])
def test_orders_on_a_coupling(solver: str, order: int) -> None:
    """The end of a linear flow by Richardson's limit; the slope of two halvings, extrapolated, is the order."""
    model = flow(lambda x, t: PAIRED.velocity(x, t), time_dtype=torch.float64, time_shape="one")
    start, _ = PAIRED.pairs(4)
    exact = pf.sample(model, start, solver="rk4", steps=100)
    errors = [(pf.sample(model, start, solver=solver, steps=n) - exact).abs().max().item() for n in (16, 32, 64)]
    coarse, fine = math.log2(errors[0] / errors[1]), math.log2(errors[1] / errors[2])
    assert abs(2 * fine - coarse - order) < 0.05


def test_times_that_run_ahead_have_a_bias_that_ours_have_not() -> None:
    """On pairs x_1 = 3 x_0 + 1 lines are straight and Euler is exact; the published loop evaluates at i / (N - 1)."""

    def velocity(x, t):
        return 2 * (x - t) / (1 + 2 * t) + 1

    start = torch.tensor([[0.4], [-1.0]], dtype=torch.float64)
    exact, bias = 3 * start + 1, []
    for steps in (20, 40, 80):
        ours = pf.sample(flow(velocity, time_shape="one"), start, solver="euler", steps=steps)
        assert (ours - exact).abs().max() < 1e-13
        x = start
        for i in range(steps):
            x = x + velocity(x, i / (steps - 1)) / steps
        bias.append((x - exact).abs().max().item())
    assert bias[0] > 1e-2
    assert [bias[0] / bias[1], bias[1] / bias[2]] == pytest.approx([2.0, 2.0], rel=0.1)


def test_what_needs_noise_is_refused() -> None:
    model, x = flow(), torch.zeros(2, 2, dtype=torch.float64)
    said = "this flow starts from encoded data, not noise: its velocity defines no score"
    for attempt in (
        lambda: model.prediction.quantity("score", 0.5),
        lambda: model.prediction.quantity("noise", 0.5),
        lambda: pf.models.ModelField(model, quantity="score")(x, [0.5, 0.5]),
        lambda: pf.sample(model, x, solver="euler_maruyama", steps=4),
        lambda: pf.sample(model, x, solver="ddim", steps=4),
        lambda: pf.sample(model, x, solver="ddim", steps=4, path="vp"),
        lambda: pf.search(model, lambda x: x[:, 0], 10, shape=(1, 2)),
    ):
        with pytest.raises(ArgumentError, match=said):
            attempt()
    with pytest.raises(ArgumentError, match=r"start: got the shape \(2, 2\), expected a Source or a tensor"):
        pf.sample(model, (2, 2), steps=4)
    with pytest.raises(ArgumentError, match="base: got None, where the path does not start from Gaussian noise"):
        pf.log_density(model, x)
    found = pf.log_density(model, x, base=lambda x: -x.square().sum(1))
    assert found.value.isfinite().all()
    with pytest.raises(ArgumentError, match="start: got a source, expected a tensor of data"):
        pf.sample(model, SOURCE, steps=2, backward=True, condition={"label": torch.tensor([0])})
    with pytest.raises(ArgumentError, match="a source is the state at t = 0"):
        pf.sample(model, SOURCE, grid=[0.2, 1.0], condition={"label": torch.tensor([0])})


def test_the_flag_survives_json() -> None:
    read = prediction_from_config(flow().prediction.to_config())
    assert not read.source_is_noise
    assert not read.on("vp").source_is_noise


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ArgumentError, match=r"condition: got \['y'\], expected \['label'\], for the encoder too"):
        SOURCE.sample(0, None, {"y": torch.tensor([1])})
    with pytest.raises(ArgumentError, match="samples"):
        GaussianSource((2,)).sample(0)
    with pytest.raises(ArgumentError, match="arguments: got none"):
        EncodedSource(SOURCE.encoder, ())
    with pytest.raises(ArgumentError, match="encoder: got int"):
        EncodedSource(3, ("label",))
    with pytest.raises(ShapeError, match="encoder: got 3 rows, expected 2, one a sample, or 1"):
        SOURCE.sample(0, torch.arange(2), {"label": torch.arange(3)})
    odd = EncodedSource(lambda label: (torch.zeros(1, 2), torch.zeros(1, 3)), ("label",))
    with pytest.raises(ShapeError, match=r"mean \[1, 2\], log-variance \[1, 3\]"):
        odd.sample(0, None, {"label": 0})
