"""What trains a flow from encoded data: the encoder's penalty, its contrast, and rows that teach the indicator."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ...errors import ArgumentError, ShapeError

FREEDOM = 0.3  # of the means, in the released code


def source_penalty(mean: Tensor, log_variance: Tensor, *, power: int = 6, scale: float = FREEDOM) -> Tensor:
    r"""What keeps variances near one and lets means go, a mean over elements.

    .. math:: -\tfrac12 \left(1 + \ell - (0.3 \mu)^6 - e^\ell\right)

    With ``power=2, scale=1`` it is the divergence from N(0, I). The sixth power is flat until about :math:`|\mu| = 3`.

    Args:
        mean, log_variance: Of the source, of one shape.
        power: Even.
        scale: Of the means.

    Raises:
        ArgumentError: An odd power, under which means would run away.
        ShapeError: Two shapes.

    Source:
        Liu et al. 2024, CrossFlow, the released code (which sums over elements; its weight is 1e-2).

    Example:
        >>> bool(source_penalty(torch.ones(2, 3), torch.zeros(2, 3)) < 1e-3)
        True
    """
    if power < 2 or power % 2:
        raise ArgumentError("power", got=power, expected="an even number")
    if mean.shape != log_variance.shape:
        raise ShapeError("log_variance", got=list(log_variance.shape), expected=f"{list(mean.shape)}, as the mean")
    return -0.5 * (1 + log_variance - (scale * mean) ** power - log_variance.exp()).mean()


def contrast(sources: Tensor, features: Tensor, temperature: float | Tensor = 0.07) -> Tensor:
    """The symmetric cross-entropy of finding each row's partner by the cosine of the two.

    Args:
        sources, features: [B, d] each, row by row of the same sample.
        temperature: Divides the cosines.

    Raises:
        ShapeError: Not two tensors [B, d].

    Source:
        Radford et al. 2021 (CLIP); between x_0 and image features, Liu et al. 2024.

    Example:
        >>> contrast(torch.eye(4), torch.eye(4), 0.01).item() < 1e-6
        True
    """
    if sources.shape != features.shape or sources.ndim != 2:
        raise ShapeError("features", got=list(features.shape), expected=f"[B, d], as sources {list(sources.shape)}")
    cosines = F.normalize(sources, dim=1) @ F.normalize(features, dim=1).T / temperature
    own = torch.arange(len(cosines), device=cosines.device)
    return (F.cross_entropy(cosines, own) + F.cross_entropy(cosines.T, own)) / 2


def indicator_targets(x1: Tensor, ignore: Tensor) -> Tensor:
    """Targets where the indicator's rows have those of one another: what the source says then means nothing.

    Args:
        x1: Targets [B, *D].
        ignore: The indicator, bool [B]; a share of 0.1 to 0.15 in the paper. The targets of its rows move on by one.

    Returns:
        [B, *D]; the same if fewer than two rows are marked.

    Source:
        Liu et al. 2024, CrossFlow, section 3.4.

    Example:
        >>> indicator_targets(torch.arange(5.0), torch.tensor([True, False, True, True, False]))
        tensor([3., 1., 0., 2., 4.])
    """
    rows = ignore.nonzero()[:, 0]
    if len(rows) < 2:
        return x1
    return x1.index_copy(0, rows, x1[rows.roll(1)])
