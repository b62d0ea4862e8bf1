"""EDM's stochastic samplers: raise the noise a little, then integrate the flow down past where it was."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass

from ..plan import Expression, StepBuilder
from ..solver import FixedGridSolver, register
from .noising import check_range, flow_to, heun_to, renoise

MOST = math.sqrt(2) - 1  # so that a step at most doubles the noise variance (Karras et al. 2022, algorithm 2)


@dataclass(frozen=True)
class Churn(FixedGridSolver):
    r"""Perturb, then evaluate: :math:`\hat x = x + \sqrt{\hat\nu^2 - \nu^2}\, z` (in x / alpha), then a flow step.

    .. math:: \hat\nu = (1 + \gamma) \nu, \quad \gamma = \min(S_\text{churn} / N, \sqrt2 - 1) \text{ if }
        S_\text{tmin} \le \nu \le S_\text{tmax}, \text{ else } 0

    The network is asked at the raised noise level, never before. A level above the largest that the interpolant (from
    its ``t_min`` on) has is lowered to that; at pure noise nothing is added.

    Attributes:
        s_churn: Noise exchanged over the run, at least 0; it is divided by the number of steps. 0 is the flow alone.
        s_tmin, s_tmax: Noise ratios between which noise is added.
        s_noise: Factor of the added noise; a little above 1 makes up for detail that a network smooths away.

    The authors' settings (table 5): CIFAR-10 VP churn 30, range (0.01, 1), noise 1.007; VE 80, (0.05, 1), 1.007;
    ImageNet-64 40 (trained with EDM), (0.05, 50), 1.003, with 256 steps. The default here is chosen for tens of steps.
    """

    s_churn: float = 5.0
    s_tmin: float = 0.0
    s_tmax: float = math.inf
    s_noise: float = 1.0

    stochastic = True

    def __post_init__(self) -> None:
        check_range("s_churn", self.s_churn, 0)
        check_range("s_tmin", self.s_tmin, 0)
        check_range("s_tmax", self.s_tmax, self.s_tmin)
        check_range("s_noise", self.s_noise, 0)

    def raised(self, s: StepBuilder) -> float:
        """The time of the raised noise level; ``s.t`` if nothing is added."""
        nu = s.interpolant.noise_ratio(s.t)
        if not self.s_tmin <= nu <= self.s_tmax or not math.isfinite(nu):
            return s.t
        gamma = min(self.s_churn / s.steps, MOST)
        largest = s.interpolant.noise_ratio(s.interpolant.t_min)
        if nu == 0 or gamma == 0 or nu >= largest:
            return s.t
        raised = (1 + gamma) * nu
        return s.interpolant.t_min if raised >= largest else s.interpolant.time_at_noise_ratio(raised)

    def step(self, s: StepBuilder) -> None:
        """Add noise, go down."""
        t = self.raised(s)
        x = renoise(s, s.x, s.t, t, self.s_noise) if t != s.t else s.x
        s.advance(self.descend(s, x, t, s.t_next))

    @abstractmethod
    def descend(self, s: StepBuilder, x: Expression, t: float, t_next: float) -> Expression:
        """The flow step."""


@register("edm_stochastic")
@dataclass(frozen=True)
class EDMStochastic(Churn):
    """EDM's stochastic sampler: churn, then Heun's step in nu. Weak order 2; options are those of :class:`Churn`."""

    order = 2
    source = "Karras, Aittala, Aila & Laine 2022, EDM, algorithm 2"

    def descend(self, s: StepBuilder, x: Expression, t: float, t_next: float) -> Expression:
        """Heun in nu."""
        return heun_to(s, x, t, t_next)


@register("euler_churn")
@dataclass(frozen=True)
class EulerChurn(Churn):
    """Churn, then Euler's step in nu (k-diffusion's ``sample_euler``). Weak order 1; options of :class:`Churn`."""

    order = 1
    source = "Karras et al. 2022, EDM, algorithm 2 without its correction"

    def descend(self, s: StepBuilder, x: Expression, t: float, t_next: float) -> Expression:
        """Euler in nu, that is DDIM."""
        return flow_to(s, x, t, t_next)


@register("dpm2_churn")
@dataclass(frozen=True)
class DPM2Churn(Churn):
    """Churn, then the midpoint rule in nu with the geometric mean as middle (``sample_dpm_2``). Weak order 2.

    Options are those of :class:`Churn`.
    """

    order = 2
    source = "Karras et al. 2022, EDM, algorithm 2; Lu et al. 2022, DPM-Solver, algorithm 1 for the midpoint"

    def descend(self, s: StepBuilder, x: Expression, t: float, t_next: float) -> Expression:
        """The slope at the middle of the half log-SNR."""
        nu, nu_next = s.interpolant.noise_ratio(t), s.interpolant.noise_ratio(t_next)
        ahead = flow_to(s, x, t, t_next)
        if nu_next == 0 or not math.isfinite(nu):
            return ahead
        middle = s.interpolant.time_at_noise_ratio(math.sqrt(nu * nu_next))
        change = s.noise_prediction(flow_to(s, x, t, middle), middle) - s.noise_prediction(x, t)
        return ahead + s.interpolant.alpha(t_next) * (nu_next - nu) * change
