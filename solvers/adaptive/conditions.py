"""Order conditions of Runge-Kutta methods, one a rooted tree, in exact integer arithmetic."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from fractions import Fraction
from itertools import chain

from ...errors import TableauError
from ..ode.tableau import Tree, numbers, rooted_trees

Row = tuple[Fraction, ...]
Rows = tuple[Row, ...]


def rows(text: str) -> Rows:
    """Rows of numbers, separated by semicolons; nothing before a semicolon is an empty row."""
    return tuple(numbers(line) for line in text.split(";"))


def difference(a: Row, b: Row) -> Row:
    """Entry by entry, a - b."""
    return tuple(x - y for x, y in zip(a, b, strict=True))


def whole(row: Iterable[Fraction], scale: int) -> list[tuple[int, int]]:
    """Index and value times ``scale`` of what is not zero; a number of more digits than the scale is rounded."""
    return [(j, round(a * scale)) for j, a in enumerate(row) if a]


def common(numbers: Iterable[Fraction], exact: bool) -> int:
    """A common denominator: the least one, or 10^40 where published digits limit what can be said."""
    return math.lcm(*(a.denominator for a in numbers)) if exact else 10**40


class Conditions:
    r"""Order conditions of a matrix of coefficients, one a rooted tree.

    .. math:: \Phi_i(\bullet) = 1, \quad \Phi_i([t_1 \dots t_m]) = \prod_k \sum_j a_{ij} \Phi_j(t_k)

    Weights b have order p where :math:`\sum_i b_i \Phi_i(t) = 1 / \gamma(t)` for every tree of at most p vertices, and
    polynomials :math:`b_i(\theta)` where the sum is :math:`\theta^{|t|} / \gamma(t)`. All numbers are brought to one
    denominator, so that sums are of integers: no gcd, some ten milliseconds for the 200 trees up to order 8.

    Attributes:
        source: Words for the messages.
        matrix: Coefficients a, one row a stage; a row shorter than the number of stages ends in zeros.
        scale: Common denominator of the matrix.
        rounding: How far a condition may be off: 0, or what the rounding of published decimals explains.

    Source: Butcher 1963, J. Austral. Math. Soc. 3, 185-201; Hairer, Norsett & Wanner 1993, theorem II.2.13.

    """

    def __init__(self, source: str, matrix: Rows, rounding: Fraction = Fraction(0)) -> None:
        self.source, self.matrix, self.rounding = source, matrix, rounding
        self.scale = common(chain.from_iterable(matrix), not rounding)
        self._rows = [whole(row, self.scale) for row in matrix]
        self._inner: dict[Tree, tuple[int, list[int], list[int]]] = {}

    def of(self, tree: Tree) -> tuple[int, list[int], list[int]]:
        r"""Density of the tree, :math:`\Phi`, and :math:`a \Phi`, in units of scale^-(|t| - 1) and scale^-|t|."""
        if tree not in self._inner:
            density, vector = tree.size, [1] * len(self.matrix)
            for branch in tree.branches:
                factor, _, sums = self.of(branch)
                density *= factor
                vector = [p * s for p, s in zip(vector, sums, strict=True)]
            self._inner[tree] = density, vector, [sum(a * vector[j] for j, a in row) for row in self._rows]
        return self._inner[tree]

    def check(self, weights: Sequence[Fraction], order: int, *, what: str = "", power: int = 0) -> None:
        r"""Check that weights have an order, or that one power of weights :math:`b_i(\theta)` has.

        Args:
            weights: One a stage.
            order: Largest number of vertices.
            what: Words for the message.
            power: For dense output: the weights are the coefficients of this power of theta, whose sums are
                :math:`1 / \gamma` for trees of that many vertices and 0 for others.

        Raises:
            TableauError: Names the first tree whose condition does not hold.

        """
        by = common(weights, not self.rounding)
        row = whole(weights, by)
        tolerance, inverse = self.rounding.numerator, self.rounding.denominator
        for size in range(1, order + 1):
            unit = by * self.scale ** (size - 1)
            target = unit if power in (0, size) else 0
            for tree in rooted_trees(size):
                density, vector, _ = self.of(tree)
                total = sum([b * vector[i] for i, b in row])
                if abs(total * density - target) * inverse > tolerance * unit * density:
                    value, expected = Fraction(total, unit), Fraction(target, unit * density)
                    raise TableauError(
                        f"{self.source}{what}, condition {tree} of order {size}",
                        got=value if value.denominator < 10**12 else repr(float(value)),
                        expected=f"{expected}" + (f" to {float(self.rounding):.0e}" if self.rounding else ""),
                    )
