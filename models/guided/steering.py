"""Steered diffusion: losses between what an inverse model says of the clean estimate and what it should say."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import ArgumentError
from ..adapter import Model, check_mapping
from ..bound import Times
from ..branch_weights import finite
from ..window import Window
from .gradient_model import DENOISER, GradientModel, per_denoised


@dataclass(frozen=True)
class SteeringLoss:
    """One condition of :func:`steered`: how far clean estimates are from what is wanted.

    Args:
        loss: Function of (clean estimate, t, **given) returning [B].
        weight: What multiplies it; depends on the loss's own scale, and so on pixels and reductions.
        window: Where it acts; in noise ratios it means the same on every path. None: everywhere.
        given: Further arguments, tensors of batch B or 1, such as targets.

    Raises:
        ArgumentError: A loss that is no function, a weight that is not finite.
    """

    loss: Callable[..., Tensor]
    weight: float = 1.0
    window: Window | None = None
    given: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not callable(self.loss):
            raise ArgumentError("loss", got=type(self.loss).__name__, expected="a function of (estimate, t)")
        finite(self.weight, "weight")
        check_mapping("given", self.given)


@dataclass(frozen=True, eq=False)
class SteeredModel(GradientModel):
    """A model steered by losses; made by :func:`steered`.

    Attributes:
        losses: The conditions.
        strength: k, a number or a function of t; None is sigma.
    """

    losses: tuple[SteeringLoss, ...] = dataclasses.field(default=(), kw_only=True)
    strength: float | Callable[[float], float] | None = dataclasses.field(default=None, kw_only=True)

    @property
    def differentiates(self) -> str:
        """The state, through the network."""
        return DENOISER

    @property
    def given(self) -> Mapping[str, Any]:
        """What each loss is given, by its number."""
        return {str(k): dict(condition.given) for k, condition in enumerate(self.losses)}

    def active(self, t: float) -> tuple[bool, ...]:
        """Which losses act at ``t``."""
        path = self.interpolant
        return tuple(c.weight != 0 and (c.window is None or c.window.contains(t, path)) for c in self.losses)

    def strength_at(self, t: float) -> float:
        """The strength at ``t``.

        Raises:
            ArgumentError: The function returned NaN or infinity.
        """
        if self.strength is None:
            return self.interpolant(t).sigma
        return finite(self.strength(t) if callable(self.strength) else self.strength, f"strength at t = {t:.4g}")

    def factor(self, t: float) -> float:
        """See :meth:`GradientModel.factor`: of the gradient of the loss."""
        return -self.strength_at(t) * per_denoised(self, t) if any(self.active(t)) else 0.0

    def objective(self, point: Tensor, t: Times, given: Mapping[str, Any]) -> Tensor:
        """The weighted sum of the losses that act, [B]."""
        times = t.tolist() if isinstance(t, np.ndarray) else [t]
        active = np.array([self.active(time) for time in times], dtype=np.float64)  # [1 or B, losses]
        total = None
        for k, condition in enumerate(self.losses):
            if not active[:, k].any():
                continue
            term = condition.weight * condition.loss(point, t, **given[str(k)])
            if not active[:, k].all():
                term = torch.from_numpy(active[:, k].copy()).to(term) * term
            total = term if total is None else total + term
        assert total is not None, "the factor is 0 where no loss acts"
        return total


def steered(
    model: Model, *losses: SteeringLoss, strength: float | Callable[[float], float] | None = None
) -> SteeredModel:
    r"""A model whose clean estimates descend losses, with the noise that belongs to where they arrive.

    .. math:: \tilde D = D - k(t)\, \nabla_x \sum_i w_i L_i(D(x, t)), \quad \tilde n = (x - \alpha \tilde D) / \sigma

    The gradient is taken by the state, through the network; the noise of the changed estimate is the "implicit"
    conditioning of the paper (every quantity that a solver asks for follows from one output). All losses share one
    backward pass; where none acts, the model runs as if it were not wrapped. Linear conditions need no gradient: see
    :class:`Projection` and :class:`KnownPixels`, as ``transform=`` of the run.

    Args:
        model: The unconditional model, or a guided one.
        *losses: The conditions.
        strength: k, a number or a function of t. By default sigma: strong early, nothing at the data.

    Raises:
        ArgumentError: No loss, or something else in its place; errors of calls as for :class:`GradientGuidance`.

    Source:
        Nair et al. 2023, Steered Diffusion, section 3; the schedule is that of the authors' code.

    Example:
        >>> from pushforward.models import GaussianOracle, Window
        >>> bright = SteeringLoss(lambda d, t: (d - 1).square().mean(1), 2.0, Window(0.1, 2.0, "noise_ratio"))
        >>> model = steered(GaussianOracle([0.0, 0.0], 0.25).model("denoised"), bright)
        >>> bound = model.bind()
        >>> [bound.evaluate(torch.zeros(1, 2), t)[0][0, 0].item() > 0 for t in (0.2, 0.5)], bound.backwards
        ([False, True], 1)
    """
    if not losses or not all(isinstance(loss, SteeringLoss) for loss in losses):
        got = [type(loss).__name__ for loss in losses]
        raise ArgumentError("losses", got=got or "none", expected="SteeringLoss objects")
    if strength is not None and not callable(strength):
        finite(strength, "strength")
    return SteeredModel.around(model, losses=tuple(losses), strength=strength)
