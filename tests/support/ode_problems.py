"""Initial value problems in the manner of DETEST, with the states in which they end.

The reference states were computed in arithmetic with a mantissa of 64 bits (eps 1e-19) by DOP853, tolerance 1e-17
relative to each component, in a C program that shares no code with the right-hand sides here. A second run at 1e-15
agrees to 1e-15, and to 5e-14 on the pleiades and 2e-12 on the Arenstorf orbit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor


@dataclass(frozen=True, eq=False)
class OdeProblem:
    """dx/dt = field(x, t) from time 0.

    Attributes:
        name: Of the problem.
        field: Slopes of states [B, d] at times [B].
        start, answer: Rows of states at time 0 and at the end.
        end: When it ends.
        amplification: How much larger than the error of one step the error at the end can be: the largest spectral norm
            over s of the derivative of the state at the end by the state at s, both in units of 1 + abs(x).
        stiff: Whether only an implicit method is worth its while.

    """

    name: str
    field: Callable[[Tensor, Tensor], Tensor]
    start: Sequence[Sequence[float]]
    answer: Sequence[Sequence[float]]
    end: float
    amplification: float
    stiff: bool = False

    @property
    def x0(self) -> Tensor:
        """Where it starts, float64 [B, d]."""
        return torch.tensor(self.start, dtype=torch.float64)

    @property
    def reference(self) -> Tensor:
        """Where it ends, float64 [B, d]."""
        return torch.tensor(self.answer, dtype=torch.float64)

    @property
    def times(self) -> list[float]:
        """Its span."""
        return [0.0, self.end]

    def error(self, x: Tensor) -> float:
        """Largest over the samples of the rms of the error over 1 + abs(x), to be compared with rtol = atol."""
        reference = self.reference
        return ((x - reference) / (1 + reference.abs())).square().mean(-1).sqrt().max().item()

    def rhs(self, t: float, x: np.ndarray) -> np.ndarray:
        """For scipy: all samples, flat."""
        state = torch.from_numpy(x).reshape(len(self.start), -1)
        return self.field(state, torch.full(state.shape[:1], t, dtype=torch.float64)).flatten().numpy()

    def scipy(self, method: str, tolerance: float) -> tuple[Tensor, int]:
        """What scipy finds, and in how many evaluations; all samples share its steps."""
        start = self.x0.flatten().numpy()
        solution = solve_ivp(self.rhs, self.times, start, method=method, rtol=tolerance, atol=tolerance)
        return torch.from_numpy(solution.y[:, -1].copy()).reshape(len(self.start), -1), solution.nfev

    def __str__(self) -> str:
        return self.name


def columns(*values: Tensor) -> Tensor:
    """A state of its components [B]."""
    return torch.stack(values, dim=-1)


def decay(x: Tensor, t: Tensor) -> Tensor:
    """DETEST A1."""
    return -x


def logistic(x: Tensor, t: Tensor) -> Tensor:
    """DETEST A4."""
    return x / 4 * (1 - x / 20)


def lotka_volterra(x: Tensor, t: Tensor) -> Tensor:
    """Prey and predators."""
    prey, predators = x.unbind(-1)
    return columns(1.5 * prey - prey * predators, prey * predators - 3 * predators)


def van_der_pol(mu: float) -> Callable[[Tensor, Tensor], Tensor]:
    """A relaxation oscillation, stiff for large mu."""

    def field(x: Tensor, t: Tensor) -> Tensor:
        position, speed = x.unbind(-1)
        return columns(speed, mu * (1 - position**2) * speed - position)

    return field


def lorenz(x: Tensor, t: Tensor) -> Tensor:
    """Sigma 10, rho 28, beta 8/3."""
    a, b, c = x.unbind(-1)
    return columns(10 * (b - a), a * (28 - c) - b, a * b - 8 / 3 * c)


def arenstorf(x: Tensor, t: Tensor) -> Tensor:
    """Restricted three bodies; a closed orbit that passes the moon closely (Hairer, Norsett & Wanner 1993, II.0)."""
    moon = 0.012277471
    earth = 1 - moon
    a, b, da, db = x.unbind(-1)
    to_earth = ((a + moon) ** 2 + b**2) ** 1.5
    to_moon = ((a - earth) ** 2 + b**2) ** 1.5
    return columns(
        da,
        db,
        a + 2 * db - earth * (a + moon) / to_earth - moon * (a - earth) / to_moon,
        b - 2 * da - earth * b / to_earth - moon * b / to_moon,
    )


def pleiades(x: Tensor, t: Tensor) -> Tensor:
    """Seven stars in a plane with masses 1 to 7 (Hairer, Norsett & Wanner 1993, II.10)."""
    place, speed = x[..., :14].unflatten(-1, (2, 7)), x[..., 14:]
    apart = place.unsqueeze(-2) - place.unsqueeze(-1)  # [..., axis, i, j]: from i to j
    cubed = apart.square().sum(-3, keepdim=True) ** 1.5 + torch.eye(7, dtype=x.dtype)
    masses = torch.arange(1, 8, dtype=x.dtype)
    return torch.cat([speed, (masses * apart / cubed).sum(-1).flatten(-2)], dim=-1)


def robertson(x: Tensor, t: Tensor) -> Tensor:
    """Three reactions with rates from 0.04 to 3e7."""
    a, b, c = x.unbind(-1)
    slow, back, fast = 0.04 * a, 1e4 * b * c, 3e7 * b * b
    return columns(back - slow, slow - back - fast, fast)


def oscillator(x: Tensor, t: Tensor) -> Tensor:
    """A harmonic one."""
    return columns(x[..., 1], -x[..., 0])


def mixture(x: Tensor, t: Tensor) -> Tensor:
    """Velocity of the linear flow from a standard normal to three Gaussians of standard deviation 0.3 in the plane."""
    weights = torch.tensor([0.3, 0.5, 0.2], dtype=x.dtype)
    means = torch.tensor([[1.0, 0.5], [-1.0, 0.3], [0.2, -1.2]], dtype=x.dtype)
    t = t[:, None]
    variance = (0.3 * t) ** 2 + (1 - t) ** 2
    apart = x[:, None] - t[..., None] * means
    odds = torch.softmax(weights.log() - apart.square().sum(-1) / (2 * variance), dim=-1)
    slope = (0.09 * t - (1 - t)) / variance
    return (odds[..., None] * (means + slope[..., None] * apart)).sum(1)


PROBLEMS = {
    problem.name: problem
    for problem in (
        OdeProblem("exponential", decay, [[1.0]], [[2.0611536224385579e-09]], 20.0, 1.0),
        OdeProblem("logistic", logistic, [[1.0]], [[17.73016648131484]], 20.0, 1.0),
        OdeProblem(
            "lotka-volterra", lotka_volterra, [[1.0, 1.0]], [[1.0263447675750893, 0.90969107813604162]], 10.0, 3.7
        ),
        OdeProblem(
            "van-der-pol-1", van_der_pol(1), [[2.0, 0.0]], [[-2.0083407825797123, 0.032907065863324062]], 10.0, 7.8
        ),
        OdeProblem(
            "van-der-pol-100",
            van_der_pol(100),
            [[2.0, 0.0]],
            [[1.7185872080192407, -0.0087968219124167041]],
            200.0,
            1.5,
            stiff=True,
        ),
        OdeProblem(
            "lorenz",
            lorenz,
            [[1.0, 1.0, 1.0]],
            [[-9.3785700109250624, -8.3570337884266448, 29.362325337363428]],
            1.0,
            2.7,
        ),
        OdeProblem(
            "arenstorf",
            arenstorf,
            [[0.994, 0.0, 0.0, -2.00158510637908252240537862224]],
            [[0.99400000000000012, 5.2110326521177122e-16, 8.4047315988659572e-14, -2.0015851063790644]],
            17.0652165601579625588917206249,
            4500000.0,
        ),
        OdeProblem(
            "pleiades",
            pleiades,
            [[3, 3, -1, -3, 2, -2, 2, 3, -3, 2, 0, 0, -4, 4, 0, 0, 0, 0, 0, 1.75, -1.5, 0, 0, 0, -1.25, 1, 0, 0]],
            [
                [
                    0.37061391439705056,
                    3.2372840920572331,
                    -3.2225590324183234,
                    0.65970914557753098,
                    0.34255817071565792,
                    1.562172101400631,
                    -0.70030929222124946,
                    -3.9434375855173914,
                    -3.2713809739725499,
                    5.2250818434565439,
                    -2.5906124349774695,
                    1.1982136933922748,
                    -0.24296823449358236,
                    1.0914492404289797,
                    3.4170038063143138,
                    1.3545845016255013,
                    -2.5900655978107754,
                    2.0250537347142413,
                    -1.1558151001604495,
                    -0.80729881702230215,
                    0.59523963542087209,
                    -3.7412449612340086,
                    0.37734596857506293,
                    0.93868588695510762,
                    0.36679222272005715,
                    -0.34740463538084936,
                    2.3449154481809369,
                    -1.9470204342632919,
                ]
            ],
            3.0,
            6200.0,
        ),
        OdeProblem(
            "robertson",
            robertson,
            [[1.0, 0.0, 0.0]],
            [[0.45051866847110242, 3.2229014416746113e-06, 0.54947810862745589]],
            400.0,
            1.2,
            stiff=True,
        ),
        OdeProblem("harmonic", oscillator, [[1.0, 0.0]], [[0.408082061813392, -0.91294525072762765]], 20.0, 1.3),
        OdeProblem(
            "mixture-flow",
            mixture,
            [[0.6, -0.9], [-1.3, 0.2], [0.1, 0.05], [1.7, 1.1]],
            [
                [0.34436553455511462, -1.0863364407920351],
                [-1.276246239984915, 0.3193442341058978],
                [-0.5930791404625519, 0.22981239752086918],
                [1.3600434069250111, 0.76962180500264102],
            ],
            1.0,
            1.0,
        ),
    )
}
