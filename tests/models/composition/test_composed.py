"""What a composition costs, refuses and restarts."""

from __future__ import annotations

import json
import math

import pytest
import torch

import pushforward as pf
from pushforward.errors import ArgumentError, PlanError, SingularTimeError
from pushforward.models import (
    Blend,
    Directions,
    GaussianOracle,
    Guidance,
    Linear,
    MixtureOracle,
    RenoisedGuidance,
    Stitch,
    VPLinear,
    adapt,
    cfgpp_weight,
    composed,
)
from pushforward.solvers import plan, solver
from pushforward.solvers.lowered import lowered_plan

X = torch.tensor([[0.5, -1.0], [2.0, 0.1]], dtype=torch.float64)

ROUNDING = 10 * 5 * 2.3e-16  # ten roundings of numbers of order one, divided by alpha or sigma of at least 0.2


def network(x, time, y):
    return y * x


def model(**branches):
    return adapt(network, null={"y": torch.zeros(1, 1, dtype=torch.float64)}).with_branches(**branches)


def y(value: float):
    return {"y": torch.full((1, 1), value, dtype=torch.float64)}


def test_branches_of_one_network_are_one_call_and_rows_of_weight_zero_none() -> None:
    other = model()
    both = composed(model(up=y(2.0)), other=other)
    bound = both.bind(y(1.0))
    outputs = bound.evaluate(X, 0.5, ("cond", "other", "up", "null", "other.null"))
    assert [float((out / X).mean()) for out in outputs] == [1.0, 1.0, 2.0, 0.0, 0.0]
    assert (bound.calls, bound.rows) == (2, 10)
    stitched = Stitch.shares({"other": 0.5, "cond": 0.5}, guidance={"cond": 3.0})
    written = lowered_plan(solver("euler"), (0.0, 0.25, 0.5, 0.75, 1.0), Linear(), both.prediction, stitched)
    assert [e.labels for e in written.evaluations] == [("other",)] * 2 + [("cond", "null")] * 2
    assert written.cost((2, 2)).branch_rows == {"other": 2, "cond": 2, "null": 2}


def test_rows_with_times_of_their_own_are_converted_row_by_row() -> None:
    oracle = GaussianOracle([0.3], [[0.25]], VPLinear())
    both = composed(GaussianOracle([0.3], [[0.25]]).model(), noise=oracle.model("noise"), edm=oracle.model("edm"))
    bound, x = both.bind(), torch.tensor([[0.5], [-1.0], [0.2]], dtype=torch.float64)
    cond, noise, edm = bound.select([0, 1, 2]).evaluate_rows(x, [0.2, 0.5, 0.7], ("cond", "noise", "edm"))
    torch.testing.assert_close(noise, cond, rtol=0, atol=ROUNDING)
    torch.testing.assert_close(edm, cond, rtol=0, atol=ROUNDING)
    single = torch.cat([bound.evaluate(x[i : i + 1], t, ("noise",))[0] for i, t in enumerate((0.2, 0.5, 0.7))])
    torch.testing.assert_close(single, noise, rtol=0, atol=ROUNDING)


def test_adaptive_solvers_take_a_composition() -> None:
    sharp, broad = GaussianOracle([1.0], [[0.25]]), GaussianOracle([-1.0], [[0.25]])
    both, x0 = composed(sharp.model(), other=broad.model()), torch.tensor([[0.3], [-1.0]], dtype=torch.float64)
    found = pf.solve_ode(both, x0, [0.0, 1.0], rtol=1e-9, atol=1e-9, guidance=Blend(cond=0.75, other=0.25)).final
    torch.testing.assert_close(found, 0.5 * x0 + 0.5, rtol=0, atol=50 * 1e-9)  # 50 times the tolerance, as specs ask


@pytest.mark.parametrize("name", ["ab2", "dpmpp_2m", "unipc"])
def test_multistep_solvers_start_afresh_at_a_switch(name: str) -> None:
    times = tuple(0.05 + 0.9 * k / 8 for k in range(9))
    stitched = Stitch(("other", "cond"), (times[4],))
    prediction = GaussianOracle([0.0], [[1.0]]).model("denoised").prediction
    written = lowered_plan(solver(name), times, Linear(), prediction, stitched)
    alone = plan(solver(name), times[4:], Linear(), prediction=prediction).lower(prediction)
    second = [i for i in written.evaluations if i.step >= 4]
    assert [e.time for e in second] == [e.time for e in alone.evaluations]
    mixture = MixtureOracle([0.5, 0.5], [[-1.0], [1.0]], [[[0.1]], [[0.1]]])
    model = composed(mixture.model("denoised"), other=GaussianOracle([0.0], [[1.0]]).model("denoised"))
    x = torch.tensor([[0.4], [-0.2]], dtype=torch.float64)
    seen = pf.solvers.Trajectory()
    whole = pf.sample(model, x, solver=name, grid=times, guidance=stitched, last_step="solver", hooks=[seen])
    middle = seen.states[3]  # at the end of the fourth step
    rest = pf.sample(model, middle, solver=name, grid=times[4:], last_step="solver")
    torch.testing.assert_close(whole, rest, rtol=0, atol=1e-13)  # merged sums round otherwise


@pytest.mark.parametrize("path", [Linear(), VPLinear()], ids=str)
def test_renoised_guidance_is_the_step_of_its_definition(path) -> None:
    cond, null = (GaussianOracle([m], [[0.25]], path).model("noise") for m in (1.0, -1.0))
    both, x, scale = composed(cond, null_like=null), torch.tensor([[0.4], [-0.7]], dtype=torch.float64), 0.6
    t, t_next = 0.3, 0.5
    weights = RenoisedGuidance(scale).step_weights(t, t_next, path)
    (a, s), (a2, s2) = (path(t)[:2], path(t_next)[:2])
    n_cond, n_null = both.bind().evaluate(x, t, ("cond", "null_like"))
    guided = (x - s * (n_null + scale * (n_cond - n_null))) / a
    n = weights["cond"] * n_cond + weights["null"] * n_null
    ddim = a2 * (x - s * n) / a + s2 * n
    torch.testing.assert_close(ddim, a2 * guided + s2 * n_null, rtol=0, atol=1e-13)
    assert cfgpp_weight(scale, math.inf) == scale


def test_renoised_guidance_is_undone_from_data_to_noise() -> None:
    """Where the noises do not depend on the state, the inversion of a run is its inverse; without scale it is DDIM."""
    path, times, x = VPLinear(), [0.1, 0.35, 0.6, 0.9], torch.tensor([[0.4], [-0.7]], dtype=torch.float64)
    fixed = adapt(lambda x, t, y: (y + t[:1, None] * 0).expand_as(x), "noise", path, null={"y": torch.tensor([[-0.3]])})
    options = {"solver": "ddim", "grid": times, "condition": {"y": torch.tensor([[1.1]])}}
    for scale in (0.6, -0.2):
        ahead = pf.sample(fixed, x, guidance=RenoisedGuidance(scale), **options)
        back = pf.sample(fixed, ahead, guidance=RenoisedGuidance(scale), backward=True, **options)
        assert (back - x).abs().max() < 1e-12
        assert (ahead - pf.sample(fixed, x, guidance=1.0, **options)).abs().max() > 0.1
    none, null = (pf.sample(fixed, x, guidance=g, **options) for g in (RenoisedGuidance(0.0), 0.0))
    assert (none - null).abs().max() < 1e-14


def test_renoised_guidance_needs_a_solver_that_renoises() -> None:
    path, prediction = Linear(), GaussianOracle([0.0], [[1.0]]).model().prediction
    with pytest.raises(PlanError, match="renoises a clean estimate"):
        lowered_plan(solver("heun"), (0.1, 0.5, 0.9), path, prediction, RenoisedGuidance(0.5))
    with pytest.raises(ArgumentError, match="do not depend on the step"):
        RenoisedGuidance(0.5).weights_at(0.5, path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Blend(cond=0.5, other=0.4), "sum 0.9"),
        (lambda: Blend(cond=lambda t: 0.5, other=0.4).weights_at(0.3), "weights at t = 0.3"),
        (lambda: Blend(), "weights: got none"),
        (lambda: Stitch.shares({"a": 0.5, "b": 0.4}), "sum 0.9"),
        (lambda: Stitch(("a", "b", "c"), (0.6, 0.4)), "increasing times"),
        (lambda: Stitch(("a", "b", "c"), (0.4, 0.6), in_="noise_ratio"), "decreasing noise ratios"),
        (lambda: Stitch(("a",), ()), "two branches or more"),
        (lambda: Stitch(("a", "b"), (0.5,), guidance={"c": 2.0}), r"\['c'\]"),
        (lambda: Directions({}), "scales: got none"),
        (lambda: Directions({"a": 1.0}, windows={"b": (0.0, 1.0)}), r"\['b'\]"),
        (lambda: Directions({"a": math.nan}), "scale of 'a'"),
        (lambda: Guidance(2.0, against="cond"), "another branch"),
        (lambda: composed(model(), null=model()), "members"),
        (lambda: composed(model(up=y(1.0)), up=model()), "members"),
        (lambda: composed(adapt(network, channels=3), a=adapt(network, channels=4)), "4 channels"),
        (lambda: model(null=y(1.0)), "branch: got 'null'"),
        (lambda: model(up=3.0), "up: got float"),
        (lambda: model().bind(y(1.0), guidance=Blend(cond=2.0, up=-1.0)), "branch: got 'up'"),
        (lambda: composed(model(), a=model()).bind(y(1.0)).evaluate(X, 0.5, ("b",)), "branch: got 'b'"),
        (lambda: cfgpp_weight(0.5, 0.0), "h: got 0"),
    ],
)
def test_what_makes_no_composition_is_refused(make, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        make()


def test_a_member_that_does_not_determine_the_leading_output_says_when() -> None:
    oracle = GaussianOracle([0.0], [[1.0]])
    both = composed(oracle.model(), noise=oracle.model("noise"))
    with pytest.raises(SingularTimeError, match="predicts noise does not say"):
        both.bind().evaluate(torch.ones(1, 1, dtype=torch.float64), 0.0, ("noise",))


def test_weights_are_json() -> None:
    for weights in (
        Blend(cond=1.0),
        Directions({"a": 2.0}, windows={"a": (0.1, 0.5)}, base=3.0),
        Stitch.shares({"a": 0.4, "cond": 0.6}, guidance={"cond": Guidance(4.0, interval=(0.5, 0.9))}),
        RenoisedGuidance(0.5),
    ):
        assert json.loads(json.dumps(weights.to_config())) == weights.to_config()
    with pytest.raises(ArgumentError, match="a function"):
        Blend(cond=lambda t: 1.0).to_config()


def test_a_share_of_the_steps_of_a_grid_is_a_bound_at_one_of_them() -> None:
    times = [0.0, 0.1, 0.3, 0.6, 1.0]
    assert Stitch.shares({"a": 0.5, "cond": 0.5}, grid=times).bounds == (0.3,)
    for share, name in ((0.0, "cond"), (1.0, "a")):
        weights = Stitch.shares({"a": share, "cond": 1 - share})
        assert {weights.active(t) for t in times} == {name}
        small = adapt(lambda x, time, y: torch.sin(y * x))
        options = {"solver": "euler", "steps": 5, "condition": y(1.0)}
        stitched = pf.sample(composed(model(), a=small), X, guidance=weights, **options)
        alone = pf.sample(model() if name == "cond" else small, X, **options)
        assert torch.equal(stitched, alone), "bit for bit the one network"


def test_directions_cost_a_row_each_and_share_the_null_one() -> None:
    edited = model(smile=y(1.0), age=y(0.5))
    for base, rows in ((0.0, 3), (1.0, 4), (3.0, 4)):
        guidance = Directions({"smile": 2.0, "age": -0.5}, base=base)
        assert pf.make_plan(edited, solver="euler", steps=4, guidance=guidance).cost().forward_passes == 4 * rows
