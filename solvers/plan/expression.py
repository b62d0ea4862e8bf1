"""Linear expressions over registers and normal draws: what a solver's formulas are made of."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from fractions import Fraction

from ...errors import ArgumentError
from ...kernels import Draw
from .channelwise import Channelwise, Coefficient
from .instructions import Combine, Register


class Expression:
    r"""An immutable linear combination ``sum_i c_i atom_i`` with float64 coefficients.

    A coefficient is a number or a :class:`Channelwise`, a number for each channel. Atoms are registers (tensors of the
    program) and draws (standard normal tensors). Expressions support ``+``, ``-``, and multiplication and division by a
    coefficient; a product of two of them is an error, since no step needs it.

    Example:
        >>> x, v = Expression({0: 1.0}), Expression({1: 1.0})
        >>> x + 0.5 * (v - x)
        Expression({0: 0.5, 1: 0.5})

    """

    __slots__ = ("terms",)

    def __init__(self, terms: Mapping[Register | Draw, Coefficient]) -> None:
        self.terms: dict[Register | Draw, Coefficient] = {
            atom: weight if isinstance(weight, Channelwise) else float(weight)
            for atom, weight in terms.items()
            if weight
        }
        for atom, weight in self.terms.items():
            if not isinstance(weight, Channelwise) and not math.isfinite(weight):
                raise ArgumentError("coefficient", got=f"{weight} for {atom}", expected="a finite number")

    @classmethod
    def register(cls, register: Register) -> Expression:
        """The register itself."""
        return cls({register: 1.0})

    @property
    def single(self) -> Register | None:
        """The register that this expression equals, if it is one register with coefficient exactly 1."""
        if len(self.terms) == 1:
            ((atom, weight),) = self.terms.items()
            if weight == 1.0 and isinstance(atom, int):
                return atom
        return None

    @property
    def registers(self) -> list[Register]:
        """Registers that occur, in order of first appearance."""
        return [atom for atom in self.terms if isinstance(atom, int)]

    @property
    def draws(self) -> list[Draw]:
        """Draws that occur, in order of first appearance."""
        return [atom for atom in self.terms if not isinstance(atom, int)]

    def substitute(self, definitions: Mapping[Register, Expression]) -> Expression:
        """Replace every register that has a definition by it."""
        if not any(atom in definitions for atom in self.registers):
            return self
        total: dict[Register | Draw, Coefficient] = {}
        for atom, weight in self.terms.items():
            inner = definitions[atom].terms if isinstance(atom, int) and atom in definitions else {atom: 1.0}
            for inner_atom, inner_weight in inner.items():
                total[inner_atom] = total.get(inner_atom, 0.0) + weight * inner_weight
        return Expression(total)

    def __add__(self, other: Expression | float) -> Expression:
        if isinstance(other, int | float) and other == 0:  # so that sum() works
            return self
        if not isinstance(other, Expression):
            return NotImplemented
        total = dict(self.terms)
        for atom, weight in other.terms.items():
            total[atom] = total.get(atom, 0.0) + weight
        return Expression(total)

    __radd__ = __add__

    def __mul__(self, factor: Coefficient) -> Expression:
        if not isinstance(factor, int | float | Channelwise):
            return NotImplemented
        number = factor if isinstance(factor, Channelwise) else float(factor)
        return Expression({atom: weight * number for atom, weight in self.terms.items()})

    __rmul__ = __mul__

    def __neg__(self) -> Expression:
        return self * -1.0

    def __sub__(self, other: Expression) -> Expression:
        return self + -other if isinstance(other, Expression) else NotImplemented

    def __truediv__(self, divisor: Coefficient) -> Expression:
        if not isinstance(divisor, int | float | Channelwise):
            return NotImplemented
        number = divisor if isinstance(divisor, Channelwise) else float(divisor)
        return Expression({atom: weight / number for atom, weight in self.terms.items()})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Expression) and self.terms == other.terms

    def __hash__(self) -> int:
        return hash(frozenset(self.terms.items()))

    def __repr__(self) -> str:
        return f"Expression({self.terms})"


def expressions(combine: Combine) -> list[Expression]:
    """One expression for each output of the instruction."""
    scales = combine.scales or ((),) * len(combine.outs)
    return [
        Expression(dict(zip((*combine.inputs, *combine.draws), (*row, *scale), strict=True)))
        for row, scale in zip(combine.matrix, scales, strict=True)
    ]


def combine_of(outs: Iterable[Register], values: Iterable[Expression]) -> Combine:
    """The one instruction that computes all of ``values``; inverse of :func:`expressions`."""
    outs, values = tuple(outs), list(values)
    inputs = tuple(dict.fromkeys(register for value in values for register in value.registers))
    draws = tuple(dict.fromkeys(draw for value in values for draw in value.draws))
    return Combine(
        outs,
        inputs,
        tuple(tuple(value.terms.get(register, 0.0) for register in inputs) for value in values),
        draws,
        tuple(tuple(value.terms.get(draw, 0.0) for draw in draws) for value in values) if draws else (),
    )


def weighted(weights: Iterable[Fraction | Coefficient], values: Iterable[Expression]) -> Expression:
    """``sum_i weights[i] * values[i]``."""
    numbers = [w if isinstance(w, Channelwise) else float(w) for w in weights]
    return sum((w * v for w, v in zip(numbers, values, strict=True)), Expression({}))
