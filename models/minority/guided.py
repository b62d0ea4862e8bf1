"""Minority guidance: gradient guidance towards rare data, by a classifier of noisy states."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...errors import ArgumentError
from ..adapter import Model
from ..bound import Times
from ..guided.class_likelihood import log_probabilities, time_rows
from ..guided.gradient import GradientGuidance
from ..guided.gradient_model import STATE
from ..interpolants import Interpolant
from ..window import Window


@dataclass(frozen=True)
class LevelLogLikelihood:
    r"""The log-probability of a level of rarity, :math:`\log p(l | x, t)`, under a classifier of noisy states.

    Args:
        classifier: ``classifier(x, t, **condition)`` returns logits [B, L] for states x at times t [B].
        level: l; None, the rarest, L - 1.

    Raises:
        ArgumentError: No function; when called, a level that there is not.
        ShapeError: When called, logits that are not [B, L].

    Example:
        >>> rarest = LevelLogLikelihood(lambda x, t: torch.zeros(len(x), 4))
        >>> rarest(torch.zeros(2, 3), 0.5).exp()
        tensor([0.2500, 0.2500])
    """

    classifier: Callable[..., Tensor]
    level: int | None = None

    def __post_init__(self) -> None:
        if not callable(self.classifier):
            raise ArgumentError("classifier", got=type(self.classifier).__name__, expected="a function or a module")

    def __call__(self, x: Tensor, t: Times, **condition: Any) -> Tensor:
        """Log-probabilities [B]; the classifier sees states in float32 or better."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        found = log_probabilities(self.classifier(wide, time_rows(t, wide), **condition), len(x))
        level = found.shape[1] - 1 if self.level is None else self.level
        if not 0 <= level < found.shape[1]:
            raise ArgumentError("level", got=level, expected=f"one of the {found.shape[1]} levels")
        return found[:, level]


def minority_guided(
    model: Model,
    classifier: Callable[..., Tensor],
    scale: float | Callable[[float], float] = 1.0,
    *,
    level: int | None = None,
    start: float = 0.1,
    path: Interpolant | None = None,
) -> GradientGuidance:
    r"""A model of :math:`p_t(x) \, p(L - 1 | x_t)^w`: its score is :math:`s + w \nabla_x \log p(L - 1 | x, t)`.

    It is :class:`GradientGuidance` of kind "state", by :class:`LevelLogLikelihood`.

    Args:
        model: The model.
        classifier: ``classifier(x, t, **condition)`` returns logits [B, L] for states x on ``path`` at times t [B]; its
            condition is the run's.
        scale: w, a number or a function of t; where it is 0 the classifier is not called.
        level: Whose probability is raised; None, the rarest, L - 1.
        start: First time of guidance. The exact gradient vanishes like alpha at t = 0, where it is multiplied by
            sigma / alpha; a learned one does not.
        path: The path of the states that the classifier knows; by default the model's.

    Raises:
        ArgumentError: No function, a start outside [0, 1]; otherwise as :class:`GradientGuidance` and
            :class:`LevelLogLikelihood`.

    Source:
        Dhariwal & Nichol 2021, section 4; Um, Lee & Ye 2023, section 4.3 (250 ancestral steps, w = 3.5).

    Example:
        >>> from pushforward.models import MixtureOracle
        >>> oracle = MixtureOracle([0.95, 0.05], [[-1.0], [1.0]], 0.09)
        >>> exact = lambda x, t: oracle.log_prob(x, t)[:, None] * torch.tensor([0.0, -1.0])  # rare: of low density
        >>> guided = minority_guided(oracle.model(), exact)
        >>> x = torch.tensor([[-0.4]])
        >>> bool(guided.evaluate(x, 0.5)[0] > oracle.velocity(x, 0.5))
        True
    """
    if not 0 <= start <= 1:
        raise ArgumentError("start", got=start, expected="a time in [0, 1]")
    return GradientGuidance.around(
        model,
        log_likelihood=LevelLogLikelihood(classifier, level),
        scale=scale,
        kind=STATE,
        conditioned=True,
        window=Window(start, math.inf),
        path=path,
    )
