"""Times and coefficients by gradients through the network: Adam on the error of the end point."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import ArgumentError
from .family import numbers
from .formula import Formula, errors_of
from .regression import better, floor_of
from .starts import Groups, Starts

BATCH = 32  # starts of an iteration
RATE = 3e-3  # of Adam at the beginning; it falls to 0 along a cosine
DECAYS = (0.9, 0.99)
LOOKS = 10  # how often the judging starts are looked at
LEAST_SHARE = 1e-3  # of the first step: where it asks cannot come nearer to its ends
TIME_PROBE = 0.01  # of a step: for the derivative of the velocity by the time


@dataclass
class Free:
    """What Adam changes.

    Attributes:
        gaps: Logarithms of the gaps of the grid.
        rows: The coefficients of each step, [K, 1], or by channel [K, C].
        share: Of the first step, where its output is asked for, as a logit; None: at its beginning.
    """

    gaps: Tensor
    rows: list[Tensor]
    share: Tensor | None = None

    @classmethod
    def of(cls, formula: Formula, device: torch.device) -> Free:
        """The numbers of a formula, as leaves, float64."""
        times = torch.tensor(formula.times, dtype=torch.float64, device=device)
        values = [[numbers(weight) for weight in row] for row in formula.rows]
        rows = [torch.tensor(row, dtype=torch.float64, device=device, requires_grad=True) for row in values]
        share = None
        if formula.opening is not None:
            share = (formula.opening - times[0]) / (times[1] - times[0])
            share = share.logit(LEAST_SHARE).requires_grad_()
        return cls(times.diff().log().requires_grad_(), rows, share)

    @property
    def leaves(self) -> list[Tensor]:
        """All of it."""
        return [self.gaps, *self.rows, *([] if self.share is None else [self.share])]

    def asked(self, times: Tensor) -> list[Tensor]:
        """When each output is asked for."""
        first = times[0].detach()
        return [first if self.share is None else first + self.share.sigmoid() * (times[1] - first), *times[1:-1]]

    def times(self, first: float) -> Tensor:
        """The grid: softmax increments, so that it stays one."""
        inner = first + (1 - first) * self.gaps.softmax(0).cumsum(0)[:-1]
        return torch.cat([inner.new_tensor([first]), inner, inner.new_tensor([1.0])])

    def formula(self, like: Formula) -> Formula:
        """The numbers as they are now."""
        free = self.times(like.times[0])
        times, rows = free.tolist(), tuple(like.family.row(row.mT.tolist()) for row in self.rows)
        times[0], times[-1] = like.times[0], like.times[-1]
        opening = None if self.share is None else self.asked(free)[0].item()
        return Formula(like.family, tuple(times), rows, opening)


@torch.enable_grad()
def descend(
    formula: Formula,
    groups: Groups,
    iterations: int,
    *,
    seed: int = 0,
    power: float = 2.0,
    rate: float = RATE,
) -> Formula:
    r"""The formula that Adam comes to, as it was when the judging starts liked it best.

    .. math:: \min_p \; \frac{1}{q} \log \tfrac{1}{B} \textstyle\sum_i |y_{N,i}(p) - x_i^*|^q

    over logarithms of the gaps of the grid and all coefficients; with q = 0 the mean logarithm, of the geometric mean.
    The run is recorded with one checkpoint an evaluation, so that memory holds the activations of one. The derivative
    by a time is that of the velocity there, a difference of two evaluations.

    Args:
        formula: Where it begins.
        groups: The starts.
        iterations: Of Adam, on a few of the fitted starts each.
        seed: Of their choice.
        power: q.
        rate: Adam's first.

    Raises:
        ArgumentError: A network that has no gradient.

    Source:
        Shaul et al. 2024, Bespoke Non-Stationary Solvers, section 4; Kingma & Ba 2015, Adam.
    """
    free = Free.of(formula, groups.fitted[0].noise.device)
    optimiser = torch.optim.Adam(free.leaves, lr=rate, betas=DECAYS)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(iterations, 1))
    best, least = formula, errors_of(formula, groups.judging)
    floor = floor_of(least)
    batches = batches_of(groups.fitted, seed)
    for n in range(iterations):
        left = end_error(free, formula, next(batches))
        value = (left + floor).log().mean() / 2 if power == 0 else (left + floor).pow(power / 2).mean().log() / power
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        falling.step()
        if (n + 1) % max(iterations // LOOKS, 1) == 0:
            found = free.formula(formula)
            now = errors_of(found, groups.judging)
            if better(now, least, power):
                floor = floor_of(now)
                best, least = found, now
    return best


def batches_of(groups: Sequence[Starts], seed: int) -> Iterator[Starts]:
    """Some of the starts of one group after another, without end; every start once in a round."""
    choice = torch.Generator().manual_seed(seed)
    while True:
        for starts in groups:
            for some in torch.randperm(len(starts.noise), generator=choice).split(BATCH):
                yield starts.rows(some)


def end_error(free: Free, formula: Formula, starts: Starts) -> Tensor:
    """Mean squares of what each sample lacks at the end of a recorded run, [B]."""
    times, y, outputs = free.times(formula.times[0]), starts.start, list[Tensor]()
    asked = free.asked(times)
    for step, row in enumerate(free.rows):
        t, t_next = times[step : step + 2].tolist()
        velocity = timed_velocity(starts, y, asked[step], (t, t_next), step)
        outputs.insert(0, formula.family.observed(y, velocity, asked[step]))
        columns = formula.family.columns(y, outputs, step)
        weights = row.to(y.dtype).view(*row.shape, *[1] * (y.ndim - 2))
        y = sum((w * column for w, column in zip(weights, columns, strict=True)), torch.zeros_like(y))
    return (y - starts.exact).flatten(1).square().mean(1)


def timed_velocity(starts: Starts, y: Tensor, asked: Tensor, ends: tuple[float, float], step: int) -> Tensor:
    """The velocity in a step, with its derivatives by the state, recorded, and by the time, a difference."""
    (t, t_next), at = ends, asked.item()
    velocity = starts.velocity(y, t, t_next, step, at=at, gradient=True)
    if not asked.requires_grad:
        return velocity
    if step and not velocity.requires_grad:
        raise ArgumentError(
            "method", got="'gradient'", expected="'least-squares' for a network without gradients (compiled, ONNX)"
        )
    size = TIME_PROBE * (t_next - t)
    with torch.no_grad():
        slope = (starts.velocity(y, t, t_next, step, at=at + size) - velocity) / size
    return velocity + (asked - at).to(slope.dtype) * slope
