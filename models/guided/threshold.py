"""Dynamic thresholding of clean estimates."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

from torch import Tensor

from ... import kernels
from ...errors import ArgumentError
from ..adapter import Model


@dataclass(frozen=True)
class DynamicThreshold:
    r"""Clean estimates kept in the range of the data, sample by sample: for ``pf.sample(..., transform=...)``.

    .. math:: q = \mathrm{quantile}(|D|, \mathrm{ratio}), \quad S = \min(\max(q, \mathrm{floor}), \mathrm{cap}), \quad
        D \leftarrow \mathrm{clamp}(D, -S, S)\, \mathrm{floor} / S

    Noise and velocity then follow from the estimate that it returns. For pixels: latents have no range to be kept in.
    Where alpha is small, estimates of networks that predict noise are huge, and the threshold decides where samples go.

    Args:
        ratio: Share of elements that stay unclamped, in (0, 1].
        floor: Half-width of the data's range: samples within it stay as they are.
        cap: Largest S; ``cap=floor`` clamps to the range (what diffusers' ``sample_max_value = 1`` does). None: no
            limit, as in the paper.
        force: Threshold also where the model says that its states are latents.

    Raises:
        ArgumentError: A number outside its range; when a run begins, a model of latents.

    Source:
        Saharia et al. 2022, Photorealistic text-to-image diffusion models (Imagen), section 2.3.

    Example:
        >>> import torch
        >>> DynamicThreshold(1.0)(torch.tensor([[0.5, -4.0], [0.1, 0.2]]), 0.5)
        tensor([[ 0.1250, -1.0000],
                [ 0.1000,  0.2000]])
    """

    ratio: float = 0.995
    floor: float = 1.0
    cap: float | None = None
    force: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.ratio <= 1:
            raise ArgumentError("ratio", got=self.ratio, expected="a share of elements in (0, 1]")
        if not 0 < self.floor < math.inf:
            raise ArgumentError("floor", got=self.floor, expected="the half-width of the data's range, above 0")
        if self.cap is not None and not self.cap >= self.floor:
            raise ArgumentError("cap", got=self.cap, expected=f"at least floor = {self.floor}, or None")

    def check_model(self, model: Model) -> None:
        """Refuse a model whose clean estimates have no range; runs ask this of their transform.

        Raises:
            ArgumentError: Its states are latents, and nobody insisted.
        """
        if model.latent and not self.force:
            hint = "Or DynamicThreshold(..., force=True), with a floor that is the half-width of these latents' range"
            expected = "one of pixels: latents have no range to be kept in"
            raise ArgumentError("transform", got="a dynamic threshold of latents", expected=expected, hint=hint)

    def __call__(self, denoised: Tensor, t: float) -> Tensor:
        """The thresholded estimate, shape and dtype of ``denoised``."""
        del t
        return cast(Tensor, kernels.threshold(denoised, self.ratio, floor=self.floor, cap=self.cap))
