"""Orthogonal wavelet filters, as data that cannot hold a wrong digit: every condition is checked at import."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import ArgumentError

MAX_TAPS = 32


@dataclass(frozen=True)
class Wavelet:
    r"""An orthogonal wavelet filter, checked when it is made.

    .. math:: \textstyle\sum_k h_k h_{k+2m} = \delta_m, \quad \sum_k (-1)^k k^p h_k = 0 \text{ for } p < \text{moments}

    Args:
        taps: The low-pass filter h, of even length L, at most 32.
        moments: Vanishing moments of the high-pass filter :math:`g_k = (-1)^k h_{L-1-k}`.
        source: Where the taps are from.

    Raises:
        ArgumentError: Taps that miss one of the conditions by more than rounding; says which.
    """

    taps: tuple[float, ...]
    moments: int = 1
    source: str = ""

    def __post_init__(self) -> None:
        taps, length = self.taps, len(self.taps)
        if length % 2 or not 2 <= length <= MAX_TAPS:
            raise ArgumentError("taps", got=f"{length} taps", expected=f"an even number, 2 to {MAX_TAPS}")
        for m in range(length // 2):
            product = math.fsum(taps[k] * taps[k + 2 * m] for k in range(length - 2 * m)) - (m == 0)
            if abs(product) > 1e-15 * length:
                raise ArgumentError(
                    "taps", got=f"an error of {product:.1e}", expected=f"orthonormal under shift {2 * m}"
                )
        for p in range(self.moments):
            terms = [(-1) ** k * k**p * tap for k, tap in enumerate(taps)]
            if abs(math.fsum(terms)) > 1e-15 * length * math.fsum(map(abs, terms)):
                raise ArgumentError("taps", got=f"moment {p} = {math.fsum(terms):.1e}", expected="0")

    @property
    def high(self) -> tuple[float, ...]:
        """The high-pass filter."""
        return quadrature_mirror(self.taps)


def quadrature_mirror(taps: Sequence[float]) -> tuple[float, ...]:
    """The high-pass filter of a low-pass one."""
    return tuple((-1) ** k * tap for k, tap in enumerate(reversed(taps)))


def _daubechies(*taps: float) -> Wavelet:
    return Wavelet(taps, len(taps) // 2, "Daubechies 1992, Ten Lectures on Wavelets, Table 6.1, to 17 digits")


# fmt: off
WAVELETS = {
    "haar": _daubechies(0.7071067811865476, 0.7071067811865476),
    "db2": _daubechies(0.48296291314453416, 0.8365163037378079, 0.2241438680420134, -0.12940952255126037),
    "db3": _daubechies(
        0.33267055295008263, 0.8068915093110925, 0.45987750211849154, -0.13501102001025458, -0.08544127388202666,
        0.03522629188570953),
    "db4": _daubechies(
        0.2303778133088965, 0.7148465705529157, 0.6308807679298589, -0.027983769416859854, -0.18703481171909309,
        0.030841381835560764, 0.0328830116668852, -0.010597401785069032),
    "db5": _daubechies(
        0.16010239797419293, 0.6038292697971896, 0.7243085284377729, 0.13842814590132074, -0.24229488706638203,
        -0.032244869584638375, 0.07757149384004572, -0.006241490212798274, -0.012580751999081999,
        0.0033357252854737712),
    "db6": _daubechies(
        0.11154074335010947, 0.49462389039845306, 0.7511339080210954, 0.31525035170919763, -0.22626469396543983,
        -0.12976686756726194, 0.09750160558732304, 0.027522865530305727, -0.03158203931748603, 0.0005538422011614961,
        0.004777257510945511, -0.0010773010853084796),
    "db7": _daubechies(
        0.07785205408500918, 0.3965393194819173, 0.7291320908462351, 0.4697822874051931, -0.14390600392856498,
        -0.22403618499387498, 0.07130921926683026, 0.08061260915108308, -0.03802993693501441, -0.01657454163066688,
        0.01255099855609984, 0.0004295779729213665, -0.0018016407040474908, 0.00035371379997452024),
    "db8": _daubechies(
        0.05441584224310401, 0.31287159091429995, 0.6756307362972898, 0.5853546836542067, -0.015829105256349306,
        -0.2840155429615469, 0.0004724845739132828, 0.12874742662047847, -0.017369301001807547, -0.044088253930794755,
        0.013981027917398282, 0.008746094047405777, -0.004870352993451574, -0.00039174037337694705,
        0.0006754494064505693, -0.00011747678412476953),
    "sym4": _daubechies(
        0.032223100604051466, -0.012603967262031304, -0.09921954357663353, 0.29785779560530606, 0.8037387518051321,
        0.497618667632775, -0.029635527646002493, -0.07576571478950221),
}
# fmt: on
