from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_searches import run, several_advances

from pushforward.errors import ArgumentError, MissingDependencyError
from pushforward.solvers.search import Method, Trace, plot_trace

pytest.importorskip("matplotlib")
METHODS = several_advances()


@pytest.mark.parametrize(("name", "method"), METHODS, ids=[name for name, _ in METHODS])
def test_lines_are_the_best_rewards(name: str, method: Method) -> None:
    result = run(method, held_out=lambda x, context: x[:, 0], keep=2)
    figure = plot_trace(result)
    axes = figure.axes[0]
    lines = {line.get_label(): line for line in axes.lines}
    records = result.trace.records
    for finished, label in ((False, "clean estimates, best"), (True, "finished samples, best")):
        some = [record for record in records if record.finished == finished]
        assert (label in lines) == bool(some)
        if some:
            line = lines[label]
            assert np.allclose(line.get_xdata(), [record.nfe.double().mean() for record in some])
            assert np.allclose(line.get_ydata(), [record.best.mean() for record in some])
    dots = sum(len(line.get_xdata()) for line in axes.lines if line.get_marker() == ".")
    assert dots == sum(int(record.rewards.isfinite().sum()) for record in records)
    (cross,) = (line for line in axes.lines if line.get_marker() == "X")
    assert cross.get_xdata()[0] == result.ledger.nfe.mean()
    assert cross.get_ydata()[0] == pytest.approx(float(result.held_out[:, 0].mean()))
    weighted = [record for record in records if record.ess is not None]
    assert len(figure.axes) == (2 if weighted else 1)
    if weighted:
        (ess,) = figure.axes[1].lines
        assert np.allclose(ess.get_ydata(), [record.ess.min() for record in weighted])
    assert figure.axes[-1].get_xlabel() == "network evaluations of a request"


def test_several_results_have_labels_and_colours_of_their_own(tmp_path: Path) -> None:
    results = {"best of N": run("best_of_n"), "SVDD": run("svdd").trace}
    figure = plot_trace(results, tmp_path / "both.png")
    shown = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    expected = ["best of N: finished samples, best", "SVDD: clean estimates, best", "SVDD: finished samples, best"]
    assert shown == expected
    colours = {line.get_label(): line.get_color() for line in figure.axes[0].lines}
    assert colours[expected[0]] != colours[expected[1]] == colours[expected[2]]
    with Image.open(tmp_path / "both.png") as picture:
        assert picture.format == "PNG"
        assert np.asarray(picture.convert("L")).std() > 1, "it is not empty"


def test_many_candidates_and_forbidden_ones_are_thinned_out() -> None:
    trace = Trace()
    rewards = torch.linspace(0, 1, 4000, dtype=torch.float64).reshape(2, 2000)
    rewards[:, :100] = -torch.inf
    trace.add("search", 0, 0.0, rewards, torch.tensor([10, 30]))
    trace.add("search", 1, 0.5, torch.full((2, 3), -torch.inf, dtype=torch.float64), torch.tensor([20, 60]))
    figure = plot_trace(trace)
    line, dots = figure.axes[0].lines
    assert 400 <= len(dots.get_xdata()) <= 500
    assert set(dots.get_xdata()) == {10, 30}
    assert np.allclose(line.get_xdata(), [20, 40])
    assert np.allclose(line.get_ydata(), rewards.amax(1).mean())


def test_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trace = run("best_of_n").trace
    for nothing in (Trace(), {}, {"a": trace, "b": Trace()}):
        with pytest.raises(ArgumentError, match="results: got no"):
            plot_trace(nothing)
    for path in (tmp_path / "missing" / "a.png", tmp_path / "a.nope", tmp_path / "a"):
        with pytest.raises(ArgumentError, match="path: got"):
            plot_trace(trace, path)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'pushforward\[plot\]'"):
        plot_trace(trace)
