"""Multistep consistency sampling: jump to clean data, go back part of the way with fresh noise."""

from __future__ import annotations

from dataclasses import dataclass

from ..plan import StepBuilder
from ..solver import FixedGridSolver, register
from .noising import check_range


@register("lcm")
@dataclass(frozen=True)
class LCM(FixedGridSolver):
    r"""Multistep consistency sampling, as latent consistency models do: :math:`x' = \alpha' f(x, t) + \sigma' z`.

    The network's clean estimate must be a consistency function: the end f(x, t) of the flow's trajectory through
    (x, t), such as distilled models return. Each step then has the exact marginal, whatever the grid. With a
    posterior mean instead, the samples have too little variance, and more steps do not help.

    On a decreasing grid (data to noise) the same formula is used; it forgets the state but for its clean estimate.

    Attributes:
        s_noise: Factor of the added noise.

    """

    s_noise: float = 1.0

    order = 1
    source = "Song, Dhariwal, Chen & Sutskever 2023, Consistency Models, algorithm 1; Luo et al. 2023, LCM, algorithm 3"
    stochastic = True
    consistency = True

    def __post_init__(self) -> None:
        check_range("s_noise", self.s_noise, 0)

    def step(self, s: StepBuilder) -> None:
        """One evaluation; no noise on arrival at clean data."""
        x = s.alpha_next * s.denoised(s.x, s.t)
        s.advance(x + self.s_noise * s.sigma_next * s.normal() if s.sigma_next and self.s_noise else x)
