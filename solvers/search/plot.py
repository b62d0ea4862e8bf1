"""Plots of what searches saw: rewards against evaluations. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ...errors import ArgumentError, MissingDependencyError
from .result import SearchResult
from .trace import Record, Trace

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Plottable: TypeAlias = SearchResult | Trace
POINTS = 500  # candidates of one record that are drawn
SIZE = (7.0, 4.2)


def plot_trace(results: Plottable | Mapping[str, Plottable], path: str | Path | None = None) -> Figure:
    """Draw rewards against network evaluations: how a search went, or several in comparison.

    A line is the best reward so far, the mean over requests: dashed for clean estimates, solid for finished samples.
    Dots are candidates, of all requests. A cross is the best sample's held-out reward at the end, where there is one.
    If particles are weighted, their effective sample size is drawn below, with the lowest of the requests.

    Args:
        results: A result, a trace, or several by label.
        path: Where to write the figure, in an existing folder; its suffix is the format. None: nowhere.

    Returns:
        The figure; it belongs to no window and no global state.

    Raises:
        MissingDependencyError: matplotlib is not installed.
        ArgumentError: Nothing to draw; no such folder, or a format that matplotlib does not write.
    """
    kind = figure_kind()
    named = dict(results) if isinstance(results, Mapping) else {"": results}
    traces = {label: item.trace if isinstance(item, SearchResult) else item for label, item in named.items()}
    empty = [label for label, trace in traces.items() if not trace.records]
    if not traces or empty:
        raise ArgumentError(
            "results", got=f"no records of {empty}" if empty else "none", expected="at least one record"
        )
    weighted = any(record.ess is not None for trace in traces.values() for record in trace.records)
    figure = kind(figsize=(SIZE[0], SIZE[1] * (1.4 if weighted else 1)), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1]) if weighted else (figure.subplots(), None)
    for index, (label, item) in enumerate(named.items()):
        colour = f"C{index % 10}"
        draw_rewards(above, traces[label].records, label, colour)
        if isinstance(item, SearchResult) and item.held_out is not None:
            end = float(item.ledger.nfe.mean())
            held_out = float(item.held_out[:, 0].mean())
            above.plot([end], [held_out], "X", color=colour, markeredgecolor="black", label=said(label, "held out"))
        if below is not None:
            draw_ess(below, traces[label].records, label, colour)
    above.set_ylabel("reward")
    above.legend(fontsize="small")
    (above if below is None else below).set_xlabel("network evaluations of a request")
    if below is not None:
        below.set_ylabel("ESS")
        below.set_ylim(bottom=0)
    if path is not None:
        write(figure, Path(path))
    return figure


def figure_kind() -> type[Figure]:
    """Matplotlib's figure, without a window.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError("matplotlib", hint="Plots need it: pip install 'pushforward[plot]'") from error
    return Figure


def write(figure: Figure, path: Path) -> None:
    """Write a figure.

    Raises:
        ArgumentError: No such folder, or a suffix that is no format.
    """
    formats = figure.canvas.get_supported_filetypes()
    if not path.parent.is_dir() or path.suffix.removeprefix(".").lower() not in formats:
        expected = f"a file in an existing folder, ending in one of {', '.join(sorted(formats))}"
        raise ArgumentError("path", got=str(path), expected=expected)
    figure.savefig(path, dpi=150)


def draw_rewards(axes: Axes, records: list[Record], label: str, colour: str) -> None:
    """Best rewards so far as lines, candidates as dots."""
    for finished in (False, True):
        some = [record for record in records if record.finished == finished]
        if not some:
            continue
        x = np.array([float(record.nfe.double().mean()) for record in some])
        y = finite_mean(np.stack([record.best.numpy() for record in some]))
        style: dict[str, Any] = {"color": colour, "drawstyle": "steps-post", "marker": "o" if finished else None}
        style |= {"linestyle": "-" if finished else "--", "markersize": 4}
        axes.plot(x, y, label=said(label, "finished samples, best" if finished else "clean estimates, best"), **style)
        drawn = [candidates(record) for record in some]
        axes.plot(
            np.concatenate([points[0] for points in drawn]),
            np.concatenate([points[1] for points in drawn]),
            ".",
            color=colour,
            alpha=0.25,
            markersize=3,
            zorder=1,
            label=said(label, "candidates") if not label and finished == records[-1].finished else None,
        )


def draw_ess(axes: Axes, records: list[Record], label: str, colour: str) -> None:
    """Lowest effective sample size of the requests."""
    some = [record for record in records if record.ess is not None]
    x = [float(record.nfe.double().mean()) for record in some]
    axes.plot(x, [float(record.ess.min()) for record in some if record.ess is not None], color=colour, label=label)


def candidates(record: Record) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Evaluations and finite rewards of a record's candidates, at most :data:`POINTS`, evenly chosen."""
    if record.rewards is None:
        return np.empty(0), np.empty(0)
    nfe = record.nfe.double()[:, None].expand(record.rewards.shape).reshape(-1).numpy()
    rewards = record.rewards.double().reshape(-1).numpy()
    shown = np.flatnonzero(np.isfinite(rewards))
    shown = shown[:: max(1, -(-len(shown) // POINTS))]
    return nfe[shown], rewards[shown]


def finite_mean(table: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over the last axis of what is finite; NaN, which is not drawn, where nothing is."""
    known = np.isfinite(table)
    count = known.sum(-1)
    return np.where(count, np.where(known, table, 0).sum(-1) / np.maximum(count, 1), np.nan)


def said(label: str, what: str) -> str:
    """What the legend says."""
    return f"{label}: {what}" if label else what
