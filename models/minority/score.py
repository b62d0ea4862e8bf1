"""The minority score: how badly one round trip of noising and denoising reproduces a sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ...errors import ArgumentError, NotFiniteError, ShapeError
from ..adapter import Model
from ..fields import ModelField
from ..noising import check_data, check_gaussian, check_rows_a_call, keyed_noise, noised

Distance = Callable[[Tensor, Tensor], Tensor]


def squared_error(x: Tensor, y: Tensor) -> Tensor:
    """Mean of the squared differences of each sample, [B], float32 or better.

    Example:
        >>> squared_error(torch.zeros(2, 3), torch.ones(2, 3))
        tensor([1., 1.])
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    return (x.to(wide) - y.to(wide)).square().flatten(1).mean(1)


@torch.no_grad()
def minority_score(
    model: Model,
    data: Tensor,
    t: float,
    *,
    draws: int = 5,
    distance: Distance = squared_error,
    condition: Mapping[str, Any] | None = None,
    clip: tuple[float, float] | None = None,
    seed: int = 0,
    samples: Tensor | None = None,
    max_rows: int = 256,
) -> Tensor:
    r"""How far a model's clean estimate of a noised sample is from the sample: large for rare ones.

    .. math:: l(x) = \frac1J \sum_{j=1}^{J} d(x, D(\alpha x + \sigma \epsilon_j, t))

    A clean estimate is a mean of what could have been noised to where it is, so it falls back to what is common. The
    level matters: near the data all scores are the same. The authors' noise ratio is 6.4 (of 1000 linear betas number
    605, alpha = 0.155), with LPIPS as the distance.

    Args:
        model: Any one-sided model, of whatever prediction.
        data: Samples, [B, *D], as the model generates them.
        t: Time in (0, 1) of the noise level; ``model.interpolant.time_at_noise_ratio(nu)`` is that of a noise ratio.
        draws: Noises that are averaged over, J >= 1.
        distance: d, a function of data and estimates [b, *D] that returns [b]. The squared error in pixels measures
            texture as much as rarity.
        condition: Of the model, with rows for every sample or for each; none by default.
        clip: Bounds of the clean estimates, where the model was trained so.
        seed, samples: Keys of the noise, as everywhere: the score of a sample does not depend on the batch it is in.
        max_rows: Most rows of a call.

    Returns:
        Scores, [B], float64, on the device of the data.

    Raises:
        ArgumentError: No draw, a time at an end, bounds out of order, a model whose noise is not Gaussian.
        SingularTimeError: A time at which the network determines no clean estimate.
        ShapeError, DtypeError: Of data, ids and conditions; a distance that does not return one number a row.
        NotFiniteError: A distance; names the sample.

    Source:
        Um, Lee & Ye 2023, Don't Play Favorites: Minority Guidance for Diffusion Models, equation 8.

    Example:
        >>> from pushforward.models import MixtureOracle
        >>> model = MixtureOracle([0.95, 0.05], [[-1.0], [1.0]], 0.01).model()
        >>> common, rare = minority_score(model, torch.tensor([[-1.0], [1.0]]), 0.3)
        >>> bool(rare > 10 * common)
        True
    """
    check_gaussian(model)
    ids = check_data("data", data, samples)
    check_rows_a_call(max_rows)
    check_noising(t, draws)
    if clip is not None and not clip[0] < clip[1]:
        raise ArgumentError("clip", got=clip, expected="(low, high) with low < high")
    field = ModelField(model, condition, quantity="denoised")
    alpha, sigma, _, _ = model.interpolant(t)
    total = torch.zeros(data.shape[0], dtype=torch.float64, device=data.device)
    for rows in torch.arange(data.shape[0]).split(max_rows):
        x, of_rows = data[rows[0] : rows[-1] + 1], field.rows(rows)
        for draw in range(draws):
            clean = of_rows(noised(x, keyed_noise(x, seed, draw, ids[rows]), alpha, sigma), t)
            far = distance(x, clean if clip is None else clean.clamp(*clip))
            if not isinstance(far, Tensor) or far.shape != (len(x),):
                got = list(far.shape) if isinstance(far, Tensor) else type(far).__name__
                raise ShapeError("distance", got=got, expected=f"[{len(x)}], one number for each sample")
            total[rows[0] : rows[-1] + 1] += far
    bad = (~total.isfinite()).nonzero()
    if len(bad):
        at = int(bad[0, 0])
        raise NotFiniteError("distance", got=f"{total[at].item()} for sample {at}", expected="finite numbers")
    return total / draws


def check_noising(t: float, draws: int) -> None:
    """Refuse what gives no score.

    Raises:
        ArgumentError: No draw, or a time at an end.
    """
    if isinstance(draws, bool) or not isinstance(draws, int) or draws < 1:
        raise ArgumentError("draws", got=repr(draws), expected="an integer of at least 1")
    if not 0 < t < 1:
        raise ArgumentError("t", got=t, expected="0 < t < 1: with all noise or none every score is the same")
