"""Embedded Runge-Kutta pairs: exact coefficients, error estimates and dense output, every order condition checked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property

from ...errors import ArgumentError, TableauError, UnknownNameError
from .conditions import Conditions, Row, Rows, difference, numbers, rows

Floats = tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Pair:
    r"""An explicit method with error estimates and a continuous extension.

    .. math:: k_i = v(x + h \sum_{j<i} a_{ij} k_j,\; t + c_i h), \quad x' = x + h \sum_i b_i k_i, \quad
        e = h \sum_i (b_i - \hat b_i) k_i, \quad x(t + \theta h) = x + h \sum_i b_i(\theta) k_i

    The row of higher order advances (local extrapolation). The nodes c are the row sums of a.

    Attributes:
        order: Order of the row that advances; a controller's exponent is 1 / order.
        matrix: Exact a: row i has i entries, row 0 is empty.
        weights: Exact b.
        estimates: Exact :math:`b - \hat b` by the order of :math:`\hat b`; usually one. :data:`dop853` has two, whose
            norms n5 and n3 make the error :math:`n_5^2 / \sqrt{n_5^2 + n_3^2 / 100}`.
        polynomials: Exact dense output: row i holds the coefficients of :math:`b_i(\theta)` from theta on.
        dense_order: Order of the dense output, uniformly in theta.
        source: Where it comes from.
        extra: Rows of further stages that only the dense output needs; they see the stages before them.
        rounding: How far a condition may be off, where coefficients are published as decimals.
        name: Its name in :data:`PAIRS`, which fills it in.
        a, b, c, error, dense, extra_a, extra_c: The same as floats: ``error`` has one row an estimate, ``dense`` one a
            stage (those of ``extra`` last).

    Raises:
        TableauError: Rows of the wrong length.

    """

    order: int
    matrix: Rows
    weights: Row
    estimates: Mapping[int, Row]
    polynomials: Rows
    dense_order: int
    source: str
    extra: Rows = ()
    rounding: Fraction = Fraction(0)
    name: str = ""
    a: tuple[Floats, ...] = field(init=False, repr=False)
    b: Floats = field(init=False, repr=False)
    c: Floats = field(init=False, repr=False)
    error: tuple[Floats, ...] = field(init=False, repr=False)
    dense: tuple[Floats, ...] = field(init=False, repr=False)
    extra_a: tuple[Floats, ...] = field(init=False, repr=False)
    extra_c: Floats = field(init=False, repr=False)

    def __post_init__(self) -> None:
        lengths = [stage + self.diagonal for stage in range(self.all_stages)]
        self._lengths("rows", [len(row) for row in (*self.matrix, *self.extra)], lengths)
        for estimate in self.estimates.values():
            self._lengths("an estimate", len(estimate), self.stages)
        self._lengths("dense output", len(self.polynomials), self.all_stages)
        exact = {"a": self.matrix, "error": tuple(self.estimates.values()), "dense": self.polynomials}
        for name, table in (exact | {"extra_a": self.extra}).items():
            object.__setattr__(self, name, tuple(tuple(map(float, row)) for row in table))
        object.__setattr__(self, "b", tuple(map(float, self.weights)))
        object.__setattr__(self, "c", tuple(float(sum(row)) for row in self.matrix))
        object.__setattr__(self, "extra_c", tuple(float(sum(row)) for row in self.extra))

    def _lengths(self, what: str, got: object, expected: object) -> None:
        if got != expected:
            raise TableauError(f"{self.source}, lengths of {what}", got=got, expected=expected)

    @property
    def diagonal(self) -> int:
        """Entries of row i beyond i: none, as the method is explicit."""
        return 0

    @property
    def stages(self) -> int:
        """Stages of a step, without those of the dense output."""
        return len(self.weights)

    @property
    def all_stages(self) -> int:
        """Stages of a step and of the dense output."""
        return self.stages + len(self.extra)

    @property
    def fsal(self) -> bool:
        """Whether the last stage is taken at the new state, and so is the first of the next step (its row is b)."""
        return self.weights[-1] == 0 and self.matrix[-1] == self.weights[:-1]

    @property
    def last_is_free_of_error(self) -> bool:
        """Whether no estimate uses the last stage, so that a rejected step need not evaluate it (only if FSAL)."""
        return self.fsal and not any(row[-1] for row in self.estimates.values())

    @property
    def evaluations(self) -> int:
        """New evaluations an attempt that follows an accepted step."""
        return self.stages - self.fsal

    def __str__(self) -> str:
        return self.name

    @cached_property
    def verified(self) -> Pair:
        """The pair itself, once all its conditions have been checked: see :meth:`check`."""
        self.check()
        return self

    def check(self) -> None:
        r"""Check every condition, exactly or to ``rounding``.

        These are: the order conditions of b, of each :math:`\hat b`, and of :math:`b_i(\theta)` as identities of
        polynomials; :math:`b_i(1) = b_i`; and slopes of the dense output that are the first stage at theta = 0 and,
        where it is FSAL, the last one at theta = 1, so that pieces of a solution join with a continuous derivative.

        Raises:
            TableauError: Names the first condition that does not hold. Dormand-Prince 8(5,3) has 500 of them: 20 ms.

        """
        conditions = Conditions(self.source, (*self.matrix, *self.extra), self.rounding)
        conditions.check(self.weights, self.order)
        for order, estimate in self.estimates.items():
            conditions.check(difference(self.weights, estimate), order, what=f", comparison of order {order}")
        for power, column in enumerate(zip(*self.polynomials, strict=True), start=1):
            conditions.check(column, self.dense_order, what=f", dense output, power {power}", power=power)
        for i, row in enumerate(self.polynomials):
            self._equal(f"b_{i}(1)", sum(row), self.weights[i] if i < self.stages else Fraction(0))
            self._equal(f"b_{i}'(0)", row[0], Fraction(i == 0))
            if self.fsal:
                self._equal(f"b_{i}'(1)", sum(q * p for q, p in enumerate(row, 1)), Fraction(i == self.stages - 1))

    def _equal(self, what: str, got: Fraction | int, expected: Fraction) -> None:
        if abs(got - expected) > self.rounding:
            raise TableauError(f"{self.source}, dense output, {what}", got=float(got), expected=float(expected))


class Pairs(Mapping[str, Pair]):
    """The registered pairs by name or alias; each is made, and all its conditions checked, when first asked for.

    Iterating gives the names, without aliases.
    """

    def __init__(self) -> None:
        self._makers: dict[str, Callable[[], Pair]] = {}
        self._names: dict[str, str] = {}  # by name and by alias
        self._made: dict[str, Pair] = {}

    def register(self, *aliases: str) -> Callable[[Callable[[], Pair]], Callable[[], Pair]]:
        """Decorate a function that makes a pair: its name becomes that of the pair, found under the aliases as well.

        Raises:
            ArgumentError: A name that another pair has.

        """

        def decorate(maker: Callable[[], Pair]) -> Callable[[], Pair]:
            name = maker.__name__
            for word in (name, *aliases):
                if word in self._names:
                    raise ArgumentError("name", got=repr(word), expected="one that no pair has")
            self._makers[name] = maker
            self._names.update(dict.fromkeys((name, *aliases), name))
            return maker

        return decorate

    def __getitem__(self, name: str) -> Pair:
        name = self._names[name]
        if name not in self._made:
            self._made[name] = replace(self._makers[name](), name=name).verified
        return self._made[name]

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)

    @property
    def names(self) -> list[str]:
        """All names, aliases behind the name that they stand for."""
        return [word for own in self._makers for word, name in self._names.items() if name == own]


PAIRS = Pairs()
register = PAIRS.register


def pair(name: str) -> Pair:
    """The pair of that name or alias, its conditions checked.

    Raises:
        UnknownNameError: No such pair; lists those that there are.
        TableauError: A condition does not hold.

    Example:
        >>> pair("rk45").name, pair("bosh3").evaluations, pair("dop853").dense_order
        ('dopri54', 3, 7)

    """
    if name not in PAIRS:
        raise UnknownNameError("pair", got=repr(name), expected="one of " + ", ".join(PAIRS.names))
    return PAIRS[name]


@register("adaptive_heun")
def heun21() -> Pair:
    """Heun-Euler 2(1), two stages."""
    return Pair(
        order=2,
        matrix=rows("; 1"),
        weights=numbers("1/2 1/2"),
        estimates={1: numbers("-1/2 1/2")},
        polynomials=rows("1 -1/2 ; 0 1/2"),
        dense_order=2,
        source="Heun 1900, Z. Math. Phys. 45, 23-38, with Euler's method",
    )


@register("fehlberg2")
def fehlberg21() -> Pair:
    """Fehlberg 2(1), three stages."""
    return Pair(
        order=2,
        matrix=rows("; 1/2 ; 1/256 255/256"),
        weights=numbers("1/512 255/256 1/512"),
        estimates={1: numbers("-1/512 0 1/512")},
        polynomials=rows("1 -511/512 ; 0 255/256 ; 0 1/512"),
        dense_order=2,
        source="Fehlberg 1969, NASA TR R-315, table XIII",
    )


@register("bosh3", "rk23")
def bosh32() -> Pair:
    """Bogacki-Shampine 3(2), four stages of which the last is the next step's first."""
    return Pair(
        order=3,
        matrix=rows("; 1/2 ; 0 3/4 ; 2/9 1/3 4/9"),
        weights=numbers("2/9 1/3 4/9 0"),
        estimates={2: numbers("-5/72 1/12 1/9 -1/8")},
        polynomials=rows("1 -4/3 5/9 ; 0 1 -2/3 ; 0 4/3 -8/9 ; 0 -1 1"),  # cubic Hermite
        dense_order=3,
        source="Bogacki & Shampine 1989, Appl. Math. Lett. 2(4), 321-325",
    )


@register("rk45")
def dopri54() -> Pair:
    """Dormand-Prince 5(4), seven stages, FSAL; dense output of order 4."""
    return Pair(
        order=5,
        matrix=rows("""; 1/5 ; 3/40 9/40 ; 44/45 -56/15 32/9 ; 19372/6561 -25360/2187 64448/6561 -212/729 ;
            9017/3168 -355/33 46732/5247 49/176 -5103/18656 ; 35/384 0 500/1113 125/192 -2187/6784 11/84"""),
        weights=numbers("35/384 0 500/1113 125/192 -2187/6784 11/84 0"),
        estimates={4: numbers("71/57600 0 -71/16695 71/1920 -17253/339200 22/525 -1/40")},
        polynomials=rows("""1 -8048581381/2820520608 8663915743/2820520608 -12715105075/11282082432 ; 0 0 0 0 ;
            0 131558114200/32700410799 -68118460800/10900136933 87487479700/32700410799 ;
            0 -1754552775/470086768 14199869525/1410260304 -10690763975/1880347072 ;
            0 127303824393/49829197408 -318862633887/49829197408 701980252875/199316789632 ;
            0 -282668133/205662961 2019193451/616988883 -1453857185/822651844 ;
            0 40617522/29380423 -110615467/29380423 69997945/29380423"""),
        dense_order=4,
        source="Dormand & Prince 1980, J. Comput. Appl. Math. 6(1), 19-26; dense output Shampine 1986, Math. Comp. 46",
    )


@register()
def dopri5() -> Pair:
    """Dormand-Prince 5(4) with two thirds of the estimate, which torchdiffeq takes: steps are 8 % longer."""
    return replace(
        dopri54(),
        estimates={4: tuple(e * Fraction(2, 3) for e in dopri54().estimates[4])},
        source="Dormand & Prince 1980, J. Comput. Appl. Math. 6(1), 19-26; estimate Shampine 1986, Math. Comp. 46",
    )


@register("tsit5")
def tsit54() -> Pair:
    """Tsitouras 5(4), seven stages, FSAL; dense output of order 4."""
    return Pair(
        order=5,
        matrix=rows("""; 0.161 ; -0.008480655492356988544426874250230774675121177393430391537
            0.3354806554923569885444268742502307746751211773934303915 ;
            2.897153057105493432130432594192938764924887287701866490
            -6.359448489975074843148159912383825625952700647415626703
            4.362295432869581411017727318190886861027813359713760212 ;
            5.325864828439256604428877920840511317836476253097040101
            -11.74888356406282787774717033978577296188744178259862899
            7.495539342889836208304604784564358155658679161518186721
            -0.09249506636175524925650207933207191611349983406029535244 ;
            5.861455442946420028659251486982647890394337666164814434
            -12.92096931784710929170611868178335939541780751955743459
            8.159367898576158643180400794539253485181918321135053305
            -0.07158497328140099722453054252582973869127213147363544883
            -0.02826905039406838290900305721271224146717633626879770008 ;
            0.09646076681806522951816731316512876333711995238157997182 0.01
            0.4798896504144995747752495322905965199130404621990332488
            1.379008574103741893192274821856872770756462643091360526
            -3.290069515436080679901047585711363850115683290894936159
            2.324710524099773982415355918398765796109060233222962412"""),
        weights=numbers("""0.09646076681806522951816731316512876333711995238157997182 0.01
            0.4798896504144995747752495322905965199130404621990332488
            1.379008574103741893192274821856872770756462643091360526
            -3.290069515436080679901047585711363850115683290894936159
            2.324710524099773982415355918398765796109060233222962412 0"""),
        estimates={
            4: numbers("""0.001780011052225777 0.0008164344596567463 -0.007880878010261994 0.1447110071732629
            -0.5823571654525552 0.4580821059291869 -1/66""")
        },
        polynomials=rows("""1 -2.76370619727482601 2.91325546182191274 -1.05308849772902160 ; 0 0.1317 -0.2234 0.1017 ;
            0 3.93029623689475153 -5.94103387213150473 2.49062728565125279 ;
            0 -12.4110771669336767 30.3381886302823216 -16.5481028892449027 ;
            0 37.5093134165110392 -88.1789048947664011 47.3795219628192812 ;
            0 -27.8965262891972878 65.0918946747936715 -34.8706578614966097 ; 0 1.5 -4 2.5"""),
        dense_order=4,
        source="Tsitouras 2011, Comput. Math. Appl. 62(2), 770-775",
        rounding=Fraction("1e-15"),
    )
