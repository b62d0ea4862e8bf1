from __future__ import annotations

import json
import subprocess
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from PIL import Image

import pushforward as pf
from pushforward import cli
from pushforward.errors import ArgumentError, ShapeError
from pushforward.picture import save_grid


def run(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pushforward.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)


@dataclass
class Result:
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """The program's entry point in this process, which has imported torch already."""
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)  # main has one of its own
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str) -> Result:
        monkeypatch.setattr(sys, "argv", ["pushforward", *arguments])
        with pytest.raises(SystemExit) as left:
            cli.main()
        return Result(left.value.code or 0, *capsys.readouterr())

    return run


def test_sample_writes_a_picture_and_says_what_it_did(tmp_path: Path) -> None:
    result = run("sample", "--steps", "2", "--labels", "37", "--columns", "3", "--out", "out.png", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "6 samples of digits28-base, pseudo_corrector, 3 NFE (6 forward passes)" in result.stdout
    with Image.open(tmp_path / "out.png") as picture:
        assert picture.format == "PNG"
        assert picture.width > 3 * 28
        assert picture.height > 2 * 28


def test_solvers_lists_every_solver(here) -> None:
    result = here("solvers")
    assert result.returncode == 0
    assert all(name in result.stdout for name, _ in pf.solvers.solvers())


def test_plan_prints_the_program_and_ships_it(here) -> None:
    shown = here("plan", "--solver", "ddim", "--option", "eta=0.5", "--steps", "3", "--shape", "8,16,32,32")
    assert shown.returncode == 0, shown.stderr
    assert "ddim(eta=0.5): 3 steps" in shown.stdout
    assert "3 network calls, 3 passes" in shown.stdout
    shipped = here("plan", "--solver", "heun", "--steps", "2", "--prediction", "v", "--interpolant", "cosine", "--json")
    plan = pf.Plan.from_json(shipped.stdout)
    assert json.loads(shipped.stdout)["interpolant"]["name"] == "cosine"
    assert plan.steps == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sample", "--solver", "nope"], "error: solver: got 'nope', expected one of"),
        (["sample", "--steps", "0"], "error: steps: got 0"),
        (["sample", "--labels", "a"], "error: --labels: got 'a'"),
        (["sample", "--columns", "0"], "error: --columns"),
        (["sample", "--model", "nope"], "error: "),
        (["sample", "--steps", "1", "--columns", "1", "--out", "missing/x.png"], "error: path"),
        (["plan", "--option", "eta"], "error: --option: got 'eta', expected NAME=VALUE"),
        (["plan", "--shape", "a,b"], "error: --shape"),
        (["plan", "--solver", "euler", "--prediction", "noise"], "error: t: got 0"),
    ],
)
def test_errors_are_one_line_and_exit_code_1(
    arguments: list[str], message: str, here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = here(*arguments)
    assert result.returncode == 1
    assert result.stderr.strip().splitlines()[-1].startswith(message)
    assert "Traceback" not in result.stderr


def test_usage_errors_and_help(here) -> None:
    assert here("sample", "--nope").returncode == 2
    for command in ("sample", "solvers", "plan"):
        shown = here(command, "--help")
        assert shown.returncode == 0
        assert "Example" in shown.stdout
    assert pf.__version__ in here("--version").stdout


def test_a_picture_shows_its_images(tmp_path: Path) -> None:
    images = torch.full((4, 1, 8, 8), -1.0)
    images[3] = 1.0
    save_grid(images, tmp_path / "p.png", rows=["a", "b"], scale=1)
    with Image.open(tmp_path / "p.png") as picture:
        shown = picture.convert("L")
    assert shown.getpixel((24 + 10 + 4, 2 + 10 + 4)) == 255
    assert shown.getpixel((24 + 4, 2 + 10 + 4)) == 0
    save_grid(images, tmp_path / "p.png", rows=["a", "b"], title="a title that is longer than two pictures", scale=1)
    with Image.open(tmp_path / "p.png") as picture:
        shown = picture.convert("L").crop((60, 0, picture.width, 20))
        assert shown.getextrema()[0] < 128, "the end of the title is there"
        assert shown.crop((shown.width - 2, 0, shown.width, 20)).getextrema() == (255, 255)
    with pytest.raises(ShapeError, match="images"):
        save_grid(images, tmp_path / "p.png", rows=["a", "b", "c"])
    with pytest.raises(ArgumentError, match="path"):
        save_grid(images, tmp_path / "no" / "p.png", rows=["a"])
