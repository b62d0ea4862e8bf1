from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import pushforward as pf
from pushforward.cli import app
from pushforward.cli import main as main_program
from pushforward.errors import ArgumentError, CheckpointError, MissingDependencyError, UnknownNameError
from pushforward.models.verifiers import ClassProbability, Symmetry
from pushforward.solvers.search import methods

SMALL = ("search", "--model", "digits28-small", "--no-progress")
SVDD = (*SMALL, "--reward", "symmetry", "--method", "svdd", "--steps", "3", "--budget", "16", "--labels", "30")


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


def searched(**changes: Any) -> Any:
    settings: dict[str, Any] = {
        "shape": (2, 1, 28, 28),
        "method": "svdd",
        "steps": 3,
        "condition": {"label": torch.tensor([3, 0])},
        "batch": 256,
    }
    return pf.search(pf.models.load("digits28-small"), Symmetry(), 16, **(settings | changes))


def test_search_writes_what_the_library_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    files = ("--out", "best.png", "--trace", "trace.jsonl", "--plot", "trace.png", "--checkpoint", "run.json")
    result = run(*SVDD, "--held-out", "judge", "--keep", "2", "--seed", "7", *files)
    assert result.exit_code == 0, result.output
    expected = searched(held_out=ClassProbability("digits28-classifier-b", log=False), keep=2, seed=7)
    rows = [line.split("│")[1:-1] for line in result.output.splitlines() if line.startswith("│")]
    cells = [[cell.strip() for cell in row] for row in rows]
    judged = expected.held_out[:, 0]
    for index, digit in enumerate("30"):
        numbers = [f"{float(expected.best[index]):.4g}", f"{float(judged[index]):.4g}"]
        assert cells[index] == [str(index), digit, *numbers, str(expected.ledger.nfe[index])]
    assert cells[2][:4] == ["mean", "", f"{float(expected.best.mean()):.4g}", f"{float(judged.mean()):.4g}"]
    lines = [json.loads(line) for line in Path("trace.jsonl").read_text().splitlines()]
    assert lines == [record.to_dict() for record in expected.trace.records]
    for name in ("best.png", "trace.png"):
        with Image.open(name) as picture:
            assert picture.format == "PNG"
    with Image.open("best.png") as picture:
        shown = torch.from_numpy(np.array(picture.convert("L"), dtype=np.float64))
        best = ((expected.samples.double().clamp(-1, 1) + 1) * 127.5).round()
        corner = (24, 24)  # margins of save_grid; a tile is 28 pixels, doubled, and two pixels apart
        for row in range(2):
            for column in range(2):
                y, x = corner[0] + 58 * row, corner[1] + 58 * column
                assert torch.equal(shown[y : y + 56 : 2, x : x + 56 : 2], best[row, column, 0])


def test_an_interrupted_command_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    from pushforward.models.adapter import BoundModel

    whole = run(*SVDD, "--trace", "whole.jsonl")
    assert whole.exit_code == 0, whole.output
    calls: list[int] = []
    evaluate = BoundModel.evaluate_rows

    def interrupted(self: BoundModel, *arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return evaluate(self, *arguments)

    monkeypatch.setattr(BoundModel, "evaluate_rows", interrupted)
    stopped = run(*SVDD, "--checkpoint", "run.json", "--trace", "trace.jsonl")
    assert stopped.exit_code != 0
    before = len(calls)
    again = run(*SVDD, "--checkpoint", "run.json", "--trace", "trace.jsonl")
    assert again.exit_code == 0, again.output
    assert len(calls) - before == 1, "two of three evaluations are in the checkpoint"
    table = [line for line in again.output.splitlines() if "│" in line]
    assert table == [line for line in whole.output.splitlines() if "│" in line]
    assert Path("trace.jsonl").read_text() == Path("whole.jsonl").read_text()
    other = run(*SVDD, "--checkpoint", "run.json", "--seed", "1")
    assert isinstance(other.exception, CheckpointError)
    assert "got seed = 1, expected seed = 0" in str(other.exception)


def test_options_reach_method_solver_and_reward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = (*SMALL, "--reward", "holes:count=2", "--method", "code", "-o", "block=3", "-o", "start=shared")
    result = run(
        *(*arguments, "--solver", "ddim", "--solver-option", "eta=0.5", "--steps", "3", "--budget", "16"),
        *("--labels", "8", "--guidance", "1.5", "--path", "vp", "--grid", "circular", "--threads", "1"),
    )
    assert result.exit_code == 0, result.output
    assert "CoDe(chains=2" in result.output
    assert "block=3" in result.output
    assert "start='shared'" in " ".join(result.output.split())
    assert (tmp_path / "best.png").exists()


def test_methods_lists_every_method(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    shown = run("methods")
    assert shown.exit_code == 0
    rows = [line.split("│")[1].strip() for line in shown.output.splitlines() if line.startswith("│")]
    assert [name for name in rows if name] == [name for name, _ in methods()]


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        (["--reward", "nope"], UnknownNameError, "reward: got 'nope', expected one of ink"),
        (["--reward", "ink:target=3"], ArgumentError, "target: got 3"),
        (["--reward", "ink:target=dark"], ArgumentError, "--reward: got 'ink:target=dark'"),
        (["--reward", "ink:target"], ArgumentError, "--reward: got 'target', expected NAME=VALUE"),
        (["--reward", "ink", "--held-out", "nope"], UnknownNameError, "reward: got 'nope'"),
        (["--reward", "ink", "--method", "nope"], UnknownNameError, "method: got 'nope'"),
        (["--reward", "ink", "--option", "nope=1"], ArgumentError, "options: got ['nope']"),
        (["--reward", "ink", "--option", "chains"], ArgumentError, "--option: got 'chains', expected NAME=VALUE"),
        (["--reward", "ink", "--method", "svdd", "-o", "beta=a"], ArgumentError, "--option: got ['beta=a']"),
        (["--reward", "ink", "--solver-option", "eta=1"], ArgumentError, "--solver-option"),
        (["--reward", "ink", "--labels", "x"], ArgumentError, "--labels: got 'x'"),
        (["--reward", "ink", "--budget", "3"], ArgumentError, "budget.nfe: got 3"),
        (["--reward", "ink", "--keep", "0"], ArgumentError, "keep: got 0"),
        (["--reward", "ink", "--out", "missing/a.png"], ArgumentError, "--out: got missing/a.png"),
        (["--reward", "ink", "--plot", "missing/a.png"], ArgumentError, "--plot: got"),
        (["--reward", "ink", "--trace", "missing/a"], ArgumentError, "--trace: got"),
        (["--reward", "ink", "--checkpoint", "missing/a"], ArgumentError, "checkpoint: got"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_errors(arguments: list[str], kind: type[Exception], message: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(*SMALL, *arguments)
    assert result.exit_code == 1
    assert isinstance(result.exception, kind)
    assert str(result.exception).replace("\\", "/").startswith(message)
    assert list(tmp_path.iterdir()) == []


def test_an_error_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["pushforward", *SMALL, "--reward", "ink", "--method", "nope"])
    with pytest.raises(SystemExit, match="1"):
        main_program()
    assert capsys.readouterr().err.startswith("error: method: got 'nope', expected one of")


def test_a_plot_without_matplotlib_fails_before_the_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    result = run(*SVDD, "--plot", "a.png")
    assert isinstance(result.exception, MissingDependencyError)
    assert list(tmp_path.iterdir()) == []


def test_help() -> None:
    for command in ("search", "methods"):
        shown = run(command, "--help")
        assert shown.exit_code == 0
        assert "Example" in shown.output
    assert run("search").exit_code == 2, "a reward is needed"
