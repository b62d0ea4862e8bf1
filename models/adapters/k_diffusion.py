"""k-diffusion's denoisers, both ways: theirs as a model, ours as one of theirs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import ArgumentError, ShapeError
from ..adapter import Model, adapt
from ..branch_weights import BranchWeights
from ..fields import ModelField, weighted
from ..schedules import EDM


def from_k_diffusion(
    denoiser: Callable[..., Any],
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    *,
    null: Mapping[str, Any] | None = None,
    **options: Any,
) -> Model:
    r"""A model from a denoiser: ``denoiser(x / alpha, sigma, **extra) = D``.

    .. math:: x / \alpha = x_1 + \nu x_0, \quad \sigma = \nu

    Args:
        denoiser: Of k-diffusion, ComfyUI or anybody who follows them: takes states [B, *D] and noise levels [B].
        sigma_min, sigma_max: Noise levels of its training; by default its own attributes of these names.
        null: The unconditional condition.
        **options: Of :func:`adapt`.

    Returns:
        A model on the path :class:`EDM`.

    Raises:
        ArgumentError: Neither the denoiser nor an argument says the levels.

    Source:
        Crowson 2022, k-diffusion; Karras et al. 2022.
    """
    levels = {"sigma_min": sigma_min, "sigma_max": sigma_max}
    for name, given in levels.items():
        said = getattr(denoiser, name, None) if given is None else given
        if said is None:
            hint = f"The denoiser has no attribute of this name: pass {name}="
            raise ArgumentError(name, got=None, expected="a noise level", hint=hint)
        levels[name] = float(said)
    return adapt(denoiser, "denoised", EDM(**levels), input="ratio", null=null, **options)  # type: ignore[arg-type]


def to_k_diffusion(
    model: Model,
    condition: Mapping[str, Any] | None = None,
    null: Mapping[str, Any] | None = None,
    guidance: float | BranchWeights = 1.0,
) -> Denoiser:
    r"""The model as a denoiser for samplers of k-diffusion, ComfyUI and others: ``denoiser(x, sigma, **extra) = D``.

    Args:
        model: Any model, on any path.
        condition, null, guidance: As in :func:`pushforward.sample`.

    Example:
        >>> from pushforward.models import GaussianOracle
        >>> denoiser = to_k_diffusion(GaussianOracle([0.0], [[1.0]]).model())
        >>> denoiser(torch.tensor([[2.0], [2.0]]), torch.tensor([1.0, 3.0]))
        tensor([[1.0000],
                [0.2000]])
    """
    return Denoiser(model, condition, null, guidance)


OF_SAMPLERS = ("seed", "model_options")  # what samplers pass around for themselves


class Denoiser:
    r"""``denoiser(x, sigma, **extra)``: the clean estimate for :math:`x = x_1 + \sigma x_0`, guided.

    .. math:: D(x; \sigma) = E[x_1 \mid \alpha x], \quad \sigma(t) / \alpha(t) = \sigma

    Each call reads sigma back to the host, once: the network's time and every coefficient are made there.

    Args:
        model, condition, null, guidance: As in :func:`to_k_diffusion`.

    Attributes:
        model: The model.
        sigma_min, sigma_max: The noise levels of its path's training.
    """

    def __init__(
        self,
        model: Model,
        condition: Mapping[str, Any] | None = None,
        null: Mapping[str, Any] | None = None,
        guidance: float | BranchWeights = 1.0,
    ) -> None:
        self.model = model
        self._condition, self._null, self._guidance = dict(condition or {}), null, guidance
        self.sigma_min, self.sigma_max = model.interpolant.noise_range
        self._extra: dict[str, Any] = {}
        self._field = self._made({})

    def __call__(self, x: Tensor, sigma: float | Tensor, **extra: Any) -> Tensor:
        """The clean estimate, in the shape and dtype of x.

        Args:
            x: [B, *D].
            sigma: Noise levels [B], or one for all; positive.
            **extra: Further keyword arguments of the network, added to the condition; but ``seed`` and
                ``model_options``, which samplers hand to every model, are none of the network's.

        Raises:
            ShapeError: Neither one level nor B.
            ArgumentError: A level that the model's path does not have.
        """
        levels = torch.as_tensor(sigma).double().reshape(-1).tolist()
        if len(levels) not in (1, x.shape[0]):
            raise ShapeError(
                "sigma", got=f"{len(levels)} levels", expected=f"one, or one for each of {x.shape[0]} rows"
            )
        path = self.model.interpolant
        times = np.array([path.time_at_noise_ratio(level) for level in levels])
        alphas = np.array([[path.alpha(t)] for t in times.tolist()])
        rows = np.arange(x.shape[0]) if len(levels) > 1 else np.zeros(x.shape[0], dtype=np.int64)
        state = x if (alphas == 1).all() else weighted([x], alphas, rows)
        own = {name: given for name, given in extra.items() if name not in OF_SAMPLERS}
        return self._bound(own)(state, times[rows])

    def _bound(self, extra: dict[str, Any]) -> ModelField:
        """The field with these arguments; made anew only where they are others than last time."""
        same = extra.keys() == self._extra.keys() and all(extra[key] is self._extra[key] for key in extra)
        if not same:
            self._extra, self._field = extra, self._made(extra)
        return self._field

    def _made(self, extra: dict[str, Any]) -> ModelField:
        return ModelField(self.model, self._condition | extra, self._null, self._guidance, "denoised")
