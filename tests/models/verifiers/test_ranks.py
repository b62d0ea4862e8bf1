"""The rank ensemble: ranks against SciPy's, sets that do not see each other, and what it refuses."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pushforward.errors import ArgumentError, NotFiniteError, ShapeError
from pushforward.models.verifiers import Batched, Cached, RankEnsemble, average_ranks, evaluate


def first(x: Tensor, context: object) -> Tensor:
    return x[:, 0]


def second(x: Tensor, context: object) -> Tensor:
    return 1000 * x[:, 1]


@given(values=st.lists(st.sampled_from([-math.inf, -1.0, 0.0, 0.5, 2.0]), min_size=1, max_size=12))
def test_ranks_share_the_mean_of_tied_places(values: list[float]) -> None:
    ranks = average_ranks(torch.tensor(values))
    assert ranks.tolist() == scipy.stats.rankdata(-np.array(values), method="average").tolist()


def test_scores_are_minus_the_mean_rank_of_each_set() -> None:
    values = torch.randint(0, 4, (3, 5, 7), generator=torch.Generator().manual_seed(0)).double()
    scores = RankEnsemble([first, second, first]).scores(values)
    for s in range(5):
        ranks = [scipy.stats.rankdata(-values[v, s].numpy()) for v in range(3)]
        np.testing.assert_allclose(scores[s].numpy(), -np.mean(ranks, 0), rtol=1e-15)
    assert torch.equal(RankEnsemble([first, second, first]).scores(values[:, 2]), scores[2])


def test_only_the_order_of_values_counts() -> None:
    values = torch.randn(2, 3, 9, generator=torch.Generator().manual_seed(1)).double()
    ensemble = RankEnsemble([first, second])
    bent = torch.stack([values[0].exp(), 5 * values[1] ** 3 - 100])
    assert torch.equal(ensemble.scores(values), ensemble.scores(bent))


def test_rows_are_ranked_within_their_group() -> None:
    ensemble = RankEnsemble([first, second])
    x = torch.randn(9, 2, generator=torch.Generator().manual_seed(2))
    group = torch.tensor([2, 0, 2, 1, 0, 2, 0, 1, 2])
    together = evaluate(ensemble, x, {"group": group})
    for one in range(3):
        assert torch.equal(together[group == one], evaluate(ensemble, x[group == one]))
    assert not torch.equal(together, evaluate(ensemble, x)), "the whole batch is another set"
    with pytest.raises(ShapeError, match="group"):
        evaluate(ensemble, x, {"group": torch.zeros(9, 1)})


def test_an_incumbent_must_be_ranked_again_with_its_rivals() -> None:
    """Its old score, best of a poor set, would beat every better candidate of the next round."""
    ensemble = RankEnsemble([first])
    old, new = torch.tensor([[1.0], [0.0]]), torch.tensor([[3.0], [2.0], [2.5]])
    stale, fresh = evaluate(ensemble, old)[0], evaluate(ensemble, torch.cat([old[:1], new]))
    assert stale == -1.0
    assert fresh.tolist() == [-4.0, -1.0, -3.0, -2.0]


def test_what_cannot_be_ranked_is_refused() -> None:
    with pytest.raises(ArgumentError, match="rewards: got none"):
        RankEnsemble([])
    ensemble = RankEnsemble([first, second])
    with pytest.raises(ShapeError, match=r"values: got \[3, 4\], expected \[2, S, N\]"):
        ensemble.scores(torch.zeros(3, 4))
    with pytest.raises(NotFiniteError, match="NaN from second"):
        ensemble.scores(torch.tensor([[0.0, 1.0], [0.0, math.nan]]))
    with pytest.raises(NotFiniteError, match="step 1: reward second: got NaN in row 1"):
        ensemble.values(torch.tensor([[0.0, 0.0], [0.0, math.nan]]), where="step 1")
    for wrap in (Cached, lambda reward: Batched(reward, 2)):
        with pytest.raises(ArgumentError, match="rows that depend on each other"):
            wrap(ensemble)
    assert ensemble.differentiable is False
    assert repr(ensemble) == "RankEnsemble(verifiers=(first, second))"
