"""The diffusion classifier against exact likelihoods, its counts, and that nothing hangs on the batch."""

import math

import numpy as np
import pytest
import torch
from class_oracles import class_model

from pushforward.errors import ArgumentError, DtypeError, NotFiniteError, ShapeError, UnknownNameError
from pushforward.models import GaussianOracle, Linear, MixtureOracle, adapt, interpolant, pfgm, reference_mixture
from pushforward.models.classification import PAPER_STAGES, Stages, classify, denoising_errors, nested_times
from pushforward.models.classification.grid import bit_reversed

PATHS = ("linear", "vp", "edm")
DOUBLE = torch.float64


def three_classes(path="linear"):
    """A mixture, a Gaussian that overlaps it, and another mixture, in the plane."""
    return [
        reference_mixture(path),
        GaussianOracle([0.4, -0.2], [[0.5, 0.1], [0.1, 0.3]], path),
        MixtureOracle([0.5, 0.5], [[0.8, 0.8], [-0.8, -0.4]], 0.3, path),
    ]


# --- the likelihood --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["linear", "edm"])
def test_the_integral_over_the_half_log_snr_is_the_log_likelihood(path):
    """F3 (i). 256 copies of a point have noise of their own: their mean errs by their spread / 16."""
    oracles, copies = three_classes(path), 256
    model, labels = class_model(oracles)
    point = torch.tensor([[-0.4, 0.4]], dtype=DOUBLE)
    low, high = math.exp(-5), math.exp(4)
    options = {"noise_range": (low, high), "max_rows": 3 * copies}
    found = classify(model, point.expand(copies, 2), labels, stages=96, weight="ell", **options)
    exact = torch.cat([oracle.log_prob(point) for oracle in oracles])
    for other in (1, 2):
        gap = found.scores[:, 0] - found.scores[:, other]
        error = float(gap.std()) / math.sqrt(copies)
        assert error < 0.05
        # beyond the range the integrand falls like nu^2 and 1 / nu^2 times squared scores and moments, all below 10
        allowed = 4 * error + 10 * (low**2 + high**-2)
        assert float(gap.mean()) == pytest.approx(float(exact[0] - exact[other]), abs=allowed)
    assert torch.equal(found.labels, found.scores.argmax(1))
    prior = torch.tensor([0.2, 0.5, 0.3], dtype=DOUBLE).log()
    assert torch.equal(found.log_posterior(prior), (found.scores + prior).log_softmax(1))
    assert float(found.log_posterior().exp().sum(1).sub(1).abs().max()) < 1e-12


def test_shared_noise_is_worth_many_pairs():
    r"""F3 (ii): the variance of a difference with independent noise over that with shared noise, N(m, s^2) classes.

    With a = alpha^2 s^2 / nu^2, k = sigma alpha / nu^2 and nu^2 = alpha^2 s^2 + sigma^2, an error is
    (a eps - k (x - m))^2; their variances are sums of 2 a^4 + 4 a^2 k^2 (x - m)^2, and that of a difference is the sum
    of 4 a^2 k^2 (m - m')^2. A quotient of variances of 1000 draws errs by 2 sqrt(2 / 1000) = 9 %, twice that
    one time in twenty.
    """
    spread, x, means = 0.5, -0.5, [0.0, 1.0, 0.5, 0.2]
    model, labels = class_model([GaussianOracle([m], [[spread**2]]) for m in means])
    times, _ = nested_times(Linear(), 64)
    points = torch.full((1000, 1), x, dtype=DOUBLE)
    one, two = (denoising_errors(model, points, labels, times, seed=seed, max_rows=4000).mean(2) for seed in (0, 1))
    scale = (times * spread) ** 2 + (1 - times) ** 2
    a, k = (times * spread) ** 2 / scale, times * (1 - times) / scale
    ratios = []
    for other in (1, 2, 3):
        exact = (a**4).sum() / (a * k).dot(a * k) + x**2 + (x - means[other]) ** 2
        ratio = float((one[:, 0] - two[:, other]).var() / (one[:, 0] - one[:, other]).var())
        assert ratio == pytest.approx(exact / means[other] ** 2, rel=0.3)
        ratios.append(ratio)
    assert ratios[1] > 10, "the specification's line, at means that differ by one standard deviation"


# --- the errors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "kind"),
    [("linear", "velocity"), ("linear", "denoised"), ("vp", "noise"), ("vp", "v"), ("edm", "edm"), ("edm", "score")],
)
def test_errors_do_not_depend_on_the_dialect_nor_on_the_rows_of_a_call(path, kind):
    oracles, x = three_classes(path), torch.tensor([[0.3, 0.2], [-0.9, 0.4], [0.0, 1.0]], dtype=DOUBLE)
    times = nested_times(interpolant(path), 5)[0]
    noise, labels = class_model(oracles)
    exact = denoising_errors(noise, x, labels, times)
    model, _ = class_model(oracles, kind)
    # a conversion divides by sigma or alpha at most twice; both are above 0.05 at these times but for EDM's
    assert (denoising_errors(model, x, labels, times) - exact).abs().max() < 1e-9 * (1 + exact.max())
    for rows in (1, 7):
        assert torch.equal(denoising_errors(noise, x, labels, times, max_rows=rows), exact)
    alone = denoising_errors(
        noise,
        x[2:],
        labels,
        times[3:4],
        draws=[3],
        candidates=torch.tensor([[2, 0]]),
        samples=torch.tensor([2]),
    )
    assert torch.equal(alone[0, :, 0], exact[2, [2, 0], 3])
    absolute = denoising_errors(noise, x, labels, times, loss="l1")
    assert (absolute.square() <= exact * (1 + 1e-12)).all()
    assert (absolute > 0).all()


def test_errors_are_those_of_the_definition():
    seen = []

    def spy(x, time, label):
        seen.append((x.clone(), time, label))
        return torch.zeros_like(x)

    blind = adapt(spy, "noise", "linear", time="t")
    x = torch.tensor([[3.0, 4.0]])
    errors = denoising_errors(blind, x, {"label": torch.arange(2)}, [0.25, 0.5])
    state, time, label = seen[0]
    assert label.tolist() == [0, 1, 0, 1]
    assert time.tolist() == [0.25, 0.25, 0.5, 0.5]
    noise = (state - time[:, None] * x) / (1 - time[:, None])
    assert errors.dtype == torch.float32
    torch.testing.assert_close(errors[0].T.flatten(), noise.square().mean(1), rtol=1e-6, atol=0)
    assert torch.equal(state[0], state[1]), "candidates share the noise"
    assert not torch.equal(noise[0], noise[2])


def test_a_network_of_one_time_gets_one_time():
    model, labels = class_model(three_classes())
    times, x = [0.2, 0.6], torch.zeros(2, 2, dtype=DOUBLE)
    shapes = []

    def single(x, time, label):
        shapes.append((tuple(time.shape), len(x)))
        return model.network(x, time, label)

    one = adapt(single, "noise", "linear", time_shape="scalar", time_dtype=DOUBLE, time="t")
    assert torch.equal(denoising_errors(one, x, labels, times), denoising_errors(model, x, labels, times))
    assert shapes == [((), 6), ((), 6)]


# --- stages ----------------------------------------------------------------------------------------------------------


def redrawn(stages, classes):
    """Evaluations of the authors' code: every stage takes each n_max / n-th time, less those that were seen."""
    most, seen, total, left = max(stages.pairs), set(), 0, classes
    for pairs, keep in zip(stages.pairs, stages.keep, strict=True):
        stride = most // pairs
        new = set(range(stride // 2, most, stride)) - seen
        seen |= new
        total, left = total + left * len(new), keep
    return total


def test_nested_grids_cost_less_than_redrawn_ones():
    """F3 (iii)."""
    stages = PAPER_STAGES["imagenet"]
    assert stages.evaluations(1000) == 100_000
    assert redrawn(stages, 1000) == 124_500
    assert stages.without_pruning.evaluations(1000) == 1_000_000
    for name, classes in (("objectnet", 113), ("food", 101), ("cifar10", 10), ("pets", 37), ("stl10", 10)):
        assert PAPER_STAGES[name].evaluations(classes) <= redrawn(PAPER_STAGES[name], classes)


def test_pruning_looks_at_the_same_pairs_and_at_fewer():
    model, labels = class_model(three_classes())
    x, stages = torch.tensor([[0.3, 0.2], [-0.9, 0.4], [2.0, 1.0]], dtype=DOUBLE), Stages((3, 8), (2, 1))
    found = classify(model, x, labels, stages=stages, seed=5)
    assert found.evaluations == stages.evaluations(3) == 3 * 3 + 2 * 5
    assert model.network.rows == 3 * found.evaluations
    whole = denoising_errors(model, x, labels, nested_times(Linear(), 8)[0], seed=5)
    for sample in range(3):
        first = whole[sample, :, :3].mean(1)
        worst = int(first.argmax())
        assert found.pairs[sample].tolist() == [3 if c == worst else 8 for c in range(3)]
        kept = whole[sample].mean(1)
        expected = torch.where(torch.arange(3) == worst, first, kept)
        torch.testing.assert_close(found.errors[sample], expected, rtol=1e-13, atol=0)
        assert found.scores[sample, worst] == -torch.inf
        assert int(found.labels[sample]) == int(kept.masked_fill(torch.arange(3) == worst, torch.inf).argmin())
    again = [
        classify(model, x[i : i + 1], labels, stages=stages, seed=5, samples=torch.tensor([i]), max_rows=4)
        for i in range(3)
    ]
    assert torch.equal(torch.cat([one.errors for one in again]), found.errors)
    assert torch.equal(torch.cat([one.labels for one in again]), found.labels)


def test_weights_multiply_the_errors_and_ties_go_to_the_first():
    model, labels = class_model(three_classes())
    x = torch.tensor([[0.3, 0.2]], dtype=DOUBLE)
    found = classify(model, x, labels, stages=6, weight=lambda t: 1 / t)
    times = nested_times(Linear(), 6)[0]
    expected = (denoising_errors(model, x, labels, times) / torch.from_numpy(times)).mean(2)
    torch.testing.assert_close(found.errors, expected, rtol=1e-13, atol=0)
    same = classify(model, x, {"label": torch.tensor([1, 1, 1])}, stages=[(2, 2), (4, 1)])
    assert same.labels.tolist() == [0]


@pytest.mark.parametrize("count", [1, 2, 3, 8, 60, 1000])
def test_beginnings_of_the_list_of_times_are_spread_out(count):
    order = bit_reversed(count)
    assert sorted(order) == list(range(count))
    size = 1 << max(count - 1, 0).bit_length()
    for part in (2**k for k in range(1, 10) if 2**k <= size):
        cells = order[order < count][
            : sum(1 for i in range(part) if int(f"{i:0{size.bit_length() - 1}b}"[::-1], 2) < count)
        ]
        assert len(set(cells // (size // part))) == len(cells), "two of a beginning in one cell"


@pytest.mark.parametrize("path", PATHS)
def test_times_are_midpoints_within_the_range(path):
    path = interpolant(path)
    times, width = nested_times(path, 8, noise_range=(0.1, 10.0))
    first, last = path.time_at_noise_ratio(10.0), path.time_at_noise_ratio(0.1)
    assert width == pytest.approx(last - first)
    assert np.sort(times) == pytest.approx(first + width * (np.arange(8) + 0.5) / 8)
    times, width = nested_times(path, 8, spacing="half_log_snr", noise_range=(0.1, 10.0))
    levels = sorted(path.half_log_snr(t) for t in times)
    assert width == pytest.approx(2 * math.log(10))
    assert levels == pytest.approx([-math.log(10) + width * (k + 0.5) / 8 for k in range(8)])


# --- what is refused -------------------------------------------------------------------------------------------------


def run(**changes):
    model, labels = class_model(three_classes())
    given = {"model": model, "x": torch.zeros(2, 2, dtype=DOUBLE), "condition": labels, "stages": 4} | changes
    return classify(given.pop("model"), given.pop("x"), given.pop("condition"), **given)


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"stages": [(4, 2), (4, 1)]}, ArgumentError, "pairs of stage 2: got 4, expected more than 4"),
        ({"stages": [(4, 2), (8, 2)]}, ArgumentError, "keep of stage 2: got 2, expected at least 1 and fewer than 2"),
        ({"stages": [(4, 0)]}, ArgumentError, "keep of stage 1: got 0, expected at least 1"),
        ({"stages": [(4, 3), (8, 1)]}, ArgumentError, "keep of stage 1: got 3, expected fewer than the 3 candidates"),
        ({"stages": [(4.5, 1)]}, ArgumentError, "pairs of stage 1: got 4.5, expected an integer"),
        ({"stages": []}, ArgumentError, "stages: got 0 numbers of pairs"),
        ({"stages": "many"}, ArgumentError, "stages: got 'many', expected Stages, a number of pairs"),
        (
            {"condition": {"label": torch.tensor([1])}},
            ArgumentError,
            "condition: got 1 candidates, expected at least 2",
        ),
        ({"condition": {}}, ArgumentError, "condition: got 0 candidates"),
        (
            {"condition": {"label": torch.arange(3), "style": torch.zeros(2, 4)}},
            ShapeError,
            "condition 'style': got 2 candidates, expected 3",
        ),
        ({"weight": "snr"}, UnknownNameError, "weight: got 'snr', expected 'uniform', 'ell' or a function"),
        ({"weight": lambda t: 0.5 - t}, ArgumentError, r"weight: got -0.125 at t = 0.625, expected a finite number"),
        ({"loss": "huber"}, UnknownNameError, "loss: got 'huber', expected 'l2' or 'l1'"),
        ({"loss": "l1", "weight": "ell"}, ArgumentError, "loss: got 'l1', expected 'l2': only squared errors"),
        ({"noise_range": (2.0, 1.0)}, ArgumentError, "noise_range: got .2.0, 1.0., expected 0 <= low < high"),
        ({"noise_range": (0.0, 1.0), "weight": "ell"}, ArgumentError, "expected 0 < low < high < inf"),
        ({"max_rows": 0}, ArgumentError, "max_rows: got 0"),
        ({"x": torch.zeros(2, 2, dtype=torch.int64)}, DtypeError, "x: got torch.int64"),
        ({"x": torch.zeros(2)}, ShapeError, "x: got .2., expected .B, "),
        ({"samples": torch.arange(3)}, ShapeError, "samples: got .3., expected .2., one id for each row of x"),
        ({"samples": torch.zeros(2)}, DtypeError, "samples: got torch.float32"),
        ({"model": three_classes()[0]}, ArgumentError, "model: got MixtureOracle, expected a Model"),
        (
            {"model": pfgm(adapt(lambda x, t: x, "denoised", "ve"), 128)},
            ArgumentError,
            "expected a path from Gaussian noise",
        ),
        (
            {"model": adapt(lambda x, t, label: x / 0 * label[:, None], "noise")},
            NotFiniteError,
            "denoising error: got nan for sample 0, candidate 0, t = 0.125",
        ),
    ],
)
def test_bad_input(changes, error, said):
    with pytest.raises(error, match=said):
        run(**changes)


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"draws": [0]}, ArgumentError, "draws: got 1 numbers, expected 2, one for each time"),
        ({"times": [0.5, 1.5]}, ArgumentError, "t: got 1.5"),
        ({"candidates": torch.tensor([[0, 3]])}, ArgumentError, "candidates: got 3, expected rows of the condition"),
        ({"candidates": torch.tensor([0, 1])}, ShapeError, "candidates: got .2., expected .1, K."),
        ({"candidates": torch.zeros(1, 2)}, DtypeError, "candidates: got torch.float32"),
    ],
)
def test_bad_input_of_errors(changes, error, said):
    model, labels = class_model(three_classes())
    given = {"times": [0.2, 0.4]} | changes
    with pytest.raises(error, match=said):
        denoising_errors(model, torch.zeros(1, 2, dtype=DOUBLE), labels, given.pop("times"), **given)


def test_a_stage_of_two_candidates_keeps_one():
    assert Stages((4,), (1,)).evaluations(2) == 8
    with pytest.raises(ArgumentError, match="candidates: got 1, expected at least 2"):
        Stages((4,), (1,)).evaluations(1)
