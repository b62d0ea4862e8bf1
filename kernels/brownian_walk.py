"""The walk through a binary tree that finds the increments of a Brownian path between given times, from left to right.

A node of the tree is a piece of the path: an interval, its increment W and its space-time area H. Pieces are cut in two
until they end at the times that are asked for, and joined again between them, always in the order of time. So a result
depends on its two times alone, and not on what else is asked for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

ROOT = 0  #: number of the node whose normals are the whole interval's; the node of index i on level l has 2^l + i


class Cut(NamedTuple):
    """Numbers that multiply W, H and two normals z, n of a piece, for the laws of its parts left and right of a cut.

    ``W_left = theta W + bend H + spread z``, ``W_right = W - W_left``, ``H_left = square_left H - share_left z +
    twist_left n``, ``H_right = square_right H - share_right z - twist_right n``.
    """

    theta: float
    bend: float = 0.0
    spread: float = 0.0
    square_left: float = 0.0
    share_left: float = 0.0
    twist_left: float = 0.0
    square_right: float = 0.0
    share_right: float = 0.0
    twist_right: float = 0.0


def cut_at(theta: float, root: float, area: bool) -> Cut:
    r"""The cut of a piece of length ``root ** 2`` at a fraction of it, or of its increment alone.

    With :math:`\phi = 1 - \theta` and :math:`\delta^2 = \theta^3 + \phi^3`, given W and H of a piece of length l, the
    increment of its left part is :math:`\theta W + 6 \theta \phi H + \delta \sqrt{\theta \phi l}\, z`, its area
    :math:`\theta^2 H + \sqrt{\theta \phi l}\, (-\theta^2 z + \phi n / \sqrt 3) / (2 \delta)`, that of the right part
    :math:`\phi^2 H - \sqrt{\theta \phi l}\, (\phi^2 z + \theta n / \sqrt 3) / (2 \delta)`. Given W alone, the
    increment is :math:`\theta W + \sqrt{\theta \phi l}\, z`.

    Source: Foster, Lyons & Oberhauser 2020, SIAM J. Numer. Anal. 58(3), for the middle; Jelincic, Foster & Kidger
        2024, arXiv:2405.06464, for any point.
    """
    phi, both = 1 - theta, math.sqrt(theta * (1 - theta))
    if not area:
        return Cut(theta, spread=root * both)
    delta = math.sqrt(theta * theta * theta + phi * phi * phi)
    share, twist = root * both / (2 * delta), root * both * 1.7320508075688772 / (6 * delta)
    return Cut(
        theta,
        6 * theta * phi,
        root * both * delta,
        theta * theta,
        share * (theta * theta),
        twist * phi,
        phi * phi,
        share * (phi * phi),
        twist * theta,
    )


class Step(NamedTuple):
    """One step of a walk, on a stack of pieces whose top is the leftmost one, and a running increment.

    ``walk`` is "cut" (replace the top by its two parts), "drop" (forget the top), "take" (append it to the running
    increment, of which ``first`` and ``rest`` are the shares of the length), "copy" (make the part of the top up to
    the cut, and append it less the part that was copied before, of which ``before`` is the share) or "emit" (the
    running increment is the next result).
    """

    walk: str
    node: int = 0
    cut: Cut | None = None
    first: float = 0.0
    rest: float = 1.0
    before: float = 0.0
    dropped: bool = False


def walk(times: Sequence[float], *, levels: int, span: float, area: bool) -> list[Step]:
    """The steps that lead to the increments between consecutive times.

    Args:
        times: Fractions of the interval, at least two, not decreasing.
        levels: Depth of the tree.
        span: Length of the interval.
        area: Whether pieces have areas.

    Example:
        >>> [step.walk for step in walk([0.5, 1.0], levels=3, span=1.0, area=False)]
        ['cut', 'drop', 'take', 'emit']
    """
    return _Walk([t * 2.0**levels for t in times], levels, span, area).steps


class _Walk:
    """Positions are in leaves; ``next`` is the time that is looked for, ``length`` that of the running increment."""

    def __init__(self, positions: list[float], levels: int, span: float, area: bool) -> None:
        self.positions, self.levels, self.span, self.area = positions, levels, span, area
        self.steps: list[Step] = []
        self.next, self.length = 0, 0.0
        self.reach(0.0)
        self.visit(0, 0, 0.0, 2.0**levels)

    @property
    def done(self) -> bool:
        return self.next == len(self.positions)

    def reach(self, place: float) -> None:
        """Emit what ends here."""
        while not self.done and self.positions[self.next] <= place:
            if self.next > 0:
                self.steps.append(Step("emit"))
            self.next, self.length = self.next + 1, 0.0

    def shares(self, piece: float) -> tuple[float, float]:
        total = self.length + piece
        shares = self.length / total, piece / total
        self.length = total
        return shares

    def whole(self, piece: float) -> None:
        """The top belongs to the running increment, if that has begun."""
        self.steps.append(Step("drop") if self.next == 0 else Step("take", 0, None, *self.shares(piece)))

    def cut(self, level: int, theta: float) -> Cut:
        return cut_at(theta, math.sqrt(self.span / 2.0**level), self.area)

    def visit(self, level: int, index: int, low: float, high: float) -> None:
        if self.done:
            return
        if self.positions[self.next] >= high:
            self.whole(high - low)
            self.reach(high)
        elif level == self.levels:
            self.leaf(2**level + index, low, high)
        else:
            middle = low + (high - low) * 0.5
            self.steps.append(Step("cut", 2**level + index, self.cut(level, 0.5)))
            self.visit(level + 1, 2 * index, low, middle)
            self.visit(level + 1, 2 * index + 1, middle, high)

    def leaf(self, node: int, low: float, high: float) -> None:
        """Every part of a leaf is taken from the leaf itself, and so does not depend on where else it is cut."""
        inside = sorted({p - low for p in self.positions[self.next :] if p < high})
        theta = inside[-1]
        if len(inside) > 1:
            before = 0.0
            for theta in inside:
                dropped = self.next == 0
                shares = (0.0, 1.0) if dropped else self.shares(theta - before)
                self.steps.append(Step("copy", node, self.cut(self.levels, theta), *shares, before / theta, dropped))
                before = theta
                self.reach(low + theta)
            if self.done:
                return
        self.steps.append(Step("cut", node, self.cut(self.levels, theta)))
        if len(inside) > 1:
            self.steps.append(Step("drop"))
        else:
            self.whole(theta)
            self.reach(low + theta)
        if not self.done:
            self.whole(high - (low + theta))
            self.reach(high)
