"""Transforms of clean estimates: thresholds and projections, alone and in runs; and what guidance in the plan costs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import pushforward as pf
from pushforward.errors import ArgumentError, ShapeError
from pushforward.models import (
    DynamicThreshold,
    GaussianOracle,
    KnownPixels,
    Projection,
    adapt,
    guided,
    reference_mixture,
)
from pushforward.models.adapters import from_lfm
from pushforward.solvers.plan.instructions import Combine, reads


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


X = 3 * normal(4, 2, 6, 5) * torch.tensor([0.1, 1.0, 2.0, 3.0])[:, None, None, None]


@pytest.mark.parametrize(("ratio", "floor", "cap"), [(0.995, 1.0, None), (0.9, 0.5, 2.0), (0.8, 1.0, 1.0)])
def test_thresholds_are_those_of_numpys_quantiles(ratio, floor, cap) -> None:
    threshold = DynamicThreshold(ratio, floor, cap)
    s = np.quantile(X.abs().flatten(1).numpy(), ratio, axis=1).clip(floor, cap)
    s = torch.from_numpy(s)[:, None, None, None]
    assert (threshold(X, 0.5) - X.clamp(-s, s) * floor / s).abs().max() < 1e-6
    order = torch.tensor([2, 0, 3, 1])
    assert torch.equal(threshold(X[order], 0.5), threshold(X, 0.5)[order])
    within = X / X.abs().max() * floor
    assert torch.equal(threshold(within, 0.5), within), "a sample within the range stays as it is"


def test_a_run_ends_with_the_thresholded_estimate() -> None:
    far = GaussianOracle([3.0, 0.2], [[4.0, 0.0], [0.0, 0.04]]).model("noise")
    threshold = DynamicThreshold(1.0)
    for solver in ("ddim", "dpmpp_2m"):
        ends = pf.sample(far, normal(6, 2), solver=solver, grid=[0.05, 0.3, 0.6, 0.8, 1.0], transform=threshold)
        assert ends.abs().max() <= 1 + 1e-15
        assert pf.sample(far, normal(6, 2), solver=solver, grid=[0.05, 0.3, 0.6, 0.8, 1.0]).abs().max() > 2
    for options, message in (
        ({"ratio": 0.0}, r"ratio: got 0.0, expected a share of elements in \(0, 1\]"),
        ({"ratio": 1.5}, "ratio: got 1.5"),
        ({"floor": 0.0}, "floor: got 0.0"),
        ({"cap": 0.5}, "cap: got 0.5, expected at least floor = 1.0"),
    ):
        with pytest.raises(ArgumentError, match=message):
            DynamicThreshold(**options)


def test_latents_are_not_thresholded_unless_one_insists() -> None:
    network = lambda x, t, y=None: 3 - x  # noqa: E731
    latents = (adapt(network, latent=True), from_lfm(network), pf.models.load("digits28-latent"))
    for model in latents:
        with pytest.raises(ArgumentError, match=r"transform: got a dynamic threshold of latents, .* force=True"):
            pf.sample(model, normal(2, 4, 7, 7), solver="euler", steps=2, transform=DynamicThreshold())
        clamp = lambda d, t: d.clamp(-1, 1)  # noqa: E731  # has no opinion on models
        assert pf.sample(latents[0], X, solver="euler", steps=2, transform=clamp).abs().max() <= 1
    assert guided(latents[0], 2.0).latent, "a wrapper's states are those of the model inside"
    force = DynamicThreshold(1.0, force=True)
    forced, pixels = (
        pf.sample(model, X, solver="euler", steps=2, transform=threshold)
        for model, threshold in ((latents[0], force), (adapt(network), DynamicThreshold(1.0)))
    )
    assert torch.equal(forced, pixels)


def smooth_network():
    weight = 0.2 * normal(1, 1, 3, 3, seed=5)
    return adapt(lambda x, t: torch.tanh(F.conv2d(x, weight, padding=1)) - x, "velocity")


@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m", "heun"])
def test_known_pixels_are_exact_at_the_end(solver) -> None:
    image, mask = normal(1, 1, 8, 8, seed=2), torch.arange(64).reshape(1, 1, 8, 8) % 3 == 0
    ends = pf.sample(
        smooth_network(), normal(2, 1, 8, 8), solver=solver, steps=6, transform=KnownPixels(mask, image), seed=3
    )
    assert torch.equal(ends[:, mask[0]], image.expand(2, -1, -1, -1)[:, mask[0]])
    assert not torch.equal(ends[0], ends[1])
    with pytest.raises(ArgumentError, match=r"known: got torch.float64, expected a bool mask"):
        KnownPixels(image, image)
    with pytest.raises(ShapeError, match="known"):
        KnownPixels(mask, image[..., :5])


def test_linear_conditions_hold_at_the_end() -> None:
    target = normal(2, 1, 4, 4, seed=4)
    model = smooth_network()
    ends = pf.sample(model, normal(2, 1, 8, 8), solver="ddim", steps=5, transform=Projection.pooled(target, 2))
    assert (F.avg_pool2d(ends, 2) - target).abs().max() < 1e-12
    matrix = normal(2, 4, seed=6)
    inverse = torch.linalg.pinv(matrix)
    y = torch.tensor([[1.0, -0.5]], dtype=torch.float64)
    measured = Projection(lambda x: x @ matrix.T, lambda y: y @ inverse.T, y)
    spread = normal(4, 4, seed=7)
    oracle = GaussianOracle([0.0] * 4, spread @ spread.T + 0.1 * torch.eye(4))
    ends = pf.sample(oracle.model(), normal(3, 4), solver="ddim", steps=8, transform=measured)
    assert (ends @ matrix.T - y).abs().max() < 1e-6


def test_conditions_on_disjoint_pixels_commute() -> None:
    image = normal(1, 1, 8, 8, seed=2)
    left = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    left[..., :4] = True
    pair = KnownPixels(left, image), KnownPixels(left.flip(-1) & (torch.arange(8)[:, None] > 3), -image)

    def run(first, second):
        both = lambda d, t: second(first(d, t), t)  # noqa: E731
        return pf.sample(smooth_network(), normal(2, 1, 8, 8), solver="ddim", steps=4, transform=both)

    assert torch.equal(run(*pair), run(*pair[::-1]))


def test_repeated_steps_bring_what_is_made_up_into_line_with_what_is_known() -> None:
    """Normals of correlation 0.8, the first known to be 1.5, so that the other has the mean 1.2.

    A mean of 300 is known to 0.04; measured in twenty steps with 4,000 samples: 0.50 and 0.16 from 1.2.
    """
    oracle = GaussianOracle([0.0, 0.0], [[1.0, 0.8], [0.8, 1.0]], "vp")
    known = KnownPixels(torch.tensor([[True, False]]), torch.tensor([[1.5, 0.0]], dtype=torch.float64))
    off = [
        1.2 - pf.sample(oracle.model(), normal(300, 2), solver=solver, steps=20, transform=known)[:, 1].mean()
        for solver in (pf.solver("ddim", eta=1.0, repeats=repeats) for repeats in (1, 8))
    ]
    assert off[0] > 0.3
    assert off[1] < 0.6 * off[0]


def test_an_inverse_that_is_none_is_refused() -> None:
    with pytest.raises(ArgumentError, match=r"inverse: got a relative difference of 0.5, .* is not consistent"):
        Projection(lambda x: x[:, :1], lambda y: torch.cat([y, 0 * y], 1) / 2, torch.ones(1, 1))
    with pytest.raises(ArgumentError, match="factor: got 1"):
        Projection.pooled(torch.ones(1, 1, 4, 4), 1)


@pytest.mark.parametrize("solver", ["euler", "ddim", "dpmpp_2m", "unipc", "ab2", "heun", "rk4"])
def test_guidance_in_the_plan_costs_no_pass_and_reads_the_second_output_with_the_first(solver) -> None:
    plain, both = (pf.make_plan(reference_mixture().model(), solver=solver, steps=10, guidance=w) for w in (1.0, 3.0))
    shape, size = (4, 64, 64), 4 * 64 * 64 * 4
    ours, theirs = both.cost(shape, torch.float32), plain.cost(shape, torch.float32)
    assert ours.passes == theirs.passes
    assert (ours.network_calls, ours.forward_passes) == (theirs.network_calls, 2 * theirs.forward_passes)
    outputs = {out for evaluation in plain.evaluations for out in evaluation.outs}
    read = [r for i in plain.instructions if isinstance(i, Combine) for r in reads(i) if r in outputs]
    assert ours.bytes_moved - theirs.bytes_moved == size * len(read)
    if solver in ("euler", "ddim", "dpmpp_2m"):
        assert len(read) == 10, "one a step"
