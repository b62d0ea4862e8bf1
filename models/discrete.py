"""The discrete schedule of DDPM as an interpolant: noise levels at nodes, an exact rule between them."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from operator import mul
from typing import Any, ClassVar

from ..errors import ArgumentError, UnknownNameError
from .interpolants import Coefficients, VariancePreserving, check_found, check_noise_ratio, check_time, log_square_sum

INTERPOLATIONS = ("log_nu", "log_alpha")

# Times are computed as 1 - (i + 1) / M: an index closer to an integer than this is that integer.
NODE_SLACK = 1e-10


@dataclass(frozen=True, repr=False)
class DiscreteDDPM(VariancePreserving):
    r"""A variance-preserving path through M trained noise levels: node i is at :math:`t = 1 - (i + 1) / M`.

    .. math:: \alpha = \sqrt{\bar\alpha_i}, \quad \sigma = \sqrt{1 - \bar\alpha_i} \quad \text{at node } i

    Between nodes, one quantity is linear in the index: log nu (default; as k-diffusion and diffusers map noise levels
    to times) or log alpha (as DPM-Solver). From node 0 to clean data at t = 1 (alpha = 1, sigma = 0), where a
    logarithm has no line, nu is linear in t ("log_nu") or log alpha goes on to 0 ("log_alpha": dsigma(1) is -inf).
    Derivatives jump at nodes; there, that of the side towards the data is given.

    Args:
        alphas_bar: Cumulative products of 1 - beta, decreasing, inside (0, 1); at least two.
        interpolation: "log_nu" or "log_alpha".

    Raises:
        ArgumentError: The products are not strictly decreasing inside (0, 1), or the rule is unknown.

    Source:
        Ho et al. 2020.

    Example:
        >>> path = DiscreteDDPM.linear()
        >>> path
        DiscreteDDPM(1000 levels, nu 0.0100005 to 157.407, log_nu)
        >>> round(path.index_of_time(path.time_of_index(371)), 9)
        371.0
    """

    alphas_bar: tuple[float, ...]
    interpolation: str = "log_nu"

    name: ClassVar[str] = "ddpm"

    def __post_init__(self) -> None:
        levels = tuple(float(level) for level in self.alphas_bar)
        object.__setattr__(self, "alphas_bar", levels)
        if self.interpolation not in INTERPOLATIONS:
            expected = "one of " + ", ".join(INTERPOLATIONS)
            raise UnknownNameError("interpolation", got=repr(self.interpolation), expected=expected)
        if len(levels) < 2:
            raise ArgumentError("alphas_bar", got=f"{len(levels)} levels", expected="at least 2")
        for i, (level, following) in enumerate(pairwise((1.0, *levels))):
            if not 0.0 < following < level:
                hint = "A last level of 0 (zero terminal SNR) has no logarithm: use zero_terminal_snr()"
                expected = f"below alphas_bar[{i - 1}] = {level!r} and above 0" if i else "between 0 and 1"
                raise ArgumentError(f"alphas_bar[{i}]", got=repr(following), expected=expected, hint=hint)

    def __repr__(self) -> str:
        low, high = self.noise_range
        return f"DiscreteDDPM({self.levels} levels, nu {low:.6g} to {high:.6g}, {self.interpolation})"

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:  # of a thousand numbers, once
        return hash((self.alphas_bar, self.interpolation))

    # --- constructors ------------------------------------------------------------------------------------------

    @classmethod
    def from_betas(cls, betas: Iterable[float], interpolation: str = "log_nu") -> DiscreteDDPM:
        """Levels ``cumprod(1 - beta)`` of the noise rates ``betas``, first the one nearest to the data."""
        return cls(tuple(accumulate((1.0 - float(beta) for beta in betas), mul)), interpolation)

    @classmethod
    def linear(cls, levels: int = 1000, beta_start: float = 1e-4, beta_end: float = 2e-2) -> DiscreteDDPM:
        """Betas on a line (Ho et al. 2020)."""
        return cls.from_betas(_line(beta_start, beta_end, levels))

    @classmethod
    def scaled_linear(cls, levels: int = 1000, beta_start: float = 0.00085, beta_end: float = 0.012) -> DiscreteDDPM:
        """Square roots of the betas on a line (Rombach et al. 2022; the defaults are Stable Diffusion's)."""
        return cls.from_betas(beta * beta for beta in _line(math.sqrt(beta_start), math.sqrt(beta_end), levels))

    @classmethod
    def squaredcos_cap_v2(cls, levels: int = 1000, max_beta: float = 0.999) -> DiscreteDDPM:
        """Betas of the cosine schedule, clipped at ``max_beta`` (Nichol & Dhariwal 2021)."""
        curve = [math.cos((i / levels + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(levels + 1)]
        return cls.from_betas(min(1 - after / before, max_beta) for before, after in pairwise(curve))

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> DiscreteDDPM:
        """The levels that a diffusers scheduler's configuration describes.

        Args:
            config: ``trained_betas``, or ``beta_schedule`` with ``num_train_timesteps``, ``beta_start`` and
                ``beta_end``; and ``rescale_betas_zero_snr``.

        Raises:
            ArgumentError: A key is missing; nothing is guessed.
            UnknownNameError: The schedule is not one of "linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid".
        """

        def need(key: str) -> Any:
            if config.get(key) is None:
                raise ArgumentError(f"scheduler_config[{key!r}]", got="nothing", expected="the value used in training")
            return config[key]

        if config.get("trained_betas") is not None:
            path = cls.from_betas(config["trained_betas"])
        elif need("beta_schedule") == "squaredcos_cap_v2":
            path = cls.squaredcos_cap_v2(need("num_train_timesteps"))
        elif config["beta_schedule"] in ("linear", "scaled_linear"):
            make = getattr(cls, config["beta_schedule"])
            path = make(need("num_train_timesteps"), need("beta_start"), need("beta_end"))
        elif config["beta_schedule"] == "sigmoid":
            low, high = need("beta_start"), need("beta_end")
            curve = (1 / (1 + math.exp(-u)) for u in _line(-6.0, 6.0, need("num_train_timesteps")))
            path = cls.from_betas(low + (high - low) * height for height in curve)
        else:
            expected = "'linear', 'scaled_linear', 'squaredcos_cap_v2' or 'sigmoid'"
            raise UnknownNameError(
                "scheduler_config['beta_schedule']", got=repr(config["beta_schedule"]), expected=expected
            )
        return path.zero_terminal_snr() if config.get("rescale_betas_zero_snr") else path

    def zero_terminal_snr(self, floor: float = 2.0**-24) -> DiscreteDDPM:
        r"""The same levels with :math:`\sqrt{\bar\alpha}` shifted to end at 0 and scaled to keep its first value.

        The last level is put at ``floor`` (or half of the one before, if that is less), not 0, so that log nu
        stays finite and rising.

        Source:
            Lin et al. 2024, algorithm 1.
        """
        roots = [math.sqrt(level) for level in self.alphas_bar]
        scale = roots[0] / (roots[0] - roots[-1])
        rescaled = [((root - roots[-1]) * scale) ** 2 for root in roots]
        return DiscreteDDPM((*rescaled[:-1], min(floor, rescaled[-2] / 2)), self.interpolation)

    # --- index and time ----------------------------------------------------------------------------------------

    @property
    def levels(self) -> int:
        """Number of trained noise levels, M."""
        return len(self.alphas_bar)

    def time_of_index(self, index: float) -> float:
        """``t = 1 - (i + 1) / M``; the index may be fractional, from -1 (data) to M - 1 (noise).

        Raises:
            ArgumentError: The index is outside this range, or NaN.
        """
        if not -1 <= index <= self.levels - 1:
            raise ArgumentError("index", got=index, expected=f"-1 (data) to {self.levels - 1} (noise)")
        return 1.0 - (index + 1) / self.levels

    def index_of_time(self, t: float) -> float:
        """``i = M (1 - t) - 1``, exactly an integer at a node; below 0 nearer to the data than any node."""
        index = self.levels * (1.0 - check_time(t)) - 1.0
        nearest = round(index)
        return float(nearest) if abs(index - nearest) < NODE_SLACK else index

    # --- the path ----------------------------------------------------------------------------------------------

    @cached_property
    def _nu(self) -> tuple[float, ...]:
        return tuple(math.sqrt((1.0 - level) / level) for level in self.alphas_bar)

    @cached_property
    def _lines(self) -> tuple[float, ...]:
        """What is linear between nodes, at each node; rising with the index."""
        if self.interpolation == "log_nu":
            return tuple(math.log(nu) for nu in self._nu)
        return tuple(log_square_sum(nu) / 2 for nu in self._nu)  # -log alpha

    def _line_at(self, t: float) -> tuple[float, float]:
        """Value of the linear quantity at ``t``, and its rate in t, for an index of 0 or more."""
        index = self.index_of_time(t)
        # The piece that ends at this index on the noise side: at a node, its neighbour towards the data.
        lower = min(max(math.ceil(index) - 1, 0), self.levels - 2)
        rise = self._lines[lower + 1] - self._lines[lower]
        return self._lines[lower] + (index - lower) * rise, -rise * self.levels

    def __call__(self, t: float) -> Coefficients:
        """Values at ``t``; at a node, the derivatives on the side of the data."""
        index, levels = self.index_of_time(t), self.levels
        if self.interpolation == "log_alpha":
            if index <= 0:
                minus_log_alpha, rate = self._lines[0] * (index + 1), -self._lines[0] * levels
            else:
                minus_log_alpha, rate = self._line_at(t)
            a, s = math.exp(-minus_log_alpha), math.sqrt(-math.expm1(-2 * minus_log_alpha))
            da = -rate * a
            return Coefficients(a, s, da, -a * da / s if s > 0 else -math.inf)
        if index <= 0:
            nu, rate = self._nu[0] * (index + 1), -self._nu[0] * levels
        else:
            log_nu, log_rate = self._line_at(t)
            nu = math.exp(log_nu)
            rate = nu * log_rate
        a = 1.0 / math.hypot(1.0, nu)
        return Coefficients(a, nu * a, -nu * a**3 * rate, a**3 * rate)

    def time_at_noise_ratio(self, nu: float) -> float:
        """Inverse of the piecewise rule; exact at nodes up to rounding."""
        check_noise_ratio(nu)
        if nu == math.inf:
            return check_found(-math.inf, nu, self)
        if nu <= self._nu[0]:
            line = log_square_sum(nu) / 2
            share = nu / self._nu[0] if self.interpolation == "log_nu" else line / self._lines[0]
            return check_found(1.0 - share / self.levels, nu, self)
        line = math.log(nu) if self.interpolation == "log_nu" else log_square_sum(nu) / 2
        lower = min(bisect_right(self._lines, line), self.levels - 1) - 1
        index = lower + (line - self._lines[lower]) / (self._lines[lower + 1] - self._lines[lower])
        return check_found(1.0 - (index + 1) / self.levels, nu, self)

    @property
    def noise_range(self) -> tuple[float, float]:
        """Noise ratios of the first and the last node."""
        return self._nu[0], self._nu[-1]


def _line(start: float, end: float, levels: int) -> list[float]:
    """``levels`` equally spaced numbers, both ends included."""
    if not isinstance(levels, int) or levels < 2:
        raise ArgumentError("levels", got=levels, expected="an integer of at least 2")
    return [start + (end - start) * (i / (levels - 1)) for i in range(levels)]
