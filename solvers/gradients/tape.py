"""The accepted steps of a run, by their number, and what was asked for within each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from ..adaptive.method import Attempt, Live


class StepRecorder:
    """Takes down the accepted steps of every sample: a few numbers each, and the states at their ends if asked for.

    Args:
        samples: How many there are.
        states: Whether to keep the states.

    """

    def __init__(self, samples: int, *, states: bool = False) -> None:
        self.count = np.zeros(samples, dtype=np.int64)
        self.rows: list[tuple[np.ndarray, ...]] = []  # samples, number of the step, t, h, after
        self.fresh: list[tuple[np.ndarray, np.ndarray]] = []  # samples, number of the step
        self.keep = states
        self.states: list[Tensor] = []

    def step(self, live: Live, attempt: Attempt, accept: np.ndarray, h: np.ndarray, after: np.ndarray) -> None:
        """Add a step of the samples in ``accept``."""
        place = np.flatnonzero(accept)
        samples = live.samples[place]
        self.rows.append((samples, self.count[samples], live.t[place], h[place], after[place]))
        self.count[samples] += 1
        if self.keep:  # an attempt's states belong to the loop, which overwrites rejected ones only
            every = len(place) == len(accept)
            index = torch.from_numpy(place).to(attempt.x.device)
            self.states.append(attempt.x if every else attempt.x.index_select(0, index))

    def renew(self, live: Live, fresh: np.ndarray) -> Tensor | None:
        """Note that the next step of these samples evaluates its first stage."""
        samples = live.samples[fresh]
        self.fresh.append((samples, self.count[samples]))

    def steps(self) -> Steps:
        """Everything so far, ordered by number and sample."""
        empty = (np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros(0), np.zeros(0), np.zeros(0))
        samples, number, t, h, after = (np.concatenate(column) for column in zip(empty, *self.rows, strict=True))
        order = np.lexsort((samples, number))
        width = len(self.count)
        fresh = [np.zeros(0, dtype=np.int64), *(n * width + s for s, n in self.fresh)]
        anew = np.isin(number * width + samples, np.concatenate(fresh)) | (number == 0)
        return Steps(samples[order], number[order], t[order], h[order], after[order], anew[order], order)


@dataclass
class Steps:
    """Accepted steps, one an entry, ordered by their number and then by sample.

    Attributes:
        samples, number: Whose, and its how manieth.
        t, h, after: Where it began, its signed length, and where it ended (not t + h where an event cut it).
        fresh: Whether its first stage was evaluated, and is not the last stage of the step before.
        taken: Its place in the order of recording, in which the states are.

    """

    samples: np.ndarray
    number: np.ndarray
    t: np.ndarray
    h: np.ndarray
    after: np.ndarray
    fresh: np.ndarray
    taken: np.ndarray

    def __len__(self) -> int:
        return len(self.samples)


@dataclass
class Wanted:
    """States within a step that go to slots of the result.

    Attributes:
        slots: Where to.
        rows: Of which samples, by their place in the group.
        theta: Where in the step; None for its end.
        slope: Whether the slope there is wanted as well.

    """

    slots: np.ndarray
    rows: np.ndarray
    theta: np.ndarray | None
    slope: bool = False


@dataclass
class Group:
    """The n-th steps of all samples that have an n-th step.

    Attributes:
        samples: Whose, ascending.
        place: Their places in the group before; None if it is the same samples.
        everyone: Whether these are all samples.
        t, h, fresh: As in :class:`Steps`.
        wanted: What to hand out.

    """

    samples: np.ndarray
    place: np.ndarray | None
    everyone: bool
    t: np.ndarray
    h: np.ndarray
    fresh: np.ndarray
    wanted: list[Wanted] = field(default_factory=list)


def groups(steps: Steps, count: int) -> list[Group]:
    """Steps of the same number together; samples do not wait for each other, so it does not matter when they were."""
    ends = np.searchsorted(steps.number, np.arange(int(steps.number.max(initial=-1)) + 2))
    result: list[Group] = []
    for first, last in pairwise(ends):
        samples = steps.samples[first:last]
        before = result[-1].samples if result else np.arange(count)
        place = None if len(samples) == len(before) else np.searchsorted(before, samples)
        t, h, fresh = (column[first:last] for column in (steps.t, steps.h, steps.fresh))
        result.append(Group(samples, place, len(samples) == count, t, h, fresh))
    return result


def passages(steps: Steps, samples: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the step that passes a time of a sample, and how far into the step that is.

    Args:
        steps: All steps.
        samples, times: Whose and when, [R].

    Returns:
        Index into the steps, int64 [R], -1 where no step passes the time; and where in it, float64 [R], exactly 1 at
        its end.

    """
    count = len(steps)
    if not count:
        return np.full(len(times), -1, dtype=np.int64), np.ones(len(times))
    way = np.sign(steps.h[0])
    by_sample = np.lexsort((steps.number, steps.samples))
    ends = way * steps.after[by_sample]
    order = np.lexsort(
        (
            np.repeat([1, 0], [count, len(times)]),  # at the same time the question comes before the step that ends
            np.concatenate([ends, way * times]),
            np.concatenate([steps.samples[by_sample], samples]),
        )
    )
    before = np.empty(len(order), dtype=np.int64)
    before[order] = np.cumsum(order < count)
    place = before[count:]
    at = by_sample[np.minimum(place, count - 1)]
    found = (place < count) & (steps.samples[at] == samples)
    found &= (way * times > way * steps.t[at]) | (steps.number[at] > 0)
    theta = np.clip((times - steps.t[at]) / steps.h[at], 0.0, 1.0)
    whole = (times == steps.after[at]) & ~cut(steps, at)
    return np.where(found, at, -1), np.where(whole, 1.0, theta)


def cut(steps: Steps, at: np.ndarray) -> np.ndarray:
    """Which steps an event ended early."""
    short = np.abs(steps.after[at] - (steps.t[at] + steps.h[at]))
    return short > 8 * np.spacing(np.maximum(np.abs(steps.after[at]), np.abs(steps.t[at])))


def hand_out(
    grouped: Sequence[Group],
    steps: Steps,
    which: np.ndarray,
    theta: np.ndarray,
    slots: np.ndarray,
    *,
    slope: bool = False,
) -> None:
    """Add to the groups what is wanted: states of the steps ``which`` at ``theta``, each for its slot."""
    order = np.lexsort((slots, which))
    order = order[which[order] >= 0]
    number = steps.number[which[order]]
    for n in np.unique(number):
        mine = order[number == n]
        group = grouped[n]
        rows = np.searchsorted(group.samples, steps.samples[which[mine]])
        at_end = theta[mine] == 1.0
        for chosen, inside in ((mine[at_end], None), (mine[~at_end], theta[mine[~at_end]])):
            if len(chosen):
                picked = rows[at_end] if inside is None else rows[~at_end]
                group.wanted.append(Wanted(slots[chosen], picked, inside, slope))
