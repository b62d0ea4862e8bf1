"""The rank ensemble: several verifiers of different scales vote within one set of candidates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...errors import NotFiniteError, ShapeError
from .combinators import several
from .context import tensor_entry
from .describe import Described
from .verifier import Verifier, Where, evaluate, name_of


def average_ranks(values: Tensor) -> Tensor:
    r"""Ranks along the last dimension, 1 for the highest; equal values share the mean of their places.

    .. math:: \rho_i = 1 + \#\{j : v_j > v_i\} + \tfrac12 (\#\{j : v_j = v_i\} - 1)

    Args:
        values: [..., N], real, without NaN; infinities are ordinary values.

    Returns:
        float64 [..., N]; their sum is N (N + 1) / 2.

    Example:
        >>> average_ranks(torch.tensor([0.3, 0.9, 0.3, -torch.inf]))
        tensor([2.5000, 1.0000, 2.5000, 4.0000], dtype=torch.float64)
    """
    losses = -values.double().contiguous()
    ordered = losses.sort(-1).values
    better, upto = torch.searchsorted(ordered, losses), torch.searchsorted(ordered, losses, right=True)
    return (better + 1 + upto).double() / 2


@dataclass(frozen=True, repr=False)
class RankEnsemble(Described):
    r"""Minus the mean rank of a candidate over several verifiers, within the candidates of one condition.

    .. math:: r_i = -\frac{1}{V} \sum_v \rho_{v,i}

    Range: [-N, -1] in a set of N; -1 for a candidate that every verifier puts first. Not differentiable.

    A rank says nothing outside its set, so this is a combinator of sets. A search method keeps the verifiers' raw
    values of every candidate of a request (:meth:`values`), its incumbent's among them, and calls :meth:`scores` on
    the union each round: the incumbent's score of the last round is not comparable with those of new candidates.

    As a reward of rows it takes ``context["group"]``, integers [B], for the sets, or the whole batch for one set; and
    says ``rowwise = False``, so that nothing splits or caches its batch. Potentials of particle methods, which compare
    rewards of different steps, cannot use it.

    Args:
        verifiers: At least one; all have the same vote.

    Raises:
        ArgumentError: No verifiers, or one that is not callable.

    Source:
        Ma et al. 2025, Inference-time scaling for diffusion models beyond scaling denoising steps, section 4.

    Example:
        >>> ensemble = RankEnsemble([lambda x, context: x[:, 0], lambda x, context: 100 * x[:, 1]])
        >>> ensemble(torch.tensor([[0.3, 0.1], [0.2, 0.4], [0.1, 0.2]]))
        tensor([-2.0000, -1.5000, -2.5000], dtype=torch.float64)
    """

    verifiers: tuple[Verifier, ...]

    differentiable = False
    rowwise = False

    def __init__(self, verifiers: Sequence[Verifier]) -> None:
        """Keeps them as a tuple."""
        object.__setattr__(self, "verifiers", several(verifiers))

    def values(self, x: Tensor, context: Any = None, *, where: Where = "") -> Tensor:
        """What each verifier says of each row: float64 [V, B] on the CPU, checked as :func:`evaluate` does."""
        return torch.stack([evaluate(verifier, x, context, where=where) for verifier in self.verifiers])

    def scores(self, values: Tensor) -> Tensor:
        """Minus mean ranks within each set.

        Args:
            values: [V, S, N] or [V, N]: of each verifier, in each of S sets, for N candidates. -inf ranks last.

        Returns:
            float64 [S, N] or [N].

        Raises:
            ShapeError: Not V values a candidate.
            NotFiniteError: A NaN; names the verifier.
        """
        expected = f"[{len(self.verifiers)}, S, N], one value a verifier"
        if values.ndim < 2 or values.shape[0] != len(self.verifiers):
            raise ShapeError("values", got=list(values.shape), expected=expected)
        missing = values.isnan().flatten(1).any(1)
        if bool(missing.any()):
            name = name_of(self.verifiers[int(missing.nonzero()[0])])
            raise NotFiniteError("values", got=f"NaN from {name}", expected="numbers, or -inf for a forbidden sample")
        return -average_ranks(values).mean(0)

    def __call__(self, x: Tensor, context: Any = None) -> Tensor:
        """Scores [B], float64, within the groups of the context or within the batch."""
        values = self.values(x, context)
        if not isinstance(context, dict) or "group" not in context:
            return self.scores(values).to(x.device)
        groups = tensor_entry(context, "group", self, x.shape[0], ()).cpu()
        result = torch.empty(x.shape[0], dtype=torch.float64)
        for group in groups.unique():
            rows = groups == group
            result[rows] = self.scores(values[:, rows])
        return result.to(x.device)
