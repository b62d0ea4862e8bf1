"""Guidance networks that are experts for ranges of noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import ArgumentError
from ..bound import Times
from ..interpolants import Interpolant, interpolant
from ..trees import tree_map
from ..window import check_unit, time_of

Expert = Callable[..., Tensor]


class NoiseExperts:
    """One network for each range of noise: a function of (x, t) for the log-likelihood of gradient guidance.

    Ranges are half-open, so that every time has exactly one expert: the k-th serves from its bound on, to before the
    next one. Rows with times of their own are grouped by expert, one call each.

    Args:
        experts: From the noisiest range to the cleanest; called as ``expert(x, **given)``.
        boundaries: One fewer: noise ratios that fall, or times that rise. An expert serves noise ratios at most its
            own bound.
        path: The path of the states, which says when a noise ratio occurs.
        in_: "noise_ratio" or "t".

    Raises:
        ArgumentError: No expert, another number of boundaries, or boundaries that are not in order (listed).

    Source:
        Go et al. 2022, Towards practical plug-and-play diffusion models (PPAP), section 3.2.

    Example:
        >>> experts = NoiseExperts([lambda x: 0 * x, lambda x: x], [1.0])
        >>> experts.index_at(0.4), experts.index_at(0.5)  # nu = 1.5 and nu = 1
        (0, 1)
        >>> experts(torch.ones(2, 1), np.array([0.4, 0.5]))
        tensor([[0.],
                [1.]])
    """

    def __init__(
        self,
        experts: Sequence[Expert],
        boundaries: Sequence[float],
        path: Interpolant | str = "linear",
        in_: str = "noise_ratio",
    ) -> None:
        check_unit(in_)
        self.experts, self.path, self.in_ = tuple(experts), interpolant(path), in_
        self.boundaries = tuple(float(bound) for bound in boundaries)
        if not self.experts or len(self.boundaries) != len(self.experts) - 1:
            expected = f"{max(len(self.experts) - 1, 0)}, one between two experts"
            raise ArgumentError("boundaries", got=f"{len(self.boundaries)} of them", expected=expected)
        self.starts = tuple(time_of(bound, in_, self.path) for bound in self.boundaries)
        ordered = all(a < b for a, b in zip(self.starts, self.starts[1:], strict=False))
        if not ordered or any(math.isnan(bound) for bound in self.boundaries):
            order = "falling noise ratios" if in_ == "noise_ratio" else "rising times"
            raise ArgumentError("boundaries", got=list(self.boundaries), expected=f"{order} on the path {self.path}")

    @classmethod
    def equal(cls, experts: Sequence[Expert], path: Interpolant | str = "linear") -> NoiseExperts:
        """Experts for equal parts of the times in [0, 1]."""
        count = len(experts)
        return cls(experts, [k / count for k in range(1, count)], path, "t")

    def index_at(self, t: float) -> int:
        """Which expert serves ``t``."""
        return sum(start <= t for start in self.starts)

    def range_of(self, index: int) -> tuple[float, float]:
        """The times that an expert serves, ``lo <= t < hi``; the last also serves 1."""
        bounds = (0.0, *self.starts, 1.0)
        return bounds[index], bounds[index + 1]

    def __call__(self, x: Tensor, t: Times, **given: Any) -> Tensor:
        """What the experts of the rows say.

        Args:
            x: [B, *D].
            t: One time, or float64 [B] on the host.
            **given: Further arguments: tensors of batch B are split with the rows, everything else is passed on.
        """
        if isinstance(t, float | int):
            return self.experts[self.index_at(t)](x, **given)
        which = np.array([self.index_at(time) for time in np.asarray(t).tolist()])
        groups = [np.flatnonzero(which == k) for k in range(len(self.experts))]
        used = [(k, torch.from_numpy(rows).to(x.device)) for k, rows in enumerate(groups) if rows.size]
        if len(used) == 1:
            return self.experts[used[0][0]](x, **given)

        def part(rows: Tensor) -> Callable[[str, Any], Any]:
            def take(path: str, leaf: Any) -> Any:
                del path
                batched = isinstance(leaf, Tensor) and leaf.ndim > 0 and leaf.shape[0] == x.shape[0]
                return leaf.index_select(0, rows) if batched else leaf

            return take

        answers = [self.experts[k](x.index_select(0, rows), **tree_map(part(rows), given)) for k, rows in used]
        order = torch.cat([rows for _, rows in used])
        return torch.cat(answers).index_select(0, torch.argsort(order))
