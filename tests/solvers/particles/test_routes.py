"""Routes of rows between processes, played through in one."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from pushforward import kernels
from pushforward.solvers.particles import Shard
from pushforward.solvers.particles.routes import Route, owners


def blocks(rows: int, size: int) -> list[slice]:
    shard = Shard()
    shard.size = size
    return [shard.block(rows, rank) for rank in range(size)]


@st.composite
def moves(draw: st.DrawFn) -> tuple[torch.Tensor, int, int]:
    rows = draw(st.integers(1, 20))
    sources = draw(st.lists(st.integers(0, rows - 1), max_size=30))
    return torch.tensor(sources, dtype=torch.int64), rows, draw(st.integers(1, 7))


@given(moves())
def test_routes_of_all_processes_are_the_move(move):
    sources, rows, size = move
    routes = [Route.of(sources, rows, rank, size) for rank in range(size)]
    old, new = blocks(rows, size), blocks(len(sources), size)
    found = torch.full_like(sources, -1)
    for rank, route in enumerate(routes):
        here = found[new[rank]]
        here[route.kept] = torch.arange(rows)[old[rank]][route.sources]
        arrived = []
        for other in range(size):
            sent = routes[other].leave.get(rank, torch.empty(0, dtype=torch.int64))
            assert len(sent) == route.arrive.get(other, 0)
            arrived.append(torch.arange(rows)[old[other]][sent])
        if route.arrive:
            here[route.come] = torch.cat(arrived)[route.pick]
        needed = set(sources[new[rank]].tolist()) - set(range(rows)[old[rank]])
        assert sorted(needed) == torch.cat(arrived).tolist(), "each row that is needed and not there, once"
        assert route.crosses == any(r.arrive for r in routes)
    assert torch.equal(found, sources)


@given(st.integers(0, 40), st.integers(1, 9))
def test_owners_are_those_whose_block_it_is(rows, size):
    expected = np.repeat(np.arange(size), [b.stop - b.start for b in blocks(rows, size)])
    assert owners(torch.arange(rows), rows, size).tolist() == expected.tolist()


@given(st.integers(0, 2**32 - 1), st.integers(2, 4))
def test_ancestors_kept_in_place_send_at_most_the_surplus_copies(seed, size):
    log_weights = 3 * torch.randn(1, 13, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    drawn = kernels.resample(log_weights, "systematic", seed=seed, draw=kernels.Draw(2, 0)).ancestors[0]
    counts = torch.bincount(drawn, minlength=13)
    surplus = int((counts - 1).clamp(min=0).sum())
    ancestors = kernels.keep_in_place(drawn)
    arriving = sum(sum(Route.of(ancestors, 13, rank, size).arrive.values()) for rank in range(size))
    assert arriving <= surplus
