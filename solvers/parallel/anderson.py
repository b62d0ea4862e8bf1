"""Triangular Anderson acceleration of a Picard iteration."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

RIDGE = 1e-3  # of the mean square of the residual differences, as in the paper

Rows = NDArray[np.int64]


class Anderson:
    r"""Each state's next iterate from those of the last rounds, for it and the states before it.

    With residuals r = F(x) - x, and differences X_j, R_j of iterates and residuals between rounds,

    .. math:: x_i \leftarrow x_i + r_i - \sum_j g_{ij} (X_{ij} + R_{ij}), \quad
        \Big( \sum_{k \le i} R_k^T R_k + \lambda \Big) g_i = \sum_{k \le i} R_k^T r_k

    over the states k of the sample's window. A state so depends on earlier ones alone, as in the run itself, and the
    first of a window, whose residual is exact, takes it as it is: what was exact stays so. The ridge is relative,
    1e-3 of the mean diagonal; an infinite one is the plain iteration.

    Args:
        memory: Rounds that are remembered, at least 2.
        batch: Samples, B.
        sizes: Of the states at the ends of the steps, [N]: residuals are compared relative to them.
        ridge: The multiple of the mean diagonal.

    Source:
        Tang et al. 2024, Accelerating parallel sampling of diffusion models (ParaTAA), section 4.2.
    """

    def __init__(self, memory: int, batch: int, sizes: NDArray[np.float64], ridge: float = RIDGE) -> None:
        self.memory, self.batch, self.sizes, self.ridge = memory, batch, sizes, ridge
        self.last: tuple[Tensor, Tensor] | None = None
        self.pairs: list[tuple[Tensor, Tensor]] = []
        self.known = np.zeros(len(sizes) * batch, dtype=bool)

    def __call__(self, x: Tensor, residual: Tensor, step: Rows, sample: Rows, begin: Rows) -> Tensor:
        """The next iterates of the states after the rows' steps.

        Args:
            x, residual: Last iterates of these states and ``F(x) - x``, [R, *D].
            step, sample: Of each row.
            begin: First step of each sample's window, [B].
        """
        place = step * self.batch + sample
        index = torch.from_numpy(place).to(x.device)
        self.remember(x, residual, place, index)
        plain = x + residual
        if not self.pairs:
            return plain
        moves = torch.stack([pair[0].index_select(0, index).flatten(1) for pair in self.pairs], 1)
        changes = torch.stack([pair[1].index_select(0, index).flatten(1) for pair in self.pairs], 1)
        weights = self.solve(changes, residual.flatten(1), step, sample, begin)
        return plain - (weights[:, None] @ (moves + changes))[:, 0].reshape(x.shape)

    def remember(self, x: Tensor, residual: Tensor, place: Rows, index: Tensor) -> None:
        """Add this round's differences, zero for states that the last round did not have."""
        known = torch.from_numpy(self.known[place]).to(x.device).reshape(-1, *[1] * (x.ndim - 1))
        if self.last is None:
            self.last = tuple(x.new_zeros((len(self.known), *x.shape[1:])) for _ in range(2))  # type: ignore[assignment]
        else:
            pair = tuple(torch.zeros_like(old) for old in self.last)
            for difference, old, new in zip(pair, self.last, (x, residual), strict=True):
                difference.index_copy_(0, index, (new - old.index_select(0, index)) * known)
            self.pairs = [*self.pairs, pair][1 - self.memory :]  # type: ignore[list-item]
        assert self.last is not None
        for old, new in zip(self.last, (x, residual), strict=True):
            old.index_copy_(0, index, new)
        self.known[:] = False
        self.known[place] = True

    def solve(self, changes: Tensor, residual: Tensor, step: Rows, sample: Rows, begin: Rows) -> Tensor:
        """The weights g of each row, [R, m], from sums over the window up to it."""
        count = changes.shape[1]
        inner = changes @ torch.cat([changes, residual[:, None]], 1).mT  # [R, m, m + 1]
        inner = inner * torch.from_numpy(self.sizes[step] ** -2).to(inner)[:, None, None]
        offset = step - begin[sample]
        cell = torch.from_numpy(sample * (int(offset.max()) + 1) + offset).to(inner.device)
        table = inner.new_zeros((self.batch * (int(offset.max()) + 1), count, count + 1)).index_copy(0, cell, inner)
        sums = table.reshape(self.batch, -1, count, count + 1).cumsum(1).flatten(0, 1).index_select(0, cell)
        gram, right = sums[..., :count], sums[..., count:]
        size = gram.diagonal(dim1=-2, dim2=-1).mean(-1)
        ridge = torch.where(size > 0, self.ridge * size, 1.0)
        identity = torch.eye(count, dtype=gram.dtype, device=gram.device)
        found = torch.linalg.solve_ex(gram + ridge[:, None, None] * identity, right)[0][..., 0]
        first = torch.from_numpy(offset == 0).to(found.device)
        return found.masked_fill(first[:, None], 0.0)
