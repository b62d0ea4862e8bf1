"""Sums in a fixed order, so that they do not depend on batches, threads, instruction sets or devices."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import pad

BLOCK = 1024


def ordered_sum(terms: Tensor) -> Tensor:
    """Sum over the last dimension: the order that every backend follows, so that all get the same bits.

    A row is cut into blocks of 1024 terms. Within a block, terms half a power of two apart are added, then halves of
    what is left, and so on: ``v[i] + v[i + 512]``, then ``v[i] + v[i + 256]`` ... Terms past the end count as zero. The
    sums of the blocks form a shorter row, which is added up in the same way. Rounding grows with the logarithm of the
    number of terms.

    Example:
        >>> import torch
        >>> ordered_sum(torch.arange(5000, dtype=torch.float64))
        tensor(12497500., dtype=torch.float64)
    """
    while True:
        count = terms.shape[-1]
        if count == 0:
            return terms.sum(-1)
        size = min(BLOCK, 1 << (count - 1).bit_length())
        blocks = pad(terms, (0, -count % size)).unflatten(-1, (-1, size))
        while size > 1:
            size //= 2
            blocks = blocks[..., :size] + blocks[..., size:]
        terms = blocks.squeeze(-1)
        if terms.shape[-1] == 1:
            return terms.squeeze(-1)
