"""Diagonally implicit pairs for stiff problems: order conditions, stiff accuracy and stability checked."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import cached_property
from math import comb, prod

from ...errors import TableauError
from .conditions import Row, Rows, difference, numbers, rows
from .pairs import Pair, Pairs


class ImplicitPair(Pair):
    r"""A singly diagonally implicit pair with an explicit first stage, stiffly accurate and L-stable (ESDIRK).

    .. math:: k_1 = v(x, t), \quad k_i = v(x + h \sum_{j<i} a_{ij} k_j + h \gamma k_i,\; t + c_i h), \quad
        x' = x + h \sum_i b_i k_i

    Every implicit stage has the same gamma, so that a step needs one matrix :math:`I - h \gamma J`. The last row of a
    is b, so that the last stage is the new state and its slope the first of the next step. On dx/dt = (z / h) x a step
    multiplies x by R(z); L-stable is a method where abs(R) is at most 1 in the left half plane and 0 at infinity.

    Besides what :class:`Pair` checks: one gamma, nodes within the step (so that no field is asked for times beyond its
    end), the last row, and R at infinity. A-stability is left to the tests.
    """

    @property
    def diagonal(self) -> int:
        """Entries of row i beyond i: the diagonal one."""
        return 1

    @property
    def gamma(self) -> float:
        """The coefficient on the diagonal."""
        return self.a[-1][-1]

    @property
    def fsal(self) -> bool:
        """Whether the last stage is the new state."""
        return self.matrix[-1] == self.weights

    @property
    def numerator(self) -> Row:
        r"""Coefficients of P in :math:`R(z) = P(z) / (1 - \gamma z)^{s-1}`, from the constant on.

        R has the series :math:`1 + \sum_k z^{k+1} b A^k 1`; times the denominator it ends with :math:`z^{s-1}`.
        """
        degree, gamma = self.stages - 1, self.matrix[-1][-1]
        series, vector = [Fraction(1)], [Fraction(1)] * self.stages
        for _ in range(degree):
            series.append(sum((b * v for b, v in zip(self.weights, vector, strict=True)), Fraction(0)))
            vector = [sum((a * v for a, v in zip(row, vector, strict=False)), Fraction(0)) for row in self.matrix]
        power = [comb(degree, k) * (-gamma) ** k for k in range(degree + 1)]
        return tuple(sum((power[k] * series[n - k] for k in range(n + 1)), Fraction(0)) for n in range(degree + 1))

    @cached_property
    def guesses(self) -> tuple[dict[int, float], ...]:
        """For each implicit stage, the slopes before it and their weights in a guess of its own.

        A polynomial through up to three slopes, at the nearest nodes that are apart; of a lower degree where weights
        would exceed 8 together, since a stiff component is multiplied by as much.
        """
        found = []
        for i in range(1, self.stages):
            near: list[int] = []
            for j in sorted(range(i), key=lambda j: (abs(self.c[j] - self.c[i]), -j)):
                if len(near) < 3 and all(abs(self.c[j] - self.c[k]) > 0.05 for k in near):
                    near.append(j)
            weights = lagrange([self.c[j] for j in near], self.c[i])
            while sum(map(abs, weights)) > 8:
                near.pop()
                weights = lagrange([self.c[j] for j in near], self.c[i])
            found.append({j: w for j, w in zip(near, weights, strict=True) if w})
        return tuple(found)

    def check(self) -> None:
        """Check every condition, those of :meth:`Pair.check` included.

        Raises:
            TableauError: Names the first condition that does not hold.

        """
        gammas = {row[-1] for row in self.matrix[1:]}
        if self.matrix[0] != (0,) or len(gammas) != 1:
            got = [str(row[-1]) for row in self.matrix]
            raise TableauError(f"{self.source}, diagonal", got=got, expected="0, then one gamma")
        if not all(0 <= c <= 1 for c in self.c):
            raise TableauError(
                f"{self.source}, nodes", got=self.c, expected="times within the step: fields may end there"
            )
        if not self.fsal:
            raise TableauError(f"{self.source}, last row", got=self.a[-1], expected=f"the weights, {self.b}")
        super().check()
        if abs(self.numerator[-1]) > self.rounding:
            got = float(self.numerator[-1] / (-self.matrix[-1][-1]) ** (self.stages - 1))
            raise TableauError(f"{self.source}, R at infinity", got=got, expected=0)


def lagrange(nodes: Sequence[float], at: float) -> list[float]:
    """Weights of values at the nodes in the polynomial through them, at another place."""
    return [prod((at - b) / (a - b) for b in nodes if b != a) for a in nodes]


IMPLICIT = Pairs()


def hermite(weights: Row) -> Rows:
    """Cubic Hermite dense output of a pair whose first and last slopes are those at both ends of the step."""
    last = len(weights) - 1
    return tuple((Fraction(i == 0), 3 * b - 2 * (i == 0) - (i == last), (i == 0) + (i == last) - 2 * b)
                 for i, b in enumerate(weights))  # fmt: skip


def quartic(matrix: Rows, weights: Row) -> Rows:
    r"""Dense output of order 4: :math:`b_i(\theta)` of cubic Hermite, plus :math:`w_i \theta^2 (1 - \theta)^2`.

    A quartic is its cubic Hermite interpolant and its leading coefficient times :math:`\theta^2 (1 - \theta)^2`; hence
    order 4 where :math:`\sum_i w_i \Phi_i(t)` is 0 for trees of up to three vertices and :math:`1 / \gamma(t)` for
    those of four. Of all such w the shortest one is taken. With stage order 2 five of the conditions are independent.
    """
    count = len(weights)
    matrix = tuple(tuple(Fraction(round(a * 10**40), 10**40) for a in row) for row in matrix)  # else digits explode
    c = [sum(row, Fraction(0)) for row in matrix]
    squares = [sum((a * c[j] ** 2 for j, a in enumerate(row)), Fraction(0)) for row in matrix]
    left = [[Fraction(1)] * count, c, [x**2 for x in c], [x**3 for x in c], squares]
    right = [Fraction(0), Fraction(0), Fraction(0), Fraction(1, 4), Fraction(1, 12)]
    gram = [[sum((x * y for x, y in zip(p, q, strict=True)), Fraction(0)) for q in left] for p in left]
    factors = solve(gram, right)
    extra = [sum((f * row[i] for f, row in zip(factors, left, strict=True)), Fraction(0)) for i in range(count)]
    return tuple((p, q + w, r - 2 * w, w) for (p, q, r), w in zip(hermite(weights), extra, strict=True))


def solve(matrix: Sequence[Sequence[Fraction]], right: Sequence[Fraction]) -> list[Fraction]:
    """Exact solution of a small positive definite system, by elimination."""
    table = [[*row, r] for row, r in zip(matrix, right, strict=True)]
    for i, pivot in enumerate(table):
        table[i] = pivot = [x / pivot[i] for x in pivot]
        for j, row in enumerate(table):
            if j != i and row[i]:
                table[j] = [x - row[i] * p for x, p in zip(row, pivot, strict=True)]
    return [row[-1] for row in table]


@IMPLICIT.register()
def kvaerno32() -> ImplicitPair:
    """Kvaerno 3(2), four stages; its comparison is the third stage, L-stable too."""
    matrix = rows("""0 ; 0.43586652150845899941601945119356 0.43586652150845899941601945119356 ;
        0.49056338842178057062846795846654 0.073570090069760429955512590339898 0.43586652150845899941601945119356 ;
        0.3088099699767465233481624698867 1.4905633884217805706284679584665 -1.2352398799069860933926498795468
        0.43586652150845899941601945119356""")
    return ImplicitPair(
        order=3,
        matrix=matrix,
        weights=matrix[-1],
        estimates={2: difference(matrix[-1], (*matrix[-2], Fraction(0)))},
        polynomials=hermite(matrix[-1]),
        dense_order=3,
        source="Kvaerno 2004, BIT 44(3), 489-502",
        rounding=Fraction("1e-28"),
    )


@IMPLICIT.register()
def esdirk43() -> ImplicitPair:
    """Kennedy-Carpenter 4(3), six stages, gamma 1/4: the implicit half of ARK4(3)6L[2]SA."""
    matrix = rows("""0 ; 1/4 1/4 ; 8611/62500 -1743/31250 1/4 ;
        5012029/34652500 -654441/2922500 174375/388108 1/4 ;
        15267082809/155376265600 -71443401/120774400 730878875/902184768 2285395/8070912 1/4 ;
        82889/524892 0 15625/83664 69875/102672 -2260/8211 1/4""")
    comparison = numbers("""4586570599/29645900160 0 178811875/945068544 814220225/1159782912 -3700637/11593932
        61727/225920""")
    return ImplicitPair(
        order=4,
        matrix=matrix,
        weights=matrix[-1],
        estimates={3: difference(matrix[-1], comparison)},
        polynomials=quartic(matrix, matrix[-1]),
        dense_order=4,
        source="Kennedy & Carpenter 2003, Appl. Numer. Math. 44(1-2), 139-181",
        rounding=Fraction("1e-36"),  # of the dense output; what is published is exact
    )
