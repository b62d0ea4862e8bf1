"""Levels of rarity: bins of scores that hold equally many samples."""

from __future__ import annotations

import torch
from torch import Tensor

from ...errors import ArgumentError, NotFiniteError, ShapeError


def minority_edges(scores: Tensor, bins: int) -> Tensor:
    r"""Upper edges of all bins but the last: the order statistics :math:`s_{(\lceil i N / L \rceil)}, \; 0 < i < L`.

    An edge belongs to the bin below it. N distinct scores are spread so that the sizes of bins differ by one at most.

    Args:
        scores: [N], N >= L.
        bins: L, at least 2.

    Returns:
        Edges, [L - 1], rising, in the dtype of the scores.

    Raises:
        ArgumentError: Fewer than two bins, fewer scores than bins, or scores so often the same that a bin is empty;
            names it.
        ShapeError: Scores that are not [N].
        NotFiniteError: A score is NaN or infinite.

    Source:
        Um, Lee & Ye 2023, section 4.2: 100 bins.

    Example:
        >>> minority_edges(torch.tensor([3.0, 1.0, 2.0, 5.0, 4.0, 9.0]), 3)
        tensor([2., 4.])
    """
    _check_scores(scores)
    if isinstance(bins, bool) or not isinstance(bins, int) or bins < 2:
        raise ArgumentError("bins", got=repr(bins), expected="an integer of at least 2: one level says nothing")
    count = len(scores)
    if count < bins:
        raise ArgumentError("bins", got=bins, expected=f"at most {count}, the number of scores")
    ranks = [-(-level * count // bins) - 1 for level in range(1, bins)]
    edges = scores.sort().values[torch.tensor(ranks, device=scores.device)]
    sizes = minority_labels(scores, edges).bincount(minlength=bins)
    empty = (sizes == 0).nonzero()
    if len(empty):
        got = f"no score in bin {int(empty[0, 0])}: {len(scores.unique())} of {count} scores are distinct"
        raise ArgumentError("scores", got=got, expected=f"{bins} bins that all have some", hint="Use fewer bins")
    return edges


def minority_labels(scores: Tensor, bins: int | Tensor) -> Tensor:
    r"""The level of rarity of each score: how many edges lie strictly below it; L - 1 is the rarest.

    Args:
        scores: [N].
        bins: L, for edges from these scores; or the edges of others, as :func:`minority_edges` returns them.

    Returns:
        Levels, int64 [N], in [0, L).

    Raises:
        ArgumentError, ShapeError, NotFiniteError: As of :func:`minority_edges`; edges that do not rise.

    Example:
        >>> minority_labels(torch.tensor([3.0, 1.0, 2.0, 5.0, 4.0, 9.0]), 3)
        tensor([1, 0, 0, 2, 1, 2])
        >>> minority_labels(torch.tensor([2.0, 2.1]), torch.tensor([2.0, 4.0]))
        tensor([0, 1])
    """
    _check_scores(scores)
    edges = bins if isinstance(bins, Tensor) else minority_edges(scores, bins)
    if edges.ndim != 1 or not len(edges) or not bool((edges.diff() >= 0).all()):
        raise ArgumentError("edges", got=edges.tolist(), expected="numbers that rise, one fewer than there are bins")
    return torch.searchsorted(edges.to(scores), scores.contiguous(), side="left")


def _check_scores(scores: Tensor) -> None:
    if not isinstance(scores, Tensor) or scores.ndim != 1 or not scores.is_floating_point():
        got = f"{scores.dtype} {list(scores.shape)}" if isinstance(scores, Tensor) else type(scores).__name__
        raise ShapeError("scores", got=got, expected="floating-point numbers [N]")
    bad = (~scores.isfinite()).nonzero()
    if len(bad):
        at = int(bad[0, 0])
        raise NotFiniteError("scores", got=f"{scores[at].item()} for sample {at}", expected="finite numbers")
