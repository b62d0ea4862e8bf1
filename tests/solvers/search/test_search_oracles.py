"""The search problems of the tests against their definitions."""

import math

import pytest
import torch
from search_oracles import SignPattern, counted, gaussian_line, sign_denoiser, three_modes

from pushforward.models import MixtureOracle

DOUBLE = torch.float64


def test_the_targets_are_as_worked_out_by_hand():
    line, modes = gaussian_line(), three_modes()
    assert line.log_evidence == pytest.approx(5.625, abs=1e-14)
    assert line.tilted.means.item() == pytest.approx(2.25, abs=1e-14)
    assert line.tilted.expected_reward == 2.25
    assert modes.tilted.weights.tolist() == pytest.approx([0.01455, 0.00727, 0.97818], abs=5e-6)
    assert modes.log_evidence == pytest.approx(3.89948, abs=5e-6)
    assert modes.tilted.expected_reward == pytest.approx(3.11453, abs=5e-6)


@pytest.mark.parametrize("problem", [gaussian_line(), three_modes()], ids=["O1", "O2"])
def test_tilted_density_is_the_data_density_times_the_exponential(problem):
    x = torch.randn(20, problem.means.shape[1], generator=torch.Generator().manual_seed(1), dtype=DOUBLE)
    tilted = problem.tilted.oracle().log_prob(x)
    told = problem.oracle().log_prob(x) + problem.strength * problem.reward(x, None) - problem.log_evidence
    torch.testing.assert_close(tilted, told, rtol=1e-12, atol=1e-12)


def test_sign_denoiser_is_that_of_the_mixture():
    x = 2 * torch.randn(30, 3, generator=torch.Generator().manual_seed(2), dtype=DOUBLE)
    t = torch.linspace(0, 0.99, 30, dtype=DOUBLE)
    oracle = MixtureOracle([0.5, 0.5], [[-1.0], [1.0]], 0.04)
    each = oracle.denoised(x.reshape(-1, 1), t.repeat_interleave(3)).reshape(x.shape)
    torch.testing.assert_close(sign_denoiser(x, t), each, rtol=1e-12, atol=1e-12)


def test_sign_pattern_counts_signs_and_sums_to_its_evidence():
    problem = SignPattern(strength=1.5)
    x = problem.pattern.repeat(3, 1)
    x[1, :4] *= -1
    x[2] *= -1
    assert problem.reward(x, None).tolist() == [0.0, -4.0, -16.0]
    masses = [math.comb(16, k) / 2**16 * math.exp(-1.5 * k) for k in range(17)]
    assert problem.log_evidence == pytest.approx(math.log(sum(masses)), abs=1e-12)
    mean = -sum(k * mass for k, mass in enumerate(masses)) / sum(masses)
    assert problem.tilted_reward == pytest.approx(mean, abs=1e-12)


def test_counter_counts_rows():
    model, counter = counted(gaussian_line().model())
    model.evaluate(torch.zeros(5, 1, dtype=DOUBLE), 0.5)
    model.evaluate(torch.zeros(2, 1, dtype=DOUBLE), 0.5)
    assert counter.sizes == [5, 2]
    assert counter.rows == 7
