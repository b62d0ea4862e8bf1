"""CFG++: guidance of the clean estimate, with the noise of the unconditional branch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from ...errors import ArgumentError
from ..branch_weights import CONDITIONAL, UNCONDITIONAL, BranchWeights, finite
from ..interpolants import Interpolant


@dataclass(frozen=True)
class RenoisedGuidance(BranchWeights):
    r"""Guided clean estimates, renoised without guidance: :math:`x' = \alpha' D_\lambda + \sigma' n_{null}`.

    Here :math:`D_\lambda = D_{null} + \lambda (D_{cond} - D_{null})`.

    It equals a DDIM step with the weight :math:`w = \lambda / (1 - e^{-h})`, h the step in half log-SNR, so it is a
    weight that depends on the step: results do not converge as steps are added at fixed :math:`\lambda`, since w grows
    like :math:`\lambda / h`. At the last step w is :math:`\lambda`. From data to noise the step is that one undone,
    :math:`x = \alpha D_{null} + \sigma n_\lambda` with the predictions at the known end: it has the same weight, h
    being the length of the step.

    Args:
        scale: :math:`\lambda`, usually in [0, 1]; 0.6 does about what a weight of 7.5 does.

    Raises:
        ArgumentError: A scale that is not finite.

    Source:
        Chung et al. 2024, CFG++, algorithm 2.

    Example:
        >>> from pushforward.models import Linear
        >>> RenoisedGuidance(0.5).step_weights(0.0, 0.5, Linear())
        {'cond': 0.5, 'null': 0.5}
    """

    scale: float
    renoises: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", finite(self.scale, "scale"))

    @property
    def branches(self) -> tuple[str, ...]:
        """Both, whatever the scale: noise comes from the second."""
        return (CONDITIONAL, UNCONDITIONAL)

    def weights_at(self, t: float, interpolant: Interpolant | None = None) -> dict[str, float]:
        """There are none at a time alone.

        Raises:
            ArgumentError: Always.
        """
        hint = "Use a fixed grid with 'ddim', or Guidance(cfgpp_weight(scale, h))"
        raise ArgumentError("guidance", got=str(self), expected="weights that do not depend on the step", hint=hint)

    def step_weights(self, t: float, t_next: float, interpolant: Interpolant) -> dict[str, float]:
        """The weights for the step from ``t`` to ``t_next``."""
        h = abs(interpolant.half_log_snr(t_next) - interpolant.half_log_snr(t))
        weight = cfgpp_weight(self.scale, h)
        return {name: w for name, w in ((CONDITIONAL, weight), (UNCONDITIONAL, 1.0 - weight)) if w != 0}

    def to_config(self) -> dict[str, Any]:
        """See :meth:`BranchWeights.to_config`."""
        return {"renoised": self.scale}


def cfgpp_weight(scale: float, h: float) -> float:
    r"""The weight of guidance that does in a DDIM step what CFG++ does: :math:`\lambda / (1 - e^{-h})`.

    Args:
        scale: :math:`\lambda`.
        h: Step in half log-SNR, positive towards data, infinite from pure noise or to clean data.

    Raises:
        ArgumentError: A step of length zero.

    Example:
        >>> cfgpp_weight(0.6, float("inf"))
        0.6
    """
    if h == 0 or math.isnan(h):
        raise ArgumentError("h", got=h, expected="a step in half log-SNR that is not 0")
    return scale / -math.expm1(-h)
