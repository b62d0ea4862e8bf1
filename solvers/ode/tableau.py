"""Runge-Kutta coefficients as exact fractions, every order condition checked when the tableau is made."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache
from math import prod

from ...errors import TableauError


@dataclass(frozen=True)
class Tree:
    """A rooted tree: the root's subtrees, in a canonical order."""

    branches: tuple[Tree, ...] = ()

    @property
    def size(self) -> int:
        """Number of vertices, which is the order of the condition that the tree stands for."""
        return 1 + sum(branch.size for branch in self.branches)

    @property
    def density(self) -> int:
        """Product over the vertices of the sizes of the subtrees below them (Butcher's gamma)."""
        return self.size * prod(branch.density for branch in self.branches)

    def __str__(self) -> str:
        return "[" + "".join(map(str, self.branches)) + "]"


@cache
def rooted_trees(size: int) -> tuple[Tree, ...]:
    """All rooted trees with ``size`` vertices: 1, 1, 2, 4, 9, 20, ... of them.

    Example:
        >>> [len(rooted_trees(n)) for n in (1, 2, 3, 4, 5)]
        [1, 1, 2, 4, 9]

    """
    return tuple(Tree(forest) for forest in forests(size - 1, size - 1))


def forests(total: int, largest: int) -> Iterator[tuple[Tree, ...]]:
    """Multisets of trees with ``total`` vertices, none larger than ``largest``, largest first."""
    if total == 0:
        yield ()
    for size in range(min(total, largest), 0, -1):
        for count in range(1, total // size + 1):
            for chosen in itertools.combinations_with_replacement(rooted_trees(size), count):
                for rest in forests(total - count * size, size - 1):
                    yield chosen + rest


def numbers(text: str) -> tuple[Fraction, ...]:
    """Fractions, decimals or whole numbers, separated by blanks, read exactly.

    Example:
        >>> numbers("1/3 -0.25 1e-2")
        (Fraction(1, 3), Fraction(-1, 4), Fraction(1, 100))
    """
    return tuple(Fraction(item) for item in text.split())


@dataclass(frozen=True)
class Tableau:
    r"""An explicit method :math:`k_i = v(x + h \sum_{j<i} a_{ij} k_j,\; t + c_i h)`, :math:`x' = x + h \sum_i b_i k_i`.

    Attributes:
        order: The order that it must have.
        a: Rows of the strictly lower triangle, from the second stage on, separated by semicolons: ``"1/2; 0 3/4"``.
        b: Weights of the stages.
        source: Where it comes from.
        matrix, weights, nodes: The same as fractions; the nodes ``c`` are the row sums.

    Raises:
        TableauError: A row is too short or too long, or an order condition up to ``order`` does not hold exactly.

    """

    order: int
    a: str
    b: str
    source: str
    matrix: tuple[tuple[Fraction, ...], ...] = field(init=False)
    weights: tuple[Fraction, ...] = field(init=False)
    nodes: tuple[Fraction, ...] = field(init=False)

    def __post_init__(self) -> None:
        rows = tuple(numbers(text) for text in self.a.split(";")) if self.a else ()
        matrix, weights = ((), *rows), numbers(self.b)
        if [len(r) for r in matrix] != list(range(len(weights))):
            raise TableauError(
                self.source,
                got=f"rows of {[len(r) for r in matrix]} coefficients and {len(weights)} weights",
                expected=f"rows of {list(range(len(weights)))}",
            )
        object.__setattr__(self, "matrix", matrix)
        object.__setattr__(self, "weights", weights)
        object.__setattr__(self, "nodes", tuple(sum(r, Fraction(0)) for r in matrix))
        for tree in itertools.chain.from_iterable(rooted_trees(size) for size in range(1, self.order + 1)):
            if (weight := self.weight(tree)) != Fraction(1, tree.density):
                raise TableauError(
                    f"{self.source}, condition {tree} of order {tree.size}",
                    got=weight,
                    expected=Fraction(1, tree.density),
                )

    def weight(self, tree: Tree) -> Fraction:
        """Elementary weight of the tree: the left side of its order condition."""
        return sum((b * u for b, u in zip(self.weights, self._inner(tree), strict=True)), Fraction(0))

    def _inner(self, tree: Tree) -> list[Fraction]:
        """For each stage the product over the root's branches of ``a`` applied to the branch's own product."""
        products = [Fraction(1)] * len(self.weights)
        for branch in tree.branches:
            below = self._inner(branch)
            sums = [sum((a * u for a, u in zip(r, below, strict=False)), Fraction(0)) for r in self.matrix]
            products = [p * s for p, s in zip(products, sums, strict=True)]
        return products
