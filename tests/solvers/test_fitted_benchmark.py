"""The arithmetic of the benchmark of fitted plans: what is relative to what, which samples, and what a page is told."""

from __future__ import annotations

import math
from dataclasses import replace

import _fitted_tables as page_of
import bundled_fits
import fitted_plans as bench
import pytest
import torch

import pushforward as pf
from pushforward import models


def test_errors_are_relative_and_the_mixture_is_the_same_on_both_paths() -> None:
    flow = bench.Relative(models.Linear(), 8, 3)
    exact = flow.exact(math.inf)
    assert flow.errors(1.25 * exact, math.inf)[0] == pytest.approx(0.25, rel=1e-12)
    other = bench.Relative(models.DiscreteDDPM.scaled_linear(), 8, 3)
    assert (flow.name, other.name) == ("mixture 3, flow", "mixture 3, diffusion")
    first, second = flow.oracle(flow.path), other.oracle(other.path)
    assert torch.equal(first.sample(4, seed=1), second.sample(4, seed=1))


def test_parts_of_the_digits_are_those_of_the_whole_and_guided_inside() -> None:
    whole, part = bench.GuidedDigits(2.0, 3), bench.GuidedDigits(2.0, 2, first=1)
    assert torch.equal(whole.noise[1:], part.noise)
    start, digits = part.noise.float(), models.load(bench.DIGITS)
    plan = bench.plan_for(part, pf.solver("euler"), (0.0, 1.0))
    x = bench.sample(plan, part, torch.float32)
    y = pf.sample(digits, start, solver="euler", steps=1, guidance=2.0, condition=part.condition)
    # x + 2 c - n, formed before the plan or in it: two orders of a sum of three terms whose sizes are below 8.
    torch.testing.assert_close(x, y, rtol=0, atol=2 * 3 * 8 * torch.finfo(torch.float32).eps)


def test_tables_compare_with_the_best_and_find_their_place_in_a_page() -> None:
    one = page_of.Entry("mixture 2, flow", "float32", 5, bench.OURS, "ab2", "uniform", 5, 0.08, 0.06)
    entries = [
        one, replace(one, library="diffusers", solver="Euler", error=0.1),
        replace(one, library="fitted", solver="fit", grid="", error=0.01, median=0.002),
        replace(one, library="fitted, memory 2", solver="fit", grid="", error=0.02, live=3, live_standard=3),
        replace(one, library="fitted, memory 3", solver="fit", grid="", error=0.04, live=4, live_standard=4),
    ]  # fmt: skip
    page = f"before\n{page_of.BEGIN}\nold\n{page_of.END}\nafter\n"
    new = page_of.into_page(page, entries)
    assert (
        "| mixture 2, flow | 5 | 0.08 (0.06) ab2, uniform | 0.1 (0.06) Euler, uniform | 0.01 (0.002) | 8.0 (30.0) |"
        in new
    )
    # log(8 / 2) / log 8 and log(8 / 4) / log 8
    assert "| mixture 2, flow | 5 | 0.02, 67%, 3 (3) | 0.04, 33%, 4 (4) |" in new
    assert "old" not in new
    assert page_of.into_page(new, entries) == new
    ratios = {(row["case"], row["peer"]): row["ratio"] for row in page_of.rows(entries)}
    assert ratios["mixture 2, flow, 5 evaluations, fitted", "diffusers"] == pytest.approx(10)
    assert len(ratios) == 6
    assert bench.once([*entries, replace(one, error=0.5)])[0].error == 0.5


def test_errors_of_plans_are_shown_with_and_without_the_worst() -> None:
    squares = torch.full((100,), 0.04, dtype=torch.float64)
    squares[[3, 50, 99]] = 9.0
    found = bundled_fits.Errors.of(squares)
    assert found.error == pytest.approx(math.sqrt((97 * 0.04 + 3 * 9) / 100))
    assert (found.median, found.typical) == (pytest.approx(0.2), pytest.approx(0.2))
    assert bundled_fits.Errors.of(4 * squares).over(found).text(1) == "2.0 (2.0; 2.0)"
