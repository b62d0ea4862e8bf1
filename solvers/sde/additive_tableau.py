"""Coefficients of stochastic Runge-Kutta methods for additive noise, with the conditions of strong order 1.5."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from ...errors import TableauError

TOLERANCE = 1e-13  # published decimals have 16 digits and weights up to 17


def dot(a: Iterable[float], b: Iterable[float]) -> float:
    """Sum of the products."""
    return sum(x * y for x, y in zip(a, b, strict=True))


@dataclass(frozen=True)
class AdditiveTableau:
    r"""An explicit method for :math:`dX = f(X, t)\, dt + G(t)\, dW` with additive noise, of strong order 1.5.

    .. math:: H_i = x + h \sum_{j<i} A_{ij} f(H_j, t + c_j h) + I \sum_{j<i} B_{ij} G(t + d_j h), \quad
        x' = x + h \sum_i a_i f(H_i, t + c_i h) + W \sum_i b_i G(t + d_i h) + I \sum_i e_i G(t + d_i h)

    with :math:`W = W_{t+h} - W_t` and :math:`I = \tfrac1h \int_t^{t+h} (W_s - W_t)\, ds`. Expanding both the method
    and the solution, the conditions on what multiplies h f, G W, f_x G I, f_t, f_xx G^2 and G' are

    .. math:: a \cdot 1 = 1, \; b \cdot 1 = 1, \; e \cdot 1 = 0, \; a \cdot B 1 = 1, \; a \cdot A 1 = \tfrac12, \;
        a \cdot (B 1)^2 = \tfrac32, \; b \cdot d = 1, \; e \cdot d = -1

    Attributes:
        drift, noise: Rows of A and of B below the diagonal, from the second stage on.
        weights: a.
        nodes: d, the times of the noise; those of the drift, ``drift_nodes``, are the row sums of A.
        increment, area: b and e.
        source: Where it comes from.

    Raises:
        TableauError: Rows of the wrong length, or a condition that does not hold to 1e-13; names it.

    Source: Roessler 2010, SIAM J. Numer. Anal. 48(3), 922-952, theorem 6.1.

    """

    drift: tuple[tuple[float, ...], ...]
    noise: tuple[tuple[float, ...], ...]
    weights: tuple[float, ...]
    nodes: tuple[float, ...]
    increment: tuple[float, ...]
    area: tuple[float, ...]
    source: str
    drift_nodes: tuple[float, ...] = field(init=False)

    def __post_init__(self) -> None:
        stages = len(self.weights)
        for name in ("drift", "noise"):
            if [len(row) for row in getattr(self, name)] != list(range(1, stages)):
                got = [len(row) for row in getattr(self, name)]
                raise TableauError(f"{self.source}, {name}", got=f"rows of {got}", expected=list(range(1, stages)))
        for name in ("nodes", "increment", "area"):
            if len(getattr(self, name)) != stages:
                raise TableauError(f"{self.source}, {name}", got=len(getattr(self, name)), expected=f"{stages} numbers")
        object.__setattr__(self, "drift_nodes", (0.0, *(sum(row) for row in self.drift)))
        for condition, (value, expected) in self.conditions().items():
            if abs(value - expected) > TOLERANCE:
                raise TableauError(f"{self.source}, condition {condition}", got=value, expected=expected)

    def conditions(self) -> dict[str, tuple[float, float]]:
        """Each condition of strong order 1.5: what it is here, and what it must be."""
        spread = [0.0, *(sum(row) for row in self.noise)]
        return {
            "sum(a) = 1": (sum(self.weights), 1.0),
            "sum(b) = 1": (sum(self.increment), 1.0),
            "sum(e) = 0": (sum(self.area), 0.0),
            "a.A1 = 1/2": (dot(self.weights, self.drift_nodes), 0.5),
            "a.B1 = 1": (dot(self.weights, spread), 1.0),
            "a.(B1)^2 = 3/2": (dot(self.weights, [s * s for s in spread]), 1.5),
            "b.d = 1": (dot(self.increment, self.nodes), 1.0),
            "e.d = -1": (dot(self.area, self.nodes), -1.0),
        }


SRA1 = AdditiveTableau(
    drift=((3 / 4,),),
    noise=((3 / 2,),),
    weights=(1 / 3, 2 / 3),
    nodes=(1.0, 0.0),
    increment=(1.0, 0.0),
    area=(-1.0, 1.0),
    source="Roessler 2010, SRA1",
)

SRA3 = AdditiveTableau(
    drift=((1.0,), (1 / 4, 1 / 4)),
    noise=((0.0,), (1.0, 1 / 2)),
    weights=(1 / 6, 1 / 6, 2 / 3),
    nodes=(1.0, 0.0, 0.0),
    increment=(1.0, 0.0, 0.0),
    area=(-1.0, 1.0, 0.0),
    source="Roessler 2010, SRA3",
)

SOSRA = AdditiveTableau(
    drift=((0.6923962376159507,), (-3.1609142252828395, 4.1609142252828395)),
    noise=((1.3371632704399763,), (1.442371048468624, 1.8632741501139225)),
    weights=(0.2889874966892885, 0.6859880440839937, 0.025024459226717772),
    nodes=(0.0, 0.041248171110700504, 1.0),
    increment=(-16.792534242221663, 17.514995785380226, 0.27753845684143835),
    area=(0.4237535769069274, 0.6010381474428539, -1.0247917243497813),
    source="Rackauckas & Nie 2017, SOSRA",
)
