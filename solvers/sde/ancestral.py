"""Ancestral samplers: a deterministic step to a little less noise than asked, and fresh noise for the rest."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..plan import Expression, StepBuilder
from ..solver import FixedGridSolver, register
from .noising import check_range, noise_shares


@dataclass(frozen=True)
class Ancestral(FixedGridSolver):
    r"""Go to :math:`\nu_\downarrow = \nu' \sqrt{1 - c}` without noise, then add :math:`\sigma' \sqrt c\, z`.

    .. math:: c = \eta^2 (1 - e^{-2 |\lambda' - \lambda|}) = \eta^2 (\nu^2 - \nu'^2) / \nu^2

    Both moves keep the marginals, so the weak order is that of the deterministic step for any eta.
    In k-diffusion's words :math:`\sigma_\text{down} = \nu_\downarrow`, :math:`\sigma_\text{up} = \nu' \sqrt c`.

    Attributes:
        eta: Share of noise in [0, 1]; 0 is deterministic, 1 the reversal of the noising process.
        s_noise: Factor of the added noise.

    """

    eta: float = 1.0
    s_noise: float = 1.0

    stochastic = True

    def __post_init__(self) -> None:
        check_range("eta", self.eta, 0, 1)
        check_range("s_noise", self.s_noise, 0)

    def add_noise(self, s: StepBuilder, x: Expression) -> Expression:
        """``x`` with the fresh noise of the step."""
        fresh = s.sigma_next * noise_shares(s, s.t, s.t_next, self.eta)[1] if s.sigma_next else 0.0
        return x + self.s_noise * fresh * s.normal() if fresh else x

    def lowered(self, s: StepBuilder) -> float:
        """``sigma' sqrt(1 - c)``: the noise scale, in the units of the new state, that the deterministic step keeps."""
        return s.sigma_next * noise_shares(s, s.t, s.t_next, self.eta)[0] if s.sigma_next else 0.0

    def euler(self, s: StepBuilder) -> Expression:
        """``alpha' D + sigma' sqrt(1 - c) n``."""
        x, kept = s.alpha_next * s.denoised(s.x, s.t), self.lowered(s)
        return x + kept * s.noise_prediction(s.x, s.t) if kept else x

    def middle(self, s: StepBuilder) -> float | None:
        """Time halfway in half log-SNR between ``t`` and the lowered noise; None where that is infinitely far."""
        nu, kept = s.interpolant.noise_ratio(s.t), self.lowered(s)
        if not kept or not s.alpha_next or not math.isfinite(nu) or not nu:
            return None
        return self.time_at(s, math.sqrt(nu * (kept / s.alpha_next)))

    def time_at(self, s: StepBuilder, nu: float) -> float:
        """The time of a noise ratio; exactly ``t_next`` where only rounding tells them apart.

        With eta = 1 the middle is ``t_next`` itself, since nu times the lowered nu is nu' squared.
        """
        if math.isclose(nu, s.interpolant.noise_ratio(s.t_next), rel_tol=1e-12):
            return s.t_next
        return s.interpolant.time_at_noise_ratio(nu)


@register("euler_ancestral")
@dataclass(frozen=True)
class EulerAncestral(Ancestral):
    """Ancestral sampling with Euler's step in nu: the map of DDIM with the same eta. Weak order 1.

    Options are those of :class:`Ancestral`.
    """

    order = 1
    source = "Crowson 2022, k-diffusion (sample_euler_ancestral); Song, Meng & Ermon 2021, DDIM, equation 12"

    def step(self, s: StepBuilder) -> None:
        """One evaluation."""
        s.advance(self.add_noise(s, self.euler(s)))


@register("dpm2_ancestral")
@dataclass(frozen=True)
class DPM2Ancestral(Ancestral):
    """Ancestral sampling with the midpoint rule in nu: the slope n at the geometric mean. Weak order 2.

    Options are those of :class:`Ancestral`. Two evaluations a step.
    """

    order = 2
    source = "Crowson 2022, k-diffusion (sample_dpm_2_ancestral); Karras et al. 2022, EDM, for the rule in nu"

    def step(self, s: StepBuilder) -> None:
        """Two evaluations; one where the middle is infinitely far."""
        x, t = self.euler(s), self.middle(s)
        if t is not None:
            alpha, sigma = s.interpolant.alpha(t), s.interpolant.sigma(t)
            noise = s.noise_prediction(s.x, s.t)
            change = s.noise_prediction(alpha * s.denoised(s.x, s.t) + sigma * noise, t) - noise
            x = x + (self.lowered(s) - s.alpha_next * s.interpolant.noise_ratio(s.t)) * change
        s.advance(self.add_noise(s, x))


@register("dpmpp_2s_ancestral")
@dataclass(frozen=True)
class DPMSolverPP2SAncestral(Ancestral):
    """Ancestral sampling with DPM-Solver++ 2S: the clean estimate at the middle of the step. Weak order 2.

    Options are those of :class:`Ancestral`. Two evaluations a step.
    """

    order = 2
    source = "Lu et al. 2022, DPM-Solver++, algorithm 1; Crowson 2022, k-diffusion (sample_dpmpp_2s_ancestral)"

    def step(self, s: StepBuilder) -> None:
        """Two evaluations; one where the middle is infinitely far."""
        x, t = self.euler(s), self.middle(s)
        if t is not None:
            alpha, sigma = s.interpolant.alpha(t), s.interpolant.sigma(t)
            clean = s.denoised(s.x, s.t)
            change = s.denoised(alpha * clean + sigma * s.noise_prediction(s.x, s.t), t) - clean
            x = x + (s.alpha_next - self.lowered(s) / s.interpolant.noise_ratio(s.t)) * change
        s.advance(self.add_noise(s, x))
