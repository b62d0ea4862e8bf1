"""Rarity without a classifier: the minority score as an energy, which a model's own estimates climb."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...errors import ShapeError
from ..adapter import Model
from ..bound import Times
from ..fields import ModelField
from ..noising import check_gaussian, keyed_noise, noised
from .score import Distance, check_noising, squared_error


@dataclass(frozen=True, eq=False)
class MinorityEnergy:
    r"""The minority score of a clean estimate, as the ``log_likelihood`` of gradient guidance.

    .. math:: l(D) = \frac1J \sum_{j=1}^{J} d(D, D(\alpha' D + \sigma' \epsilon_j, t')), \quad D = D(x, t)

    :class:`~pushforward.models.GradientGuidance` takes its gradient by the state, through both evaluations, and so goes
    where the model reproduces its own estimates badly: self-guided generation of minority samples. The noises are the
    same at all times, so that guidance follows one function. An evaluation costs J more rows of the network and a
    backward pass through all of them.

    It says what is rare and not how rare the data get: large scales leave the data. Where classes or levels are known,
    :func:`minority_guided` draws the rare ones exactly.

    Args:
        model: Whose estimates are noised again; usually the one that is guided.
        t: Time of that noise, in (0, 1), the same at all times of the run; see :func:`minority_score` for the level.
        draws: J >= 1.
        distance: d, a function of estimates [B, *D] and what becomes of them that returns [B], differentiable.
        seed: Of the noises.

    Raises:
        ArgumentError: No draw, a time at an end, a model whose noise is not Gaussian.
        ShapeError: When called, a distance that does not return one number a row.

    Source:
        Um & Ye 2024, Self-guided generation of minority samples using diffusion models; the score is that of Um, Lee &
        Ye 2023, equation 8.

    Example:
        >>> from pushforward.models import GradientGuidance, MixtureOracle
        >>> model = MixtureOracle([0.95, 0.05], [[-1.0], [1.0]], 0.09, "vp").model()
        >>> energy = MinorityEnergy(model, 0.3, draws=5)
        >>> common, rare = energy(torch.tensor([[-1.0], [1.0]]), 0.5)
        >>> bool(rare > 10 * common)
        True
        >>> guided = GradientGuidance.around(model, log_likelihood=energy, scale=3.0)
        >>> guided.evaluate(torch.zeros(1, 1), 0.5)[0].shape
        torch.Size([1, 1])
    """

    model: Model
    t: float
    draws: int = 1
    distance: Distance = squared_error
    seed: int = 0

    def __post_init__(self) -> None:
        check_gaussian(self.model)
        check_noising(self.t, self.draws)

    def __call__(self, denoised: Tensor, t: Times, samples: Tensor | None = None, **condition: Any) -> Tensor:
        """The score, [B].

        Args:
            denoised: Clean estimates, [B, *D].
            t: Where they come from, which does not matter.
            samples: Keys of the noises, int64 [B]; the rows of the call by default. Give them to the guidance, as
                ``observed={"samples": ids}``, if a sample is to be the same in any batch.
            **condition: Of the model, likewise.
        """
        del t
        field = ModelField(self.model, condition or None, quantity="denoised")
        ids = torch.arange(len(denoised)) if samples is None else samples
        alpha, sigma, _, _ = self.model.interpolant(self.t)
        total = None
        for draw in range(self.draws):
            noise = keyed_noise(denoised, self.seed, draw, ids)
            far = self.distance(denoised, field(noised(denoised, noise, alpha, sigma), self.t))
            if not isinstance(far, Tensor) or far.shape != (len(denoised),):
                got = list(far.shape) if isinstance(far, Tensor) else type(far).__name__
                raise ShapeError("distance", got=got, expected=f"[{len(denoised)}], one number for each sample")
            total = far if total is None else total + far
        assert total is not None, "there is a draw"
        return total / self.draws
