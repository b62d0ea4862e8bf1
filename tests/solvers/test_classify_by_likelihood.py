"""Classification by exact likelihood, against the densities of oracles."""

import pytest
import torch
from class_oracles import class_model

from pushforward.errors import ArgumentError, UnknownNameError
from pushforward.models import GaussianOracle, reference_mixture
from pushforward.models.noising import keyed_noise
from pushforward.solvers.likelihood import classify_by_likelihood

DOUBLE = torch.float64
X = torch.tensor([[0.3, 0.2], [-0.9, 0.4], [0.9, -0.8]], dtype=DOUBLE)


def two_classes():
    return [reference_mixture(), GaussianOracle([0.4, -0.2], [[0.5, 0.1], [0.1, 0.3]])]


@pytest.mark.parametrize("noise_ratio", [0.0, 0.5])
def test_densities_are_those_of_the_classes(noise_ratio):
    oracles = two_classes()
    model, labels = class_model(oracles, "velocity")
    found = classify_by_likelihood(model, X, labels, noise_ratio=noise_ratio, seed=3)
    t = 1 / (1 + noise_ratio)
    state = t * X + (1 - t) * keyed_noise(X, 3, 0, torch.arange(3))
    exact = torch.stack([oracle.log_prob(state, t) for oracle in oracles], dim=1)
    # tolerances of 1e-5 a step; the table of the page of likelihoods measures 4e-4 for the mixture at them
    assert (found.log_density - exact).abs().max() < 1e-3
    assert torch.equal(found.labels, exact.argmax(1))
    assert found.standard_error is None
    assert (found.nfe > 6).all()
    prior = torch.tensor([0.9, 0.1], dtype=DOUBLE).log()
    assert torch.equal(found.log_posterior(prior), (found.log_density + prior).log_softmax(1))


def test_probes_are_shared_by_candidates_and_belong_to_samples():
    model, _ = class_model(two_classes(), "velocity")
    run = {"divergence": "hutchinson", "probes": 2, "rtol": 1e-3, "atol": 1e-3, "noise_ratio": 0.1}
    twice = classify_by_likelihood(model, X, {"label": torch.tensor([0, 0, 1])}, **run)
    assert torch.equal(twice.log_density[:, 0], twice.log_density[:, 1])
    assert twice.standard_error is not None
    assert twice.standard_error.shape == twice.log_density.shape == (3, 3)
    order = torch.tensor([2, 0])
    alone = classify_by_likelihood(model, X[order], {"label": torch.arange(2)}, samples=order, max_rows=3, **run)
    assert (alone.log_density - twice.log_density[order][:, 1:]).abs().max() < 1e-9


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"noise_ratio": -1.0}, ArgumentError, "noise_ratio: got -1.0, expected a finite number of at least 0"),
        ({"guidance": 2.0}, UnknownNameError, "options: got 'guidance'"),
        ({"times": (1, 0)}, UnknownNameError, "options: got 'times'"),
        (
            {"condition": {"label": torch.tensor([0])}},
            ArgumentError,
            "condition: got 1 candidates, expected at least 2",
        ),
        ({"max_rows": 0}, ArgumentError, "max_rows: got 0"),
    ],
)
def test_bad_input(changes, error, said):
    model, labels = class_model(two_classes(), "velocity")
    given = {"condition": labels} | changes
    with pytest.raises(error, match=said):
        classify_by_likelihood(model, X, given.pop("condition"), **given)
