"""What several tests of searches ask of a result."""

from __future__ import annotations

import torch
from torch import Tensor

from pushforward.solvers.search import SearchResult

BLOCK = 2**20  # chain c's candidates have slots c * 2^20 + m


def in_order(result: SearchResult) -> Tensor:
    """All samples of a search that kept them all, [S, N, *D], in the method's order and not by reward."""
    requests, count = result.order.shape
    assert result.rewards.shape == (requests, count), "search with keep=N"
    return torch.stack([found[order.argsort()] for found, order in zip(result.samples, result.order, strict=True)])


def sample_ids(requests: Tensor, slots: Tensor) -> Tensor:
    """The ids with which ``pf.sample`` draws the noise of these slots of these requests, request by request."""
    return (requests[:, None] * 2**32 + slots).reshape(-1)


def attempts(result: SearchResult, request: int = 0) -> list[int]:
    """Evaluations of the search at every step, of one request."""
    return [int(entry.evaluations[request]) for entry in result.ledger.entries if entry.phase == "search"]


def same(one: SearchResult, other: SearchResult) -> bool:
    """Whether two searches returned the same samples and rewards, bit for bit."""
    return torch.equal(one.samples, other.samples) and torch.equal(one.rewards, other.rewards)
