"""The log-likelihood of a class, for gradient guidance and steering."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...errors import ShapeError
from ..bound import Times
from .experts import NoiseExperts


@dataclass(frozen=True)
class ClassLogLikelihood:
    r"""The log-probability of a label under a classifier: :math:`\log p(y | x) = z_y - \log \sum_k e^{z_k}`.

    Use it as ``log_likelihood`` of :class:`GradientGuidance` with ``observed={"label": labels}``; its negative is a
    loss of :func:`steered`. Logits are widened to float32 first: in half precision exponentials
    underflow.

    Args:
        classifier: Returns logits [B, K]: called as ``classifier(x)``, as ``classifier(x, t)`` if ``timed``; or
            :class:`NoiseExperts` of such.
        timed: Whether the classifier takes our time, [B] in the dtype of x.
        prepare: What its input is made of the state, for instance ``lambda x: (x + 1) / 2``: a property of the
            network, which teachers and students share.

    Raises:
        ShapeError: When called, logits that are not [B, K].

    Example:
        >>> even = ClassLogLikelihood(lambda x: torch.zeros(len(x), 4))
        >>> even(torch.zeros(2, 3), 0.5, label=torch.tensor([0, 3])).exp()
        tensor([0.2500, 0.2500])
    """

    classifier: Callable[..., Tensor]
    timed: bool = False
    prepare: Callable[[Tensor], Tensor] | None = None

    def __call__(self, x: Tensor, t: Times, label: Tensor) -> Tensor:
        """Log-probabilities [B] of ``label``, int64 [B or 1]."""
        rows = x.shape[0]
        source = x if self.prepare is None else self.prepare(x)
        network: Callable[..., Tensor] = self.classifier
        if isinstance(network, NoiseExperts):
            logits = network(source, t)
        else:
            logits = network(source, time_rows(t, x)) if self.timed else network(source)
        found = log_probabilities(logits, rows)
        return found.gather(1, label.to(found.device).expand(rows)[:, None])[:, 0]


def time_rows(t: Times, x: Tensor) -> Tensor:
    """Our time of each row of ``x``, [B] in its dtype and on its device, as networks take it."""
    told = np.broadcast_to(np.asarray(t, dtype=np.float64), (x.shape[0],))
    return torch.from_numpy(told.copy()).to(x)


def log_probabilities(logits: Tensor, rows: int) -> Tensor:
    """Log-probabilities [B, K] of logits, in float32 or better.

    Raises:
        ShapeError: Logits that are not [``rows``, K].
    """
    if not isinstance(logits, Tensor) or logits.ndim != 2 or logits.shape[0] != rows:
        got = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ShapeError("logits", got=got, expected=f"[{rows}, K], one row a sample")
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(1)
