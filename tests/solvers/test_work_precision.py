"""The benchmark's own arithmetic: starts, coordinates and counts, without which its tables would mean nothing."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import work_precision as bench
from _peers import Peer, peers
from _sampling import Mixture

import pushforward as pf
from pushforward import models, solvers

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(scope="module")
def flow() -> Mixture:
    problem = Mixture(models.Linear(), 32)
    problem.reference = ("rk4", 100)
    return problem


@pytest.fixture(scope="module")
def diffusion() -> Mixture:
    problem = Mixture(models.DiscreteDDPM.scaled_linear(), 32)
    problem.reference = ("rk4", 100)
    return problem


def find(problem: Mixture, library: str, solver: str, grid: str) -> Peer:
    skipped: list[str] = []
    return next(p for p in peers(problem, skipped.append) if (p.library, p.solver, p.grid) == (library, solver, grid))


def test_the_denoiser_is_the_same_in_all_coordinates(diffusion: Mixture) -> None:
    oracle, path = models.reference_mixture(diffusion.path), diffusion.path
    x = oracle.sample(16, seed=1, t=0.4)
    alpha, sigma, *_ = path(0.4)
    for scale in (1.0, 1 / alpha):  # the path's state, and the one whose data are not scaled
        denoised, noise = diffusion.estimates(scale * x, scale * alpha, scale * sigma)
        torch.testing.assert_close(denoised, oracle.denoised(x, 0.4), rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(noise, oracle.noise(x, 0.4), rtol=1e-10, atol=1e-10)


def test_exact_answers_do_not_depend_on_the_path(flow: Mixture, diffusion: Mixture) -> None:
    """Run down the diffusion path by the library itself, from its own start: the linear path's answer."""
    nu, model = diffusion.path.noise_ratio(0.0), diffusion.model(torch.float64)
    answers = []
    for steps in (200, 400):
        times = (0.0, *solvers.Arctan(1.0)(steps, diffusion.path)[1:])
        plan = pf.make_plan(model, solver="ddim", grid=times)
        answers.append(bench.sample(plan, diffusion, torch.float64))
    # DDIM has order one, so twice the finer less the coarser has order two: (pi / 400)^2 of a curvature of some tens.
    extrapolated = 2 * answers[1] - answers[0]
    assert (extrapolated - diffusion.exact(nu)).abs().max() < 2e-3
    assert torch.equal(flow.noise, diffusion.noise)
    assert (flow.exact(1e9) - flow.exact(math.inf)).abs().max() < 1e-6


@pytest.mark.parametrize("solver", ["Euler", "Heun"])
def test_diffusers_and_ours_agree_on_its_own_grid(flow: Mixture, solver: str) -> None:
    peer = find(flow, "diffusers", solver, "shift 3")
    done = peer.within(flow, 8, torch.float32)
    assert done is not None
    x, nu, calls = done
    assert (calls <= 8, math.isinf(nu)) == (True, True)
    import diffusers

    scheduler = getattr(diffusers, f"FlowMatch{solver}DiscreteScheduler")(shift=3.0)
    scheduler.set_timesteps({"Euler": 8, "Heun": 4}[solver])
    sigmas = list(dict.fromkeys(scheduler.sigmas.double().tolist()))
    plan = pf.make_plan(
        flow.model(torch.float32), solver=solver.lower(), grid=[1 - s for s in sigmas],
        last_step="denoise" if solver == "Heun" else "auto",
    )  # fmt: skip
    assert plan.nfe == calls
    torch.testing.assert_close(bench.sample(plan, flow, torch.float32), x, rtol=1e-4, atol=1e-4)


def test_diffusers_ddim_and_ours_agree_on_the_diffusion_path(diffusion: Mixture) -> None:
    """In five steps, which divide 1000: for others its DDIM steps by 1000 // N, past its own next timestep."""
    done = find(diffusion, "diffusers", "DDIM", "trailing").within(diffusion, 5, torch.float32)
    assert done is not None
    plan = bench.largest_plan(solvers.solver("ddim"), "indices", 5, diffusion.model(torch.float32).prediction)
    assert plan is not None
    torch.testing.assert_close(bench.sample(plan, diffusion, torch.float32), done[0], rtol=1e-4, atol=1e-4)
    assert done[1] == pytest.approx(diffusion.path.noise_ratio(0.0), rel=1e-12)


def test_budgets_are_kept_by_both_sides(flow: Mixture) -> None:
    prediction = flow.model(torch.float32).prediction
    for name in ("heun", "rk4", "ab3", "ab3_ramp"):
        plan = bench.largest_plan(solvers.solver(name), "uniform", 9, prediction)
        assert plan is not None
        assert (
            plan.nfe <= 9 < solvers.plan(solvers.solver(name), bench.times_of("uniform", plan.steps + 1, flow.path)).nfe
        )
    run = next(iter(bench.peer_runs(flow, 5, torch.float32, {("diffusers", "Heun", "default")}, print)))
    assert run.nfe == 5  # two a step, and one in the last


def test_tables_compare_the_best_with_the_best() -> None:
    one = bench.Run("mixture, flow", "float32", 8, bench.OURS, "ab2", "uniform", 8, 0.02)
    runs = [
        one, replace(one, solver="heun", error=0.05), replace(one, library=bench.OPTIMISED, error=0.01),
        replace(one, library="diffusers", solver="Euler", error=0.1),
        replace(one, library="diffusers", solver="Heun", error=0.04),
        replace(one, library="azula", solver="zAB", error=0.03),
    ]  # fmt: skip
    found = {(row["case"], row["peer"]): row["ratio"] for row in bench.rows(runs)}
    assert found["mixture, flow, 8 evaluations float32", "diffusers"] == pytest.approx(2.0)
    assert found["mixture, flow, 8 evaluations float32, optimised grid", "azula"] == pytest.approx(3.0)
    page = bench.markdown(runs, ["k-diffusion: not here"], "picture.png")
    line = (
        "| 8 | 0.0200 ab2, uniform | 0.0100 ab2, uniform | 0.0400 Heun, uniform | 0.0300 zAB, uniform | 1.50 | 3.00 |"
    )
    assert line in page
    assert "| diffusers | Euler |  | 0.1000 |" in page
    assert "- k-diffusion: not here" in page


def test_what_is_known_is_not_run_again(flow: Mixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run in pieces: the first has one budget, the second takes it over and adds the other."""
    monkeypatch.setattr(bench, "our_runs", lambda problem, nfe, *_: iter([replace(one, budget=nfe)]))
    monkeypatch.setattr(bench, "peer_runs", lambda *_: iter(()))
    one = bench.Run(flow.name, "float32", 5, bench.OURS, "ab2", "uniform", 5, 0.02)
    kept: list[list[bench.Run]] = []
    monkeypatch.setattr(bench, "NFE", (5,))
    first, _ = bench.measure([flow], [torch.float32], 0, [], print, lambda runs, _: kept.append(runs))
    monkeypatch.setattr(bench, "NFE", (5, 15))
    both, _ = bench.measure([flow], [torch.float32], 0, first, print, lambda runs, _: kept.append(runs))
    assert [run.budget for run in both] == [5, 15]
    assert [len(runs) for runs in kept] == [1, 1, 2]


def test_what_is_made_for_a_model_is_added_to_what_is_known(flow: Mixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """There are fixed grids and an optimised one, so only the formula is fitted; it is measured on the starts."""
    monkeypatch.setattr(bench, "NFE", (8,))
    few = bench.of_search(flow) | {"pilot": 32, "held_out": 32, "rounds": 0, "reference_steps": 24}
    monkeypatch.setattr(bench, "of_search", lambda _: few)
    one = bench.Run(flow.name, "float32", 8, bench.OURS, "ab3_ramp", "uniform", 8, 0.02)
    known = [one, replace(one, library=bench.OPTIMISED, error=0.015)]
    runs, _ = bench.measure([flow], [torch.float32], 1, known, print, lambda *_: None)
    assert runs[:2] == known
    (fitted,) = runs[2:]
    assert (fitted.library, fitted.nfe) == (bench.FITTED, 8)
    assert fitted.median is not None
    # Of 32 samples ab3_ramp on the same grid leaves 0.01 or so in eight steps.
    assert 1e-4 < fitted.median < fitted.error < 0.02


def test_runs_are_judged_from_where_they_begin(flow: Mixture) -> None:
    """The offset grid has its own start, as diffusers' have; the others begin with pure noise."""
    assert bench.times_of("offset", 4, flow.path)[0] == 0.001
    assert bench.times_of("karras", 4, flow.path)[0] == 0.0
    only = {"unipc": ["offset"]} | {name: ["nothing"] for name, _ in solvers.solvers() if name != "unipc"}
    mine = [run for run in bench.our_runs(flow, 8, torch.float32, only) if run.solver == "unipc"]
    theirs = next(iter(bench.peer_runs(flow, 8, torch.float32, {("diffusers", "UniPC 2 bh2", "default")}, print)))
    # The same method on the same grid, but for the times that diffusers truncates.
    assert mine[0].error == pytest.approx(theirs.error, rel=0.05)
    assert mine[0].median == pytest.approx(theirs.median, rel=0.2)
