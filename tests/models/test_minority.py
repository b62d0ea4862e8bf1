"""Scores and levels of rarity, and guidance towards the rare, on a mixture of a common and a rare component."""

import math

import pytest
import torch
from scipy.stats import spearmanr

import pushforward as pf
from pushforward.errors import ArgumentError, DtypeError, NotFiniteError, ShapeError
from pushforward.models import (
    GaussianOracle,
    GradientGuidance,
    MinorityEnergy,
    MixtureOracle,
    ModelField,
    adapt,
    interpolant,
    minority_guided,
)
from pushforward.models.minority import minority_edges, minority_labels, minority_score, squared_error

DOUBLE = torch.float64


def rare_and_common(path="linear"):
    return MixtureOracle([0.95, 0.05], [[-1.0, 0.0], [1.0, 0.0]], 0.09, path)


# --- the score -------------------------------------------------------------------------------------------------------


def test_scores_tell_the_rare_from_the_common():
    """B2, at alpha^2 = .9, .5, .2, .05 of a variance-preserving path: score ratio, and correlation with -log p.

    Measured: 1.6, 10.5, 17.2, 19.7 and .74, .88, .92, .94; about 100 rare points make a ratio uncertain by a tenth.
    """
    oracle = rare_and_common("vp")
    x = oracle.sample(2000, seed=1)
    rare = oracle.responsibilities(x, 1.0)[:, 1] > 0.5
    ratios, correlations = [], []
    for level in (0.9, 0.5, 0.2, 0.05):
        t = oracle.interpolant.time_at_noise_ratio(math.sqrt((1 - level) / level))
        score = minority_score(oracle.model(), x, t, max_rows=2000)
        ratios.append(float(score[rare].mean() / score[~rare].mean()))
        correlations.append(spearmanr(score, -oracle.log_prob(x)).statistic)
    assert ratios == pytest.approx([1.5, 9.8, 16.5, 19.0], rel=0.3)
    assert correlations == pytest.approx([0.71, 0.87, 0.92, 0.94], abs=0.05)
    assert ratios[2] > 5
    assert correlations[2] > 0.8


def test_a_score_is_that_of_its_sample_and_of_nothing_else():
    oracle = rare_and_common()
    x, model = oracle.sample(7, seed=2), oracle.model("noise")
    whole = minority_score(model, x, 0.4)
    assert whole.dtype == DOUBLE
    assert torch.equal(minority_score(model, x, 0.4, max_rows=3), whole)
    order = torch.tensor([5, 1])
    assert torch.equal(minority_score(model, x[order], 0.4, samples=order), whole[order])
    parts = [minority_score(model, x, 0.4, draws=n) * n for n in (1, 2)]
    assert (parts[1] > parts[0]).all(), "draws are added, and none is drawn twice"
    assert not torch.equal(minority_score(model, x, 0.4, seed=1), whole)
    other = minority_score(oracle.model("velocity"), x, 0.4)
    assert (other - whole).abs().max() < 1e-12


def test_distance_condition_and_bounds_are_used():
    model = adapt(lambda x, t, level: level[:, None] + 0 * x, "denoised", "linear")
    x, condition = torch.zeros(2, 3), {"level": torch.tensor([0.5, 4.0])}
    assert minority_score(model, x, 0.5, condition=condition).tolist() == [0.25, 16.0]
    assert minority_score(model, x, 0.5, condition=condition, max_rows=1).tolist() == [0.25, 16.0]
    assert minority_score(model, x, 0.5, condition=condition, clip=(-1.0, 1.0)).tolist() == [0.25, 1.0]
    largest = minority_score(model, x, 0.5, condition=condition, distance=lambda x, y: (x - y).abs().amax(1))
    assert largest.tolist() == [0.5, 4.0]
    half = squared_error(torch.full((1, 3), 200.0, dtype=torch.float16), torch.zeros(1, 3, dtype=torch.float16))
    assert half.tolist() == [40000.0]


# --- levels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "bins"), [(2, 2), (12, 4), (100, 100), (103, 7), (4500, 100)])
def test_levels_hold_equally_many_scores(count, bins):
    scores = torch.randperm(count, generator=torch.Generator().manual_seed(0)).double()
    labels = minority_labels(scores, bins)
    sizes = labels.bincount(minlength=bins)
    assert int(sizes.max() - sizes.min()) <= (count % bins > 0)
    assert (labels[scores.argsort()].diff() >= 0).all()
    assert torch.equal(minority_labels(scores, minority_edges(scores, bins)), labels)


def test_equal_scores_share_a_level_and_an_edge_belongs_below():
    scores = torch.tensor([1.0, 2.0, 2.0, 2.0, 3.0, 3.0, 4.0, 5.0])
    labels = minority_labels(scores, 2)
    assert minority_edges(scores, 2).tolist() == [2.0]
    assert labels.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    with pytest.raises(ArgumentError, match="scores: got no score in bin 1: 5 of 8 scores are distinct"):
        minority_labels(scores, 4)


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda s: minority_edges(s, 1), ArgumentError, "bins: got 1, expected an integer of at least 2"),
        (lambda s: minority_edges(s, 2.0), ArgumentError, "bins: got 2.0"),
        (lambda s: minority_edges(s, 5), ArgumentError, "bins: got 5, expected at most 4, the number of scores"),
        (lambda s: minority_labels(s[None], 2), ShapeError, "scores: got torch.float32 .1, 4."),
        (lambda s: minority_labels(s.long(), 2), ShapeError, "scores: got torch.int64 .4., expected floating-point"),
        (lambda s: minority_labels(s / 0, 2), NotFiniteError, "scores: got nan for sample 0"),
        (lambda s: minority_labels(s, torch.tensor([2.0, 1.0])), ArgumentError, "edges: got .2.0, 1.0., expected numb"),
    ],
)
def test_bad_scores(call, error, said):
    with pytest.raises(error, match=said):
        call(torch.arange(4.0))


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"draws": 0}, ArgumentError, "draws: got 0, expected an integer of at least 1"),
        ({"t": 1.0}, ArgumentError, "t: got 1.0, expected 0 < t < 1"),
        ({"clip": (1.0, -1.0)}, ArgumentError, "clip: got"),
        (
            {"distance": lambda x, y: x - y},
            ShapeError,
            "distance: got .3, 2., expected .3., one number for each sample",
        ),
        ({"distance": lambda x, y: 1.0}, ShapeError, "distance: got float, expected .3."),
        ({"distance": lambda x, y: (x - y)[:, 0] / 0}, NotFiniteError, "distance: got .* for sample 0"),
        ({"data": torch.zeros(3, 2, dtype=torch.int32)}, DtypeError, "data: got torch.int32"),
        ({"model": rare_and_common()}, ArgumentError, "model: got MixtureOracle, expected a Model"),
    ],
)
def test_bad_input(changes, error, said):
    given = {"model": rare_and_common().model(), "data": torch.ones(3, 2), "t": 0.3} | changes
    with pytest.raises(error, match=said):
        minority_score(given.pop("model"), given.pop("data"), given.pop("t"), **given)


# --- guidance --------------------------------------------------------------------------------------------------------


def exact_classifier(oracle):
    """Logits of p(component | x_t): the mixture's own responsibilities."""
    return lambda x, t: oracle.responsibilities(x, t).log()


@pytest.mark.parametrize(("path", "kind"), [("linear", "velocity"), ("vp", "noise"), ("vp", "v"), ("edm", "edm")])
def test_guided_by_the_exact_classifier_a_mixture_is_its_component(path, kind):
    """w = 1: the score of the component, in every dialect, for one time and for a time each; and its derivative."""
    oracle, component = rare_and_common(path), GaussianOracle([1.0, 0.0], [[0.09, 0.0], [0.0, 0.09]], path)
    model = minority_guided(oracle.model(kind), exact_classifier(oracle), start=0.0)
    middle = interpolant(path).time_at_noise_ratio(1.0)
    x = component.sample(4, seed=3, t=middle).requires_grad_()
    for times in (middle, [middle, 0.3, middle, 0.6]):
        t = torch.as_tensor(times, dtype=DOUBLE)
        found = ModelField(model, quantity="denoised")(x, times)
        exact = component.denoised(x, t)
        assert (found - exact).abs().max() < 1e-9 * (1 + exact.abs().max())
    slopes = [torch.autograd.grad(value.square().sum(), x)[0] for value in (found, exact)]
    assert (slopes[0] - slopes[1]).abs().max() < 1e-8 * (1 + slopes[1].abs().max())


def test_scale_start_level_and_path():
    oracle = rare_and_common()
    component = GaussianOracle([1.0, 0.0], [[0.09, 0.0], [0.0, 0.09]])
    told = []

    def classifier(x, t):
        told.append(t.clone())
        return exact_classifier(oracle)(x, t)

    x, plain = component.sample(3, seed=4, t=0.5), oracle.model()
    unguided = plain.evaluate(x, 0.5)[0]
    for off in ({"scale": 0.0}, {"start": 0.6}, {"scale": lambda t: float(t > 0.5)}):
        found = minority_guided(plain, classifier, **off).evaluate(x, 0.5)[0]
        assert torch.equal(found, unguided)
    assert not told, "no backward pass where nothing is added"
    common = minority_guided(plain, classifier, level=0, scale=2.0).evaluate(x, 0.5)[0]
    halves = [oracle.score(x, 0.5), GaussianOracle([-1.0, 0.0], [[0.09, 0.0], [0.0, 0.09]]).score(x, 0.5)]
    # v = a'/a x + W sigma / a s, and W sigma / a = 1 on the linear path at t = 1/2
    assert (common - unguided - 2.0 * (halves[1] - halves[0])).abs().max() < 1e-9
    # at equal noise ratio the states of two paths are multiples, and the clean estimate is the same function of them
    there = interpolant("trigonometric")
    t = there.time_at_noise_ratio(1.0)
    moved = minority_guided(plain, classifier).on("trigonometric")
    clean = ModelField(moved, quantity="denoised")(there.alpha(t) / 0.5 * x, t)
    assert (clean - component.denoised(x, 0.5)).abs().max() < 1e-9
    assert told[-1].tolist() == pytest.approx([0.5] * 3, abs=1e-15)


def test_guidance_draws_the_rare():
    """B2: shares of rare samples and mean -log p, of 1000 samples; 5 % err by 0.7 % and the means by 0.02 to 0.1."""
    oracle = rare_and_common()
    shares, surprises = [], []
    for scale in (0.0, 1.0, 3.5):
        model = minority_guided(oracle.model(), exact_classifier(oracle), scale=scale, start=0.0)
        x = pf.sample(model, (1000, 2), solver="heun", steps=24, dtype=DOUBLE)
        shares.append(float((oracle.responsibilities(x, 1.0)[:, 1] > 0.5).double().mean()))
        surprises.append(float(-oracle.log_prob(x).mean()))
    assert shares[0] == pytest.approx(0.05, abs=0.03)
    assert shares[1] > 0.99
    assert shares[2] > 0.99
    assert surprises == pytest.approx([0.62, 3.41, 6.54], rel=0.1)


def test_the_classifier_gets_the_condition_of_the_run_row_by_row():
    told = []

    def classifier(x, t, label):
        told.append((label.tolist(), t.dtype))
        return x[:, :2] * label[:, None]

    model = minority_guided(adapt(lambda x, t, label: x, "velocity"), classifier)
    with torch.inference_mode():
        pf.sample(model, (3, 2), solver="euler", steps=2, condition={"label": torch.tensor([4])}, seed=1)
        pf.sample(model, (2, 2), solver="euler", steps=2, condition={"label": torch.tensor([1, 2])}, seed=1)
    assert told == [([4, 4, 4], torch.float32), ([1, 2], torch.float32)], "the first of two steps is at t = 0"


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"classifier": 3}, ArgumentError, "classifier: got int, expected a function"),
        ({"scale": float("nan")}, ArgumentError, "scale: got nan"),
        ({"start": 2.0}, ArgumentError, "start: got 2.0, expected a time in .0, 1."),
        ({"classifier": lambda x, t: x[:, 0]}, ShapeError, "logits: got .2., expected .2, K."),
        ({"level": 5}, ArgumentError, "level: got 5, expected one of the 2 levels"),
        (
            {"classifier": lambda x, t: x.detach()},
            ArgumentError,
            "objective: got .*it does not depend.*detached",
        ),
        (
            {"classifier": lambda x, t: (x - x.detach()).sqrt()},
            NotFiniteError,
            "gradient: got NaN or infinity in 100% of the samples at t = 0.5",
        ),
    ],
)
def test_bad_guidance(options, error, said):
    with pytest.raises(error, match=said):
        minority_guided(rare_and_common().model(), **{"classifier": lambda x, t: x} | options).evaluate(
            torch.ones(2, 2, dtype=DOUBLE), 0.5
        )


# --- guidance by the model's own score -------------------------------------------------------------------------------


def test_the_energy_is_the_score_and_rows_are_as_alone():
    oracle = rare_and_common("vp")
    x, ids = oracle.sample(4, seed=2), torch.tensor([7, 3, 0, 5])
    energy = MinorityEnergy(oracle.model("noise"), 0.4, draws=3, seed=1)
    score = minority_score(oracle.model(), x, 0.4, draws=3, seed=1, samples=ids)
    assert (energy(x, 0.9, samples=ids) - score).abs().max() < 1e-12
    guided = GradientGuidance.around(oracle.model(), log_likelihood=energy, observed={"samples": ids})
    whole, alone = guided.bind().evaluate(x, 0.3)[0], guided.bind().select([2]).evaluate(x[2:3], 0.3)[0]
    assert (whole[2:3] - alone).abs().max() < 1e-12
    levels = MinorityEnergy(adapt(lambda x, t, level: level[:, None] + 0 * x, "denoised", "linear"), 0.5)
    assert levels(torch.zeros(2, 3), 0.5, level=torch.tensor([0.5, 4.0])).tolist() == [0.25, 16.0]


def test_self_guidance_draws_the_rare_without_a_classifier():
    """Of 400 samples 5, 13 and 23 % are of the rare component, which is one in twenty; their scores rise too."""
    oracle = rare_and_common("vp")
    model, t = oracle.model("noise"), oracle.interpolant.time_at_noise_ratio(2.0)
    x = torch.randn(300, 2, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    shares, scores = [], []
    for scale in (0.0, 3.0, 10.0):
        guided = GradientGuidance.around(model, log_likelihood=MinorityEnergy(model, t), scale=scale)
        ends = pf.sample(guided, x, solver="heun", grid=[0.001 + 0.998 * k / 40 for k in range(41)])
        shares.append((oracle.responsibilities(ends, 1.0)[:, 1] > 0.5).double().mean())
        scores.append(minority_score(model, ends, t, max_rows=300).mean())
    assert shares[0] < shares[1] < shares[2]
    assert shares[2] > 3 * shares[0]
    assert scores[0] < scores[1] < scores[2]


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"t": 1.0}, ArgumentError, "t: got 1.0, expected 0 < t < 1"),
        ({"draws": 0}, ArgumentError, "draws: got 0"),
        ({"model": None}, ArgumentError, "model: got NoneType"),
        ({"distance": lambda x, y: (x - y).square().mean()}, ShapeError, r"distance: got \[\], expected \[2\]"),
    ],
)
def test_bad_energies(options, error, said):
    with pytest.raises(error, match=said):
        MinorityEnergy(**{"model": rare_and_common().model(), "t": 0.4} | options)(torch.zeros(2, 2), 0.5)
