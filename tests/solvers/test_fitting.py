"""Fitted plans: known solutions are found, what is reported is true, a bad fit costs nothing, and plans are plans."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path

import pytest
import torch
from small_starts import MIXTURE, small_groups

import pushforward as pf
from pushforward import models, solvers
from pushforward.errors import ArgumentError, CorruptFileError, GridError, NotFiniteError, UnknownNameError
from pushforward.solvers import FittedPlan, FitWarning
from pushforward.solvers.fitting.family import Family
from pushforward.solvers.fitting.responses import base_coefficients
from pushforward.solvers.fitting.starts import linear_times
from pushforward.solvers.fitting.stepwise import fit_steps
from pushforward.solvers.ode import FittedMultistep, adams_weights

FEW = {"pairs": 128, "dtype": torch.float64, "rounds": 0, "polish": 1, "reference_steps": 24}


@pytest.fixture(scope="module")
def fitted() -> FittedPlan:
    """Five steps on the mixture."""
    return pf.fit(MIXTURE, 5, (2,), seed=3, **FEW)


def held_out(pairs: int) -> torch.Tensor:
    """The sample ids that only the report sees."""
    return torch.arange(pairs - pairs // 4, pairs)


# --- what is known in advance ------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [models.Linear(), models.VPLinear()], ids=["linear", "vp"])
def test_one_weight_a_step_solves_a_centred_gaussian(path: models.Interpolant) -> None:
    """Its flow multiplies each state by a number; what is left is the error of RK4's exact samples, and the ridge."""
    model = models.GaussianOracle([0.0], [[0.25]], path).model("denoised")
    found = pf.fit(model, 4, (1,), grid=solvers.Karras(largest=20.0), memory=1, **FEW)
    assert found.report.fitted.error < max(3 * found.report.reference_error, 1e-6)
    assert found.report.base.error > 100 * found.report.fitted.error
    assert pf.make_plan(model, solver=found).nfe == 4


@pytest.mark.parametrize("ridge", [None, 1e-12])
def test_straight_trajectories_stay_exact(ridge: float | None) -> None:
    """A point mass on the linear path: any consistent step is exact, nothing can be gained, and nothing is lost."""
    model = models.GaussianOracle([0.7, -0.2], [[0.0, 0.0], [0.0, 0.0]]).model("denoised")
    with pytest.warns(FitWarning, match="nothing gained"):
        found = pf.fit(model, 3, (2,), ridge=ridge, **FEW)
    x = pf.sample(model, (5, 2), solver=found, dtype=torch.float64)
    torch.testing.assert_close(x, torch.tensor([[0.7, -0.2]], dtype=torch.float64).expand(5, 2), rtol=0, atol=1e-14)
    # Without the retreat to the base: the coefficients themselves.
    groups, times = small_groups(model, 2), (0.0, 0.3, 0.7, 1.0)
    base = base_coefficients(solvers.solver("ddim"), times, models.Linear())
    step = fit_steps(groups, times, Family(), base, (ridge or 1e-10,), 2.0).formula.on(models.Linear())
    y = pf.sample(model, (5, 2), solver=step, dtype=torch.float64)
    torch.testing.assert_close(y, x, rtol=0, atol=1e-12)


def test_an_infinite_ridge_is_the_base_to_the_last_bit() -> None:
    found = pf.fit(MIXTURE, 5, (2,), base="unipc", ridge=math.inf, **FEW)
    run = {"dtype": torch.float64, "seed": 9}
    assert torch.equal(pf.sample(MIXTURE, (8, 2), solver=found, **run),
                       pf.sample(MIXTURE, (8, 2), solver="unipc", steps=5, **run))  # fmt: skip
    assert not found.gained
    assert found.report.fitted == found.report.base


@pytest.mark.parametrize("base", ["unipc3", "dpmpp_2m", "ab3_ramp", "deis_tab2", "ddim"])
@pytest.mark.parametrize("path", [models.Linear(), models.VPLinear()], ids=["linear", "vp"])
def test_a_strong_ridge_comes_to_the_base(base: str, path: models.Interpolant) -> None:
    """Coefficients read off any plan, on any path, make its samples again; the ridge's share is 1 / 1e14."""
    model = models.reference_mixture(path).model("denoised")
    times = pf.grid("log_snr", 5, path)
    linear = linear_times(path, times)
    rows = base_coefficients(solvers.solver(base), times, path)
    formula = fit_steps(small_groups(model, 2, linear[0]), linear, Family(), rows, (1e14,), 2.0).formula
    options = {"grid": times, "dtype": torch.float64}
    x, y = (pf.sample(model, (6, 2), solver=s, **options) for s in (base, formula.on(path, times)))
    torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-9)


def test_the_base_in_the_coordinates_of_the_fit() -> None:
    """Adams-Bashforth is itself there, and every consistent formula keeps a constant state: a = 1."""
    times = (0.0, 0.2, 0.5, 1.0)
    rows = base_coefficients(solvers.solver("ab3_ramp"), times, models.Linear())
    assert rows[2] == pytest.approx([1, *adams_weights(times[2::-1], 0.5, 1.0)], abs=1e-12)
    for name in ("unipc", "dpmpp_3m", "deis_tab3"):
        path = models.VPLinear()
        for row in base_coefficients(solvers.solver(name), pf.grid("log_snr", 6, path), path):
            assert row[0] == pytest.approx(1, abs=1e-9)


# --- the report, and what it decides -----------------------------------------------------------------------------


def test_the_reported_errors_are_those_of_samples(fitted: FittedPlan) -> None:
    """Drawn again by the public function, on the same held-out starts, against a reference of its own."""
    draw = {"seed": 3, "samples": held_out(128), "dtype": torch.float64}
    exact = pf.sample(MIXTURE, (32, 2), solver="rk4", steps=100, **draw)
    report = fitted.report
    for told, options in ((report.fitted, {"solver": fitted}), (report.base, {"solver": "unipc", "steps": 5})):
        errors = (pf.sample(MIXTURE, (32, 2), **options, **draw) - exact).square().mean(1).sqrt()
        assert errors.square().mean().sqrt().item() == pytest.approx(told.error, abs=3 * report.reference_error)
        assert errors.max().item() == pytest.approx(told.worst, abs=1e-3)
    assert report.gain > 2
    assert report.standard.error > report.fitted.error
    assert [nfe for nfe, _ in report.base_by_nfe] == [5, 8, 10]


def test_the_seed_alone_decides(fitted: FittedPlan) -> None:
    """Whatever rows the network sees at once: this one treats them alone."""
    assert pf.fit(MIXTURE, 5, (2,), seed=3, batch=13, **FEW) == fitted


@pytest.mark.parametrize(("memory", "carried"), [(1, 0), (2, 1), (3, 2), (None, 4)])
def test_short_memory_keeps_few_buffers(memory: int | None, carried: int) -> None:
    """As many tensors live on as in a multistep formula of that memory, and most of the gain stays."""
    found = pf.fit(MIXTURE, 5, (2,), seed=3, memory=memory, **FEW)
    assert pf.make_plan(MIXTURE, solver=found).carried == carried
    assert found.report.gain > (1.3 if memory == 1 else 2)


def test_gradients_find_what_least_squares_do() -> None:
    """From the base alone, Adam has to come most of the way; after least squares it may not lose anything."""
    alone = pf.fit(MIXTURE, 3, (2,), method="gradient", iterations=60, **FEW)
    assert alone.report.gain > 1.5
    squares, both = (pf.fit(MIXTURE, 3, (2,), method=m, iterations=20, **FEW) for m in ("least-squares", "both"))
    assert both.report.fitted.error < 1.1 * squares.report.fitted.error


def test_several_scales_and_conditions() -> None:
    """One plan for guidance 1 to 3 on a network whose guided mean it triples; the report tells labels apart."""

    def network(x: torch.Tensor, t: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        gain = (t * 0.25 - (1 - t)) / (t * t * 0.25 + (1 - t) ** 2)
        mean = label[:, None].to(x) - 1
        return mean + gain[:, None] * (x - t[:, None] * mean) + 0.1 * torch.sin(3 * x)

    model = models.adapt(network, null={"label": torch.tensor([1])})
    found = pf.fit(model, 4, (1,), guidance=(1.0, 3.0), condition={"label": torch.arange(128) % 3}, **FEW)
    assert [scale for scale, *_ in found.report.by_guidance] == [1.0, 3.0]
    assert [label for label, *_ in found.report.by_condition] == [0, 1, 2]
    assert found.report.gain > 2
    draw = {"condition": {"label": torch.tensor([2])}, "dtype": torch.float64}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pf.sample(model, (2, 1), solver=found, guidance=2.0, **draw)
    with pytest.warns(FitWarning, match=r"guidance: got 4.0, expected 1.0, 3.0"):
        pf.sample(model, (2, 1), solver=found, guidance=4.0, **draw)


def test_channels_of_other_scales_have_coefficients_of_their_own() -> None:
    """Three channels whose flows differ: two numbers a step, for all, cannot be right; two for each are."""
    model = models.GaussianOracle([0.0] * 3, torch.tensor([0.01, 1.0, 9.0]).diag().tolist()).model()
    plain, own = (pf.fit(model, 3, (3,), memory=1, per_channel=c, **FEW | {"polish": 0}) for c in (False, True))
    assert own.report.fitted.error < 1e-8 < 1e-4 * plain.report.fitted.error
    assert FittedPlan.from_json(own.to_json()) == own
    polished = pf.fit(model, 2, (3,), memory=2, per_channel=True, method="both", iterations=4, **FEW)
    assert polished.report.fitted.error < 1e-8


def test_a_noise_predictor_on_a_discrete_path() -> None:
    path = models.DiscreteDDPM.scaled_linear()
    model = models.reference_mixture(path).model("noise")
    found = pf.fit(model, 5, (2,), grid="log_snr", **FEW | {"dtype": torch.float32, "rounds": 1})
    assert (found.times[0], found.times[-1]) == (pf.grid("log_snr", 5, path)[0], 1.0)
    assert found.report.gain > 2


# --- a plan among plans ------------------------------------------------------------------------------------------


def test_it_survives_json_and_other_paths(fitted: FittedPlan) -> None:
    again = FittedPlan.from_json(fitted.to_json())
    assert again == fitted
    assert hash(again) == hash(fitted)
    plan = pf.make_plan(MIXTURE, solver=again)
    assert plan.solver == "FittedPlan(FittedMultistep(5 steps, up to 5 outputs))"
    assert (plan.nfe, plan.grid) == (5, fitted.times)
    assert solvers.Plan.from_json(plan.to_json()) == plan
    values = json.loads(fitted.to_json())
    assert values["solver"].pop("opening") > 0
    assert FittedPlan.from_config(values).solver.opening is None  # a file of before there were any
    for other in ("[]", "{}", fitted.to_json().replace("pushforward-fit/1", "other")):
        with pytest.raises(CorruptFileError, match="fitted plan"):
            FittedPlan.from_json(other)


def test_the_same_numbers_serve_another_path() -> None:
    """The coefficients belong to noise ratios: planned on the model's other path the samples are the same."""
    grid = [0.05, 0.3, 0.6, 0.8, 1.0]
    found = pf.fit(MIXTURE, 4, (2,), grid=grid, **FEW)
    noise = torch.randn(6, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = pf.sample(MIXTURE, 0.95 * noise, solver=found)
    y = pf.sample(MIXTURE, 0.95 * noise, solver=found, path="vp")
    torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("quantity", ["velocity", "denoised", "noise"])
def test_the_first_output_is_asked_for_at_the_opening(quantity: str) -> None:
    """By hand on the linear path, of the first state as it is; and the same on other paths."""
    times, opening, rows, scales = (0.05, 0.4, 1.0), 0.15, ((0.4,), (0.5, 0.1)), (0.9, 1.1)
    formula = FittedMultistep(times, rows, models.Linear(), scales, quantity, opening)
    y = torch.randn(6, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    asked = list[float]()

    def q(state: torch.Tensor, t: float) -> torch.Tensor:
        asked.append(t)
        clean = models.reference_mixture().denoised(state, t)
        noise = (state - t * clean) / (1 - t)
        return {"denoised": clean, "noise": noise, "velocity": clean - noise}[quantity]

    first = q(y, opening)
    middle = scales[0] * y + rows[0][0] * first
    end = scales[1] * middle + rows[1][0] * q(middle, times[1]) + rows[1][1] * first
    # Some 20 roundings of numbers below 8, 4 eps each, that two evaluations, of slopes below 2, carry on: 20 * 4 * 4.
    bound = {"rtol": 0, "atol": 320 * torch.finfo(torch.float64).eps}
    torch.testing.assert_close(pf.sample(MIXTURE, y, solver=formula), end, **bound)
    torch.testing.assert_close(pf.sample(MIXTURE, y, solver=formula, path="vp"), end, **bound)
    assert [e.time for e in pf.make_plan(MIXTURE, solver=formula).evaluations] == asked == [opening, times[1]]


def test_it_serves_its_own_grid_only(fitted: FittedPlan) -> None:
    with pytest.raises(GridError, match="expected the noise ratios that FittedMultistep"):
        pf.make_plan(MIXTURE, solver=fitted, grid="cosine", steps=5)
    with pytest.raises(GridError):
        pf.make_plan(MIXTURE, solver=fitted, steps=6)
    with pytest.raises(ArgumentError, match="got 1 rows, expected 2, one for each step"):
        FittedMultistep((0.0, 0.5, 1.0), ((0.5,),), models.Linear())
    with pytest.raises(ArgumentError, match=r"weights\[0\]: got 2 weights, expected 1 to 1"):
        FittedMultistep((0.0, 1.0), ((0.5, 0.5),), models.Linear())
    with pytest.raises(ArgumentError, match="scales: got 2 numbers, expected 1"):
        FittedMultistep((0.0, 1.0), ((0.5,),), models.Linear(), (1.0, 1.0))
    with pytest.raises(ArgumentError, match="quantity"):
        FittedMultistep((0.0, 1.0), ((0.5,),), models.Linear(), quantity="score")  # type: ignore[arg-type]
    for opening in (-0.1, 0.5, math.nan):
        with pytest.raises(ArgumentError, match=r"opening: .* within the first step"):
            FittedMultistep((0.0, 0.5, 1.0), ((0.5,), (0.5,)), models.Linear(), opening=opening)


def test_another_model_warns() -> None:
    """Two networks with the same shape of weights; only one was fitted."""
    nets = [torch.nn.Linear(2, 2, dtype=torch.float64).requires_grad_(False) for _ in range(2)]
    mine, other = (models.adapt(lambda x, t, net=net: net(x)) for net in nets)
    assert models.fingerprint(mine) == "unknown"
    mine, other = (models.adapt(Field(net)) for net in nets)
    assert models.fingerprint(mine) != models.fingerprint(other)
    found = pf.fit(mine, 2, (2,), **FEW | {"pairs": 32})
    with pytest.warns(FitWarning, match="which this plan was fitted to"):
        FittedPlan.from_json(found.to_json(), other)
    with pytest.warns(FitWarning, match="fingerprint"):
        pf.make_plan(other, solver=found)
    with torch.no_grad():
        nets[0].weight.mul_(2.0)
    with pytest.warns(FitWarning, match="fingerprint"):
        pf.make_plan(mine, solver=found)


class Field(torch.nn.Module):
    """A velocity."""

    def __init__(self, net: torch.nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """Of x, and a little of t."""
        return torch.sin(self.net(x)) + t[:, None] ** 2


# --- bad input ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"steps": 0}, ArgumentError, "steps: got 0, expected an integer, at least 1"),
        ({"steps": 16}, ArgumentError, "steps: got 16, each with all outputs, expected at most 15"),
        ({"pairs": 8, "steps": 4}, ArgumentError, "pairs: got 8 starts, of which half are fitted to, for 5 unknowns"),
        ({"memory": 0}, ArgumentError, "memory"),
        ({"quantity": "score"}, ArgumentError, "quantity"),
        ({"method": "adam"}, UnknownNameError, "method"),
        ({"power": 2.5}, ArgumentError, "power: got 2.5"),
        ({"ridge": -1.0}, ArgumentError, "ridge"),
        ({"ridge": math.nan}, ArgumentError, "ridge"),
        ({"base": "heun"}, ArgumentError, "base: got heun"),
        ({"base": "euler_ancestral"}, ArgumentError, "base"),
        ({"polish": -1}, ArgumentError, "polish"),
        ({"tries": 0}, ArgumentError, "tries"),
        ({"batch": 0}, ArgumentError, "batch"),
    ],
)
def test_bad_arguments_are_named(options: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        pf.fit(MIXTURE, **{"steps": 2, "shape": (2,), **options})


def test_bad_networks_are_named() -> None:
    draw = torch.Generator().manual_seed(0)
    noisy = models.adapt(lambda x, t: x + torch.randn(x.shape, generator=draw, dtype=x.dtype))
    with pytest.raises(ArgumentError, match="expected a deterministic network"):
        pf.fit(noisy, 2, (2,), **FEW)
    late = models.adapt(lambda x, t: x / (t < 0.5).to(x.dtype)[:, None])
    with pytest.raises(NotFiniteError):
        pf.fit(late, 2, (2,), **FEW)
    blind = models.adapt(lambda x, t: torch.sin(x.detach()))
    with pytest.raises(ArgumentError, match="'least-squares' for a network without gradients"):
        pf.fit(blind, 2, (2,), method="gradient", **FEW)
    assert pf.fit(blind, 2, (2,), **FEW).report.gain > 1


# --- those that ship ---------------------------------------------------------------------------------------------


def test_plans_that_ship_belong_to_the_models_that_ship() -> None:
    """Each is found by its model's fingerprint, steps and guidance, draws, and says that it gained."""
    small, condition = models.load("digits28-small"), {"label": torch.tensor([3, 5])}
    plans = solvers.fitting.bundled_fits()
    owners = {models.fingerprint(models.load(name)) for name in models.bundled.names() if has_plans(name)}
    assert {plan.fingerprint for plan in plans} == owners
    for plan in plans:
        assert plan.gained
        assert plan.report.fitted.error < plan.report.base.error
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        x = pf.sample(small, (2, 1, 28, 28), solver="fitted", steps=4, condition=condition)
    assert torch.equal(x, pf.sample(small, (2, 1, 28, 28), solver=solvers.bundled_fit(small, 4), condition=condition))
    with pytest.raises(UnknownNameError, match=r"'fitted', 7 steps, guidance 1, expected .* one of: "):
        pf.sample(small, (2, 1, 28, 28), solver="fitted", steps=7, condition=condition)
    with pytest.raises(UnknownNameError, match="expected a bundled model, with its own weights"):
        pf.make_plan(MIXTURE, solver="fitted", steps=4)


def has_plans(name: str) -> bool:
    """Whether plans of a bundled network ship."""
    folder = Path(solvers.fitting.__file__).parent / "plans"
    return any(folder.glob(f"{name}-[0-9]*.json"))
