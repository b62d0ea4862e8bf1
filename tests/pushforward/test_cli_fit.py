"""``pushforward fit``, and ``sample`` with what it wrote."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

import pushforward as pf
from pushforward.cli import app
from pushforward.errors import ArgumentError, CorruptFileError, UnknownNameError
from pushforward.models import Linear
from pushforward.models.fingerprint import fingerprint
from pushforward.solvers import FittedPlan, FitWarning
from pushforward.solvers.ode.fitted import FittedMultistep

SMALL = ("--model", "digits28-small")
QUICK = ("--pairs", "8", "--rounds", "0", "--polish", "0", "--reference-steps", "4", "--no-progress", "--threads", "1")
DRAW = ("sample", *SMALL, "--labels", "3", "--columns", "1", "--no-progress", "--threads", "1", "--out", "x.png")


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, arguments)


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> FittedPlan:
    """What the command writes for two steps."""
    path = tmp_path_factory.mktemp("fit") / "plan.json"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)  # of so few starts, it may gain nothing
        result = run("fit", *SMALL, *QUICK, "--steps", "2", "--base", "euler", "-w", "1", "--out", str(path))
    assert result.exit_code == 0, result.output
    assert "2 NFE, 2 held-out starts" in result.output
    assert "plan.json: FittedPlan(" in result.output
    assert "for digits28-small, guidance 1" in result.output
    return FittedPlan.load(path)


def test_fit_writes_a_plan_for_the_model(plan: FittedPlan) -> None:
    assert FittedPlan.from_json(plan.to_json()) == plan
    assert (plan.steps, plan.guidance) == (2, (1.0,))
    assert plan.fingerprint == fingerprint(pf.models.load("digits28-small"))
    assert (plan.report.pairs, plan.report.base.name) == (8, "euler")
    assert [label for label, *_ in plan.report.by_condition] == [6, 7]  # of 0 .. 7, the last two are measured


@pytest.fixture
def ranged(plan: FittedPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FittedPlan:
    """One for guidance weights from 1 to 2, in plan.json."""
    monkeypatch.chdir(tmp_path)
    formula = FittedMultistep((0.0, 0.4, 1.0), ((0.4,), (0.7, -0.1)), Linear())
    ranged = dataclasses.replace(plan, solver=formula, times=formula.times, guidance=(1.0, 2.0))
    ranged.save("plan.json")
    return ranged


def test_sample_draws_with_the_plan(ranged: FittedPlan) -> None:
    drawn = {}
    for name, options in {"default": (), "between": ("-w", "1.5"), "the same": ("-n", "2", "-w", "2")}.items():
        result = run(*DRAW, "--plan", "plan.json", *options)
        assert result.exit_code == 0, result.output
        assert f"1 samples of digits28-small, {ranged}, 2 NFE (4 forward passes)" in result.output
        with Image.open("x.png") as picture:
            drawn[name] = picture.convert("L").crop((0, 24, 60, 80)).tobytes()
    assert drawn["default"] == drawn["the same"] != drawn["between"]
    one = dataclasses.replace(ranged, guidance=(1.0,))
    one.save("plan.json")
    assert "2 NFE (2 forward passes)" in run(*DRAW, "--plan", "plan.json").output
    dataclasses.replace(one, fingerprint="0" * 64).save("plan.json")
    with pytest.warns(FitWarning, match="model: got one with the fingerprint"):
        run(*DRAW, "--plan", "plan.json")


def test_what_contradicts_a_plan_is_named(ranged: FittedPlan) -> None:
    dataclasses.replace(ranged, guidance=("interval",)).save("words.json")
    Path("broken.json").write_text("{}")
    refused: list[tuple[tuple[str, ...], type[Exception], str]] = [
        (("--plan", "plan.json", "--solver", "heun"), ArgumentError, "--solver: got heun, expected none beside --plan"),
        (("--plan", "plan.json", "-o", "order=2"), ArgumentError, "--option: got "),
        (("--plan", "plan.json", "--grid", "uniform"), ArgumentError, "--grid: got uniform, expected none"),
        (("--plan", "plan.json", "--steps", "3"), ArgumentError, "--steps: got 3, expected 2, as plan.json has"),
        (("--plan", "plan.json", "-w", "2.5"), ArgumentError, "--guidance: got 2.5, expected 1, 2, as plan.json"),
        (("--plan", "words.json"), ArgumentError, "--plan: got one for interval"),
        (("--plan", "broken.json"), CorruptFileError, "fitted plan: got KeyError"),
        (("--plan", "missing.json"), FileNotFoundError, "missing.json"),
        (("--solver", "fitted", "-o", "order=2"), ArgumentError, "--option: got ['order'], expected none"),
        (("--solver", "fitted", "--steps", "3"), UnknownNameError, "solver: got 'fitted', 3 steps, guidance 2,"),
    ]
    for options, error, message in refused:
        result = run(*DRAW, *options)
        assert isinstance(result.exception, error), options
        assert message in str(result.exception)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--out", "missing/plan.json"), "--out: got"),
        (("-w", "1,x"), "--guidance: got '1,x'"),
        (("-w", "2", "-w", "2"), "--guidance: got '2,2'"),
        (("--method", "guess"), "method: got 'guess'"),
        (("--steps", "0"), "steps: got 0"),
        (("--pairs", "-1"), "pairs: got -1"),
        (("--base", "heun"), "base: got"),
    ],
)
def test_bad_input_of_fit_is_named(options: tuple[str, ...], message: str) -> None:
    result = run("fit", *SMALL, *options)
    assert isinstance(result.exception, ArgumentError)
    assert str(result.exception).startswith(message)
