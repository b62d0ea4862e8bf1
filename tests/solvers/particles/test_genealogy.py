"""Genealogies: lineages, roots and children against loops over slots, and a run that is replayed from its record."""

from collections import Counter
from dataclasses import asdict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pushforward import errors
from pushforward.kernels import (
    PURPOSE_DIFFUSION,
    PURPOSE_INITIAL,
    PURPOSE_RESAMPLING,
    Draw,
    gather_rows,
    normal,
    resample,
)
from pushforward.solvers.particles import Genealogy


@st.composite
def histories(draw):
    """Sizes of populations that change, and steps with gaps, some of which do not resample."""
    requests, size = draw(st.integers(1, 3)), draw(st.integers(1, 9))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    genealogy, steps, step = Genealogy(requests, size), [], 0
    for _ in range(draw(st.integers(0, 6))):
        step += draw(st.integers(1, 3))
        if draw(st.booleans()):
            steps.append((step, size, None))
        else:
            new = draw(st.integers(1, 9))
            ancestors = torch.randint(size, (requests, new), generator=generator)
            steps.append((step, size, ancestors))
            size = new
        genealogy.record(step, steps[-1][2])
    return genealogy, steps


@given(histories())
@settings(max_examples=60)
def test_against_loops_over_slots(history):
    genealogy, steps = history
    assert genealogy.steps == [step for step, _, _ in steps]
    roots, unique = genealogy.roots(), genealogy.unique_roots()
    for request in range(genealogy.requests):
        lines = [(slot,) for slot in range(genealogy.particles)]
        for row, (step, size, ancestors) in enumerate(steps):
            parents = range(size) if ancestors is None else ancestors[request].tolist()
            assert genealogy.size(row) == size
            assert genealogy.unique_ancestors(step)[request] == len(set(parents))
            assert genealogy.max_children(step)[request] == max(Counter(parents).values())
            lines = [(*lines[parent], slot) for slot, parent in enumerate(parents)]
            assert unique[row, request] == len({line[0] for line in lines})
        assert [genealogy.lineage(slot, request) for slot in range(genealogy.size())] == lines
        assert roots[request].tolist() == [line[0] for line in lines]
    assert (unique.diff(dim=0) <= 0).all()
    assert unique.dtype == roots.dtype == torch.int64


def test_a_run_is_replayed_bit_for_bit_from_its_record():
    """Noise belongs to slots, so a lineage of slots is enough to make one particle's states again, alone."""
    requests, particles, steps = 2, 40, 9
    genealogy, key = Genealogy(requests, particles), {"seed": 5}

    def noise(purpose, step, rows=None):
        rows = torch.arange(requests * particles) if rows is None else rows
        return normal((len(rows), 3), **key, draw=Draw(purpose, step), samples=rows, dtype=torch.float64)

    def move(x, step, rows=None):
        return 0.7 * x + noise(PURPOSE_DIFFUSION, step, rows)

    x, log_weights = noise(PURPOSE_INITIAL, 0), torch.zeros(requests, particles, dtype=torch.float64)
    for step in range(steps):
        x = move(x, step)
        log_weights = log_weights + 0.3 * x.view(requests, particles, 3).sum(2)
        result = resample(log_weights, "ssp", **key, draw=Draw(PURPOSE_RESAMPLING, step))
        degenerate = bool((result.ess < particles / 2).any())
        if degenerate:
            x = gather_rows(x.view(requests, particles, 3), result.ancestors).reshape(-1, 3)
            log_weights = torch.zeros_like(log_weights)
        genealogy.record(step, result.ancestors if degenerate else None)
    assert 1 < len(genealogy.resampled) < steps

    again = noise(PURPOSE_INITIAL, 0)
    at = dict(zip(genealogy.resampled, genealogy.ancestors, strict=True))
    for step in range(steps):
        again = move(again, step)
        if step in at:
            again = gather_rows(again.view(requests, particles, 3), at[step].long()).reshape(-1, 3)
    assert torch.equal(again, x)

    for request, slot in ((0, 0), (1, 17), (1, 39)):
        rows = torch.tensor(genealogy.lineage(slot, request)) + request * particles
        alone = noise(PURPOSE_INITIAL, 0, rows[:1])
        for step in range(steps):
            alone = move(alone, step, rows[step : step + 1])
        assert torch.equal(alone[0], x[request * particles + slot])

    unique = genealogy.unique_roots()
    assert (unique.diff(dim=0) <= 0).all()
    assert (unique[-1] < particles).all()
    assert unique[-1].tolist() == [len(set(row)) for row in genealogy.roots().tolist()]


def test_a_million_particles_take_four_bytes_each():
    particles = 10**6
    genealogy = Genealogy(1, particles)
    for step in range(3):
        genealogy.record(step, torch.arange(particles) // 2)
    assert sum(ancestors.nbytes for ancestors in genealogy.ancestors) == 3 * 4 * particles
    assert torch.equal(genealogy.roots()[0], torch.arange(particles) // 8)
    assert genealogy.unique_roots()[:, 0].tolist() == [particles // 2, particles // 4, particles // 8]
    assert genealogy.max_children(2).tolist() == [2]


def test_a_record_is_a_copy_and_is_made_of_plain_parts():
    genealogy, ancestors = Genealogy(1, 3), torch.tensor([0, 0, 2])
    genealogy.record(4, ancestors)
    ancestors[0] = 2
    assert genealogy.ancestors[0].tolist() == [[0, 0, 2]]
    parts = asdict(genealogy)
    assert Genealogy(**parts).lineage(1) == (0, 1)
    assert {type(value) for value in parts.values()} == {int, list}
    assert repr(genealogy) == "Genealogy(requests=1, particles=3, steps=[4], resampled=[4])"


def test_wrong_arguments():
    with pytest.raises(errors.ArgumentError, match="particles: got 0"):
        Genealogy(1, 0)
    with pytest.raises(errors.ArgumentError, match="requests: got 0"):
        Genealogy(0, 1)
    genealogy = Genealogy(2, 3)
    genealogy.record(1, None)
    with pytest.raises(errors.ArgumentError, match="step: got 1, expected a step after 1"):
        genealogy.record(1, None)
    with pytest.raises(errors.ArgumentError, match="ancestors: got 0 to 3 at step 2, expected 0 to 2"):
        genealogy.record(2, torch.tensor([[0, 3], [1, 1]]))
    with pytest.raises(errors.ArgumentError, match="got -1 to 1"):
        genealogy.record(2, torch.tensor([[0, -1], [1, 1]]))
    with pytest.raises(errors.DtypeError, match="ancestors"):
        genealogy.record(2, torch.zeros(2, 3))
    for shape in ([3], [1, 3], [2, 0], [2, 3, 1]):
        with pytest.raises(errors.ShapeError, match="ancestors"):
            genealogy.record(2, torch.zeros(shape, dtype=torch.int64))
    assert genealogy.steps == [1]
    with pytest.raises(errors.ArgumentError, match="slot: got 3, expected 0 to 2"):
        genealogy.lineage(3)
    with pytest.raises(errors.ArgumentError, match="request: got 2, expected 0 to 1"):
        genealogy.lineage(0, 2)
    for method in (genealogy.unique_ancestors, genealogy.max_children):
        with pytest.raises(errors.ArgumentError, match=r"step: got 0, expected one of those recorded: \[1\]"):
            method(0)
