"""Distances between sets of samples that need no downloaded network: give pixels, or features of a bundled classifier.

Compare two values only at equal sample counts and equal features, and always beside what real data attains against
held-out real data. All take float tensors [n, p], compute in float64, and return Python numbers.
"""

import warnings
from typing import NamedTuple

import torch
from torch import Tensor

from ... import kernels
from ...errors import ArgumentError, NotFiniteError, ShapeError


class Share(NamedTuple):
    """A proportion, its standard error sqrt(p (1 - p) / n), and n."""

    value: float
    error: float
    size: int


def frechet_distance(x: Tensor, y: Tensor) -> float:
    r"""Squared 2-Wasserstein distance of the Gaussians fitted to two sets.

    .. math:: |m_x - m_y|^2 + \mathrm{tr}(A) + \mathrm{tr}(B) - 2 \textstyle\sum_i \sqrt{\lambda_i(A^{1/2} B A^{1/2})}

    A and B are unbiased covariances. The eigenvalues are those of a symmetric matrix (never a root of the
    non-symmetric A B); negative ones are rounding and count as 0. Biased upwards, for whitened features by about
    (1/n + 1/m) (p + p (p + 1) / 4).

    Args:
        x: Samples, [n, p].
        y: Samples, [m, p].

    Raises:
        ShapeError: Not matrices with equal p, or fewer than two rows.
        NotFiniteError: A row has NaN or infinity.

    Warns:
        UserWarning: Below 10 p rows the bias dominates.

    Source:
        Dowson & Landau 1982; on network features, Heusel et al. 2017.
    """
    x, y = _pair(x, y, least=2)
    (n, p), m = x.shape, len(y)
    if min(n, m) < 10 * p:
        bias = (1 / n + 1 / m) * (p + p * (p + 1) / 4)
        text = f"Frechet distance at n={min(n, m)}, p={p} is dominated by bias (about {bias:.2g} for whitened features)"
        warnings.warn(text, stacklevel=2)
    a, b = torch.cov(x.T).reshape(p, p), torch.cov(y.T).reshape(p, p)
    values, vectors = torch.linalg.eigh(a)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    product = torch.linalg.eigvalsh(root @ b @ root).clamp(min=0).sqrt().sum()
    gap = (x.mean(0) - y.mean(0)).square().sum()
    return (gap + a.trace() + b.trace() - 2 * product).item()


def energy_distance(x: Tensor, y: Tensor) -> float:
    r"""Energy distance, by U-statistics: unbiased, 0 for equal laws, and so at times slightly negative.

    .. math:: 2\,E|X - Y| - E|X - X'| - E|Y - Y'|

    No parameter to choose, and only a first moment is needed. Computed in float64, by
    :func:`pushforward.kernels.energy_distance`.

    Args:
        x: Samples, [n, p], n >= 2.
        y: Samples, [m, p], m >= 2.

    Raises:
        ShapeError: Not matrices with equal p, or fewer than two rows.
        NotFiniteError: A row has NaN or infinity.

    Source:
        Szekely & Rizzo 2013, J. Stat. Plan. Inference 143(8).
    """
    return kernels.energy_distance(*_pair(x, y, least=2)).item()


def energy_null_quantile(x: Tensor, y: Tensor, *, level: float = 0.95, repeats: int = 200, seed: int = 0) -> float:
    """Quantile of the energy distance under the hypothesis of equal laws, from random relabellings of the pooled set.

    Args:
        x: Samples, [n, p].
        y: Samples, [m, p]; n + m of a few thousand at most, as all distances are kept.
        level: Quantile to return; an observed value above it rejects equality at 1 - level.
        repeats: Number of relabellings.
        seed: Of the relabellings.

    Raises:
        ShapeError: As `energy_distance`.
        NotFiniteError: As `energy_distance`.
        ArgumentError: `level` is not in (0, 1), or `repeats` is not positive.

    Source:
        Szekely & Rizzo 2004 (permutation test of the energy statistic).
    """
    x, y = _pair(x, y, least=2)
    if not 0 < level < 1:
        raise ArgumentError("level", got=level, expected="between 0 and 1")
    if repeats < 1:
        raise ArgumentError("repeats", got=repeats, expected="at least 1")
    n, m = len(x), len(y)
    pooled = torch.cat([x, y])
    distances = torch.cdist(pooled, pooled, compute_mode="donot_use_mm_for_euclid_dist")
    order = torch.stack(
        [torch.randperm(n + m, generator=torch.Generator().manual_seed(seed + r)) for r in range(repeats)]
    )
    first = torch.zeros(repeats, n + m, dtype=torch.float64).scatter_(1, order[:, :n], 1.0)
    rows = first @ distances
    xx = (rows * first).sum(1)
    xy = rows.sum(1) - xx
    yy = distances.sum() - xx - 2 * xy
    values = 2 * xy / (n * m) - xx / (n * (n - 1)) - yy / (m * (m - 1))
    return values.quantile(level).item()


def class_agreement(logits: Tensor, labels: Tensor) -> Share:
    """Share of samples whose largest logit is the class that was asked for.

    Blind to diversity, and raised by guidance and by few steps, which sharpen: report a recall or distance beside it.

    Args:
        logits: [n, K], from a classifier that was not used to choose or train what is judged.
        labels: The classes asked for, [n], int64.

    Raises:
        ShapeError: The shapes do not belong together.
    """
    if logits.ndim != 2 or tuple(labels.shape) != (len(logits),) or not len(logits):
        got = f"{list(labels.shape)} for logits {list(logits.shape)}"
        raise ShapeError("labels", got=got, expected="[n] for logits [n, K], n >= 1")
    value = (logits.argmax(1) == labels).double().mean().item()
    return Share(value, (value * (1 - value) / len(labels)) ** 0.5, len(labels))


def precision_recall(real: Tensor, fake: Tensor, *, k: int = 5) -> tuple[float, float]:
    """Improved precision and recall: set membership by balls that reach to the k-th neighbour.

    precision = share of fakes strictly inside the ball of some real sample, recall = share of reals inside the ball of
    some fake; a ball's radius is the distance to the k-th neighbour within its own set, itself excluded.

    Args:
        real: [n, p], n > k.
        fake: [m, p], m > k.
        k: Neighbours.

    Returns:
        Precision and recall.

    Raises:
        ShapeError: Not matrices with equal p, or k rows or fewer.
        NotFiniteError: A row has NaN or infinity.

    Source:
        Kynkaanniemi et al. 2019.
    """
    real, fake = _pair(real, fake, least=k + 1)
    across = torch.cdist(real, fake)
    radius_real = torch.cdist(real, real).fill_diagonal_(0).kthvalue(k + 1, dim=1).values
    radius_fake = torch.cdist(fake, fake).fill_diagonal_(0).kthvalue(k + 1, dim=1).values
    precision = (across < radius_real[:, None]).any(0).double().mean().item()
    recall = (across < radius_fake).any(1).double().mean().item()
    return precision, recall


def per_class_recall(
    real: Tensor, real_labels: Tensor, fake: Tensor, fake_labels: Tensor, *, k: int = 5
) -> list[float]:
    """Recall of `precision_recall` within each class 0..max, so that a class with few variants cannot hide.

    Args:
        real: [n, p], with `real_labels` [n].
        real_labels: Classes of the real samples.
        fake: [m, p], with `fake_labels` [m].
        fake_labels: Classes the fakes were asked for.
        k: Neighbours; each class needs more than k samples of both kinds.

    Returns:
        One recall a class. Errors as `precision_recall`.
    """
    classes = range(int(real_labels.max()) + 1)
    return [precision_recall(real[real_labels == c], fake[fake_labels == c], k=k)[1] for c in classes]


def nearest_neighbour_ratio(samples: Tensor, train: Tensor, held_out: Tensor) -> float:
    r"""Memorisation check: how near samples lie to the training set, compared with fresh real data.

    .. math:: \mathrm{median}_i \min_j |s_i - x_j| \;/\; \mathrm{median}_i \min_j |h_i - x_j|

    About 1 for a model that generalises; below 0.8 the samples are suspiciously close to training images.

    Args:
        samples: [n, p].
        train: [m, p].
        held_out: [q, p].

    Raises:
        ShapeError: Not matrices with equal p, or an empty one.
        NotFiniteError: A row has NaN or infinity.
        ArgumentError: Half of the held-out rows are in the training set: the ratio is not defined.
    """
    samples, same = _pair(samples, train, least=1)
    held_out, _ = _pair(held_out, train, least=1)
    attained = torch.cdist(held_out, same).amin(1).median().item()
    if attained == 0:
        raise ArgumentError("held_out", got="rows of the training set", expected="samples that training never saw")
    return torch.cdist(samples, same).amin(1).median().item() / attained


def variance_ratio(real: Tensor, real_labels: Tensor, fake: Tensor, fake_labels: Tensor) -> list[float]:
    """Total variance of the fakes over that of the reals, class by class: guidance shrinks it.

    Args:
        real: [n, p], with `real_labels` [n].
        real_labels: Classes of the real samples.
        fake: [m, p], with `fake_labels` [m].
        fake_labels: Classes the fakes were asked for.

    Returns:
        One ratio a class.

    Raises:
        ShapeError: Not matrices with equal p, or a class with fewer than two samples.
        NotFiniteError: A row has NaN or infinity.
    """
    ratios = []
    for c in range(int(real_labels.max()) + 1):
        x, y = _pair(real[real_labels == c], fake[fake_labels == c], least=2)
        ratios.append((y.var(0).sum() / x.var(0).sum()).item())
    return ratios


def _pair(x: Tensor, y: Tensor, *, least: int) -> tuple[Tensor, Tensor]:
    for name, value in (("x", x), ("y", y)):
        if value.ndim != 2 or len(value) < least:
            raise ShapeError(name, got=list(value.shape), expected=f"[n, p] with at least {least} samples")
        bad = (~value.isfinite().all(1)).nonzero()
        if len(bad):
            raise NotFiniteError(name, got=f"NaN or infinity in row {bad[0].item()} ({len(bad)} rows in all)")
    if x.shape[1] != y.shape[1]:
        raise ShapeError("y", got=f"{y.shape[1]} features", expected=f"{x.shape[1]}, as x has")
    return x.detach().double(), y.detach().double()
