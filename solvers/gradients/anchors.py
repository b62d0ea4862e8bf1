"""Where the adjoint run stops on its way back: to put the state right, and to take in the gradients of outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..adaptive.loop import ulps, ulps_of_stop
from ..adaptive.method import Live
from .tape import Steps

CLEAR = 8  # how many times as far as a step an anchor keeps from a time at which the field jumps


@dataclass
class Anchors:
    """Jumps of the states [b, 2, *D] of an adjoint run.

    Attributes:
        times: When, float64 [M], of each sample in the order of its run back; beyond them, one entry more.
        position, last: Next entry of each sample, and the one behind its last; int64 [b].
        end: Where each sample ends, float64 [b].
        node: State of the forward run to return to, by row of ``states``; -1 for none. int64 [M].
        output: Gradient to add, by row of ``gradients``; -1 for none. int64 [M].
        states: States of the forward run, [N, *D].
        gradients: Of the outputs, scaled, [R, *D].

    """

    times: np.ndarray
    position: np.ndarray
    last: np.ndarray
    end: np.ndarray
    node: np.ndarray
    output: np.ndarray
    states: Tensor
    gradients: Tensor

    def ahead(self, samples: np.ndarray) -> np.ndarray:
        """The next time of each sample, or its end."""
        position = self.position[samples]
        more = position < self.last[samples]
        return np.where(more, self.times[np.where(more, position, 0)], self.end[samples])

    def apply(self, live: Live, reached: np.ndarray) -> np.ndarray:
        """Put the states of samples right that are at their next time, and add the gradients there."""
        position = self.position[live.samples]
        more = position < self.last[live.samples]
        at = reached & more & (live.t == self.times[np.where(more, position, 0)])
        rows, place = np.flatnonzero(at), position[at]
        self.position[live.samples[rows]] += 1
        for index, source, part in ((self.node[place], self.states, 0), (self.output[place], self.gradients, 1)):
            some = index >= 0
            if some.any():
                to = torch.from_numpy(rows[some]).to(live.x.device)
                values = source.index_select(0, torch.from_numpy(index[some]).to(source.device))
                if part:
                    live.x[:, 1].index_add_(0, to, values)
                else:
                    live.x[:, 0].index_copy_(0, to, values)
        return at


def anchors(
    steps: Steps | None,
    states: Tensor,
    samples: np.ndarray,
    times: np.ndarray,
    reached: np.ndarray,
    gradients: Tensor,
    stops: Sequence[float],
) -> Anchors:
    """Anchors of some samples, from their last output back to their first time.

    Args:
        steps: Accepted steps of all samples, whose ``taken`` numbers the rows of ``states``; None to return to the
            outputs instead, which are [B * T] rows of ``states``.
        states: As above.
        samples: Whose, ascending int64 [b].
        times: Their requested times, [b, T].
        reached: How many of those after the first they reached, at least 1; int64 [b].
        gradients: Of their outputs, scaled, [b * T, *D].
        stops: Times at which the field jumps: anchors keep clear of them.

    """
    count, length = times.shape
    way = np.sign(times[0, -1] - times[0, 0])
    start = np.take_along_axis(times, reached[:, None], axis=1)[:, 0]
    k = np.arange(length)
    row, column = np.nonzero((k[None] >= 1) & (k[None] < reached[:, None]))
    output = row * length + column
    node = np.full(len(row), -1) if steps is not None else samples[row] * length + column
    when = times[row, column]
    if steps is not None:
        place = np.minimum(np.searchsorted(samples, steps.samples), count - 1)
        mine = (samples[place] == steps.samples) & (way * steps.after < way * start[place])
        row, when = np.concatenate([row, place[mine]]), np.concatenate([when, steps.after[mine]])
        node = np.concatenate([node, steps.taken[mine]])
        output = np.concatenate([output, np.full(int(mine.sum()), -1)])
    clear = CLEAR * ulps_of_stop(states)
    for stop in stops:
        near = np.abs(when - stop) <= clear * np.spacing(abs(stop))
        when = np.where(near, ulps(stop, -way * clear), when)
    order = np.lexsort((-way * when, row))
    row, when, node, output = row[order], when[order], node[order], output[order]
    same = np.flatnonzero((row[1:] == row[:-1]) & (when[1:] == when[:-1])) + 1
    for index in (node, output):  # an output at the end of a step
        index[same - 1] = np.maximum(index[same - 1], index[same])
    once = np.setdiff1d(np.arange(len(row)), same)
    row, when, node, output = row[once], when[once], node[once], output[once]
    first, last = (np.searchsorted(row, np.arange(count), side=side) for side in ("left", "right"))
    return Anchors(np.append(when, 0.0), first, last, times[:, 0], node, output, states, gradients)
