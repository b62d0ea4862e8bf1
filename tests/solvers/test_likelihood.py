"""Log-densities along the probability flow."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck

import pushforward as pf
from pushforward.errors import (
    ArgumentError,
    DtypeError,
    GridError,
    IntegrationError,
    NotFiniteError,
    ShapeError,
    UnknownNameError,
)
from pushforward.models import CouplingOracle, GaussianOracle, TwoSided, adapt, reference_mixture
from pushforward.models.pfgm import pfgm
from pushforward.solvers.likelihood import bits_per_dimension, dequantise
from pushforward.solvers.likelihood.divergence import trace

DOUBLE = torch.float64
FIXED = dict(first_step=0.2, max_step=0.2, rtol=10.0, atol=10.0, divergence_atol=10.0)  # every step is accepted


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = DOUBLE) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def covariance(size: int, seed: int = 0) -> Tensor:
    root = randn(size, size, seed=seed)
    return 0.05 * torch.eye(size, dtype=DOUBLE) + root @ root.T / (4 * size)


def eight(shape: tuple[int, ...] = (8,)) -> GaussianOracle:
    return GaussianOracle(randn(*shape, seed=1), covariance(8))


def nonlinear(size: int, seed: int = 0) -> Callable[[Tensor], Tensor]:
    """A map of states of any shape with a Jacobian that is not symmetric, and decays."""
    a = randn(size, size, seed=seed) / torch.arange(1, size + 1) ** 2
    return lambda x: torch.tanh(x.reshape(-1, size) @ a).reshape(x.shape) + 0.1 * x.square()


class Net(nn.Module):
    def __init__(self, size: int = 2, width: int = 8) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.net = nn.Sequential(nn.Linear(size + 1, width), nn.Tanh(), nn.Linear(width, size)).double()

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.net(torch.cat([x, t[:, None]], dim=1))


# --- traces ------------------------------------------------------------------------------------------------------


def jacobians(field: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """[b, d, d], one sample at a time."""
    size = x[0].numel()
    rows = [torch.autograd.functional.jacobian(field, x[b : b + 1]).reshape(size, size) for b in range(len(x))]
    return torch.stack(rows)


def estimated(field: Callable[[Tensor], Tensor], x: Tensor, **how: object) -> Tensor:
    at = x.clone().requires_grad_()
    return trace(how.pop("divergence"), x, **how)(field(at), at, False)  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(), (6,), (2, 3), (1, 2, 3)])
@pytest.mark.parametrize("chunk", [1, 4, 32])
def test_exact_traces_are_those_of_the_jacobian_for_states_of_any_shape(shape: tuple[int, ...], chunk: int) -> None:
    x = randn(3, *shape)
    field = nonlinear(x[0].numel())
    expected = jacobians(field, x).diagonal(dim1=1, dim2=2).sum(1)
    torch.testing.assert_close(estimated(field, x, divergence="exact", chunk=chunk)[:, 0], expected)


@pytest.mark.parametrize("law", ["rademacher", "gaussian"])
def test_hutch_plus_plus_with_a_sketch_of_all_dimensions_is_exact(law: str) -> None:
    x = randn(3, 2, 3)
    field = nonlinear(6)
    expected = jacobians(field, x).diagonal(dim1=1, dim2=2).sum(1)
    found = estimated(field, x, divergence="hutch++", probes=18, law=law)
    assert (found - expected[:, None]).abs().max() < 1e-10


@pytest.mark.parametrize("multiple", [0.0, -3.0])
def test_hutch_plus_plus_of_a_multiple_of_the_identity_is_exact(multiple: float) -> None:
    # Nothing is left to sketch, so what QR returns is of no account.
    for law in ("rademacher", "gaussian"):
        found = estimated(lambda x: multiple * x, randn(4, 6), divergence="hutch++", probes=6, law=law)
        assert (found - 6 * multiple).abs().max() < 1e-12


@pytest.mark.parametrize(("divergence", "probes"), [("hutchinson", 3), ("hutch++", 3), ("hutch++", 9)])
@pytest.mark.parametrize("law", ["rademacher", "gaussian"])
def test_estimates_are_unbiased(divergence: str, probes: int, law: str) -> None:
    # One state 20,000 times, each with probes of its own; five standard errors of the mean.
    field = nonlinear(6)
    x = randn(1, 6)
    expected = jacobians(field, x).diagonal(dim1=1, dim2=2).sum()
    found = estimated(field, x.expand(20_000, 6), divergence=divergence, probes=probes, law=law)[:, 0]
    assert (found.mean() - expected).abs() < 5 * found.std() / math.sqrt(len(found))


def test_hutch_plus_plus_varies_less_than_as_many_probes_where_the_spectrum_falls() -> None:
    # As a flow's: the same rate in all directions, plus what falls.
    a = randn(24, 24) / torch.arange(1, 25) ** 2
    x = 0.1 * randn(1, 24).expand(2000, 24)
    field = lambda x: torch.tanh(x @ a) - 5 * x  # noqa: E731
    plain, better = (estimated(field, x, divergence=name, probes=18)[:, 0].var() for name in ("hutchinson", "hutch++"))
    assert better < 0.2 * plain


@pytest.mark.parametrize(("law", "share"), [("rademacher", 1.0), ("gaussian", 0.0)])
def test_the_variance_of_hutchinsons_estimator_is_the_published_one(law: str, share: float) -> None:
    # 2 (|S|^2 - |diag S|^2) for signs, 2 |S|^2 for normals. The variance of a sample variance of n draws is at most
    # (kurtosis - 1) / n relative; of quadratic forms in normals the kurtosis is at most 15: 4 sigma of n = 20,000.
    a = randn(6, 6)
    s = (a + a.T) / 2
    found = estimated(lambda x: x @ a, randn(1, 6).expand(20_000, 6), divergence="hutchinson", law=law)[:, 0]
    expected = 2 * (s.square().sum() - share * s.diagonal().square().sum())
    assert found.var() / expected == pytest.approx(1.0, abs=4 * math.sqrt(14 / 20_000))


# --- oracles -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(8,), (2, 4)])
def test_a_gaussian_in_eight_dimensions_to_its_tolerance(shape: tuple[int, ...]) -> None:
    oracle = eight(shape)
    x = oracle.sample(4)
    found = pf.log_density(oracle.model(), x, rtol=1e-8, atol=1e-8)
    assert (found.value - oracle.log_prob(x)).abs().max() < 1e-6
    assert (found.x0 - oracle.flow_map(x, 1.0, 0.0)).abs().max() < 1e-6
    assert found.times == (1.0, 0.0)
    assert found.noise_ratio == 0
    assert (found.products == 8 * found.nfe).all()
    torch.testing.assert_close(found.value, found.log_base - found.divergence)


@pytest.mark.parametrize(
    ("path", "kind"),
    [("linear", "velocity"), ("linear", "noise"), ("trigonometric", "denoised"), ("edm", "edm"), ("vp", "noise"),
     ("cosine", "v")],
)  # fmt: skip
def test_mixtures_within_a_thousandth_of_a_nat(path: str, kind: str) -> None:
    # The density is that of data with noise of `noise_ratio`: p_t of the rescaled point, at the time of the beginning.
    # The base is that of the oracle: where alpha(0) > 0 the path does not begin at noise alone.
    oracle = reference_mixture(path)
    x = oracle.sample(8)
    base_time = pf.solvers.likelihood.ends.ends(oracle.model(kind), None).base
    found = pf.log_density(oracle.model(kind), x, base=lambda x0: oracle.log_prob(x0, base_time))
    data = found.times[0]
    scale = oracle.interpolant.alpha(data)
    smoothed = oracle.log_prob(scale * x, data) + 2 * math.log(scale)
    assert (found.value - smoothed).abs().max() < 1e-3
    assert found.noise_ratio == pytest.approx(oracle.interpolant.noise_ratio(data))
    if found.noise_ratio < 2e-3:
        assert (found.value - oracle.log_prob(x)).abs().max() < 1e-3


@pytest.mark.parametrize("kind", ["velocity", "noise", "denoised"])
def test_the_default_base_is_the_noise_of_the_path(kind: str) -> None:
    oracle = reference_mixture()
    x = oracle.sample(8)
    assert (pf.log_density(oracle.model(kind), x).value - oracle.log_prob(x)).abs().max() < 1e-3
    given = pf.log_density(oracle.model(kind), oracle.sample(8, t=0.6), (0.6, 0.1)).value
    base = math.log(2 * math.pi * 0.81)
    there = pf.log_density(
        oracle.model(kind), oracle.sample(8, t=0.6), (0.6, 0.1), base=lambda x: -x.square().sum(1) / 1.62 - base
    ).value
    torch.testing.assert_close(given, there)


def test_densities_of_the_plane_sum_to_one() -> None:
    # The trapezoidal rule with spacing 0.2 is exact to exp(-2 pi^2 0.05 / 0.04) = 2e-11 for Gaussians of variance 0.05
    # and more; outside of this box is less than 1e-5. What is left are errors of log p, 1e-3 at most.
    oracle = reference_mixture()
    axes = torch.arange(-2.8, 3.3, 0.2, dtype=DOUBLE), torch.arange(-2.8, 2.7, 0.2, dtype=DOUBLE)
    found = pf.log_density(oracle.model(), torch.cartesian_prod(*axes), rtol=1e-4, atol=1e-5)
    assert found.value.exp().sum().item() * 0.04 == pytest.approx(1.0, abs=2e-3)


def test_two_sided_paths_with_a_base_of_their_own() -> None:
    source = GaussianOracle([0.5, -0.3], [[0.4, 0.1], [0.1, 0.3]])
    target = GaussianOracle([-1.0, 0.8], [[0.2, -0.1], [-0.1, 0.5]])
    ends = [(1.0, o.mean, o.covariance) for o in (source, target)]
    oracle = CouplingOracle.independent(ends[:1], ends[1:], TwoSided())
    x = target.sample(8)
    found = pf.log_density(oracle.model(), x, (1.0 - 1e-6, 1e-6), base=source.log_prob)
    assert (found.value - target.log_prob(x)).abs().max() < 1e-3


def test_a_function_may_have_its_data_at_time_zero_and_any_base() -> None:
    # x' = -x from data at 0 to the base at 2: p(x) = q(x e^-2) e^-2d.
    x = randn(3, 2, 2)
    base = lambda x: -x.abs().flatten(1).sum(1) - 4 * math.log(2)  # noqa: E731
    found = pf.log_density(lambda x, t: -x, x, (0.0, 2.0), base=base, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.value, base(x * math.exp(-2)) - 8, rtol=1e-7, atol=1e-7)


# --- estimates along a way -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def probed() -> tuple[GaussianOracle, Tensor, dict[str, pf.solvers.LogDensity]]:
    oracle = eight()
    x = oracle.sample(2)
    laws = {
        law: pf.log_density(oracle.model(), x, divergence="hutchinson", probes=256, probe_law=law, trace_chunk=256)
        for law in ("rademacher", "gaussian")
    }
    return oracle, x, laws


@pytest.mark.parametrize(("law", "share"), [("rademacher", 1.0), ("gaussian", 0.0)])
def test_many_probes_tell_their_error(probed: tuple, law: str, share: float) -> None:
    # The Jacobian of a Gaussian's flow depends on time alone, and integrates to half the logarithm of C: the standard
    # error of n probes is known. That of a standard deviation of 256 draws is 15 % at a kurtosis of 24.
    oracle, x, found = probed
    assert found[law].standard_error is not None
    error = (found[law].value - oracle.log_prob(x)) / found[law].standard_error
    assert (error.abs() < 5).all()
    values, vectors = torch.linalg.eigh(oracle.covariance)
    integral = 0.5 * (vectors * values.log()) @ vectors.T
    variance = 2 * (integral.square().sum() - share * integral.diagonal().square().sum())
    assert (found[law].standard_error / (variance / 256).sqrt() - 1).abs().max() < 0.45
    assert (found[law].products == 256 * found[law].nfe).all()


def test_a_probe_for_each_of_many_samples_is_right_on_average() -> None:
    # 400 samples with one probe each: the mean error within three standard errors of that mean.
    oracle = reference_mixture()
    x = oracle.sample(400)
    found = pf.log_density(oracle.model(), x, divergence="hutchinson", rtol=1e-4)
    error = found.value - oracle.log_prob(x)
    assert found.standard_error is None
    assert error.std() > 0.01
    assert error.mean().abs() < 3 * error.std() / math.sqrt(400)


def test_hutch_plus_plus_along_a_way() -> None:
    oracle = eight()
    x = oracle.sample(3)
    whole = pf.log_density(oracle.model(), x, divergence="hutch++", probes=24)
    exact = pf.log_density(oracle.model(), x)
    assert (whole.divergence - exact.divergence).abs().max() < 1e-10
    part = pf.log_density(oracle.model(), x, divergence="hutch++", probes=12)
    assert part.standard_error is not None
    assert ((part.value - exact.value).abs() < 5 * part.standard_error).all()
    assert (part.standard_error > 1e-3).all()


@pytest.mark.parametrize("divergence", ["hutchinson", "hutch++"])
def test_an_estimate_belongs_to_its_sample_and_seed(divergence: str) -> None:
    oracle = reference_mixture()
    x = oracle.sample(5)
    options = dict(divergence=divergence, probes=6, seed=4, rtol=1e-3, atol=1e-3)
    whole = pf.log_density(oracle.model(), x, **options)
    alone = pf.log_density(oracle.model(), x[3:4], samples=torch.tensor([3]), **options)
    assert (whole.value[3] - alone.value[0]).abs() < 1e-12
    other = pf.log_density(oracle.model(), x[3:4], samples=torch.tensor([2]), **options)
    assert divergence == "hutch++" or (other.value - alone.value).abs() > 1e-3  # which is exact in two dimensions


@pytest.mark.parametrize(("divergence", "kind"), [("exact", "velocity"), ("hutchinson", "noise")])
def test_samples_know_their_density(divergence: str, kind: str) -> None:
    oracle = reference_mixture()
    options = dict(divergence=divergence, rtol=1e-6, atol=1e-6, seed=2)
    drawn = pf.sample_with_log_density(oracle.model(kind), (6, 2), dtype=DOUBLE, **options)
    back = pf.log_density(oracle.model(kind), drawn.x, **options)
    assert (drawn.value - back.value).abs().max() < 1e-5
    assert (drawn.x0 - back.x0).abs().max() < 1e-5
    assert drawn.times == back.times
    if kind == "velocity":
        noise = pf.kernels.normal((6, 2), seed=2, draw=pf.kernels.Draw(0, 0), dtype=DOUBLE)
        assert torch.equal(drawn.x0, noise)
        assert (drawn.value - oracle.log_prob(drawn.x)).abs().max() < 1e-5
    again = pf.sample_with_log_density(oracle.model(kind), drawn.x0, **options)
    assert torch.equal(again.x, drawn.x)


# --- error control -------------------------------------------------------------------------------------------------


def test_a_log_determinant_is_not_diluted_among_the_dimensions() -> None:
    # The state rests at 0; one dimension has the divergence 50 cos(50 t), whose integral is sin(50). Among 400 the run
    # takes the steps that it takes with one and the same tolerance: 1e-9 for each of 400. A root mean square over all
    # columns would be twenty times smaller. A step adds at most the tolerance.
    def run(size: int) -> pf.solvers.LogDensity:
        rate = torch.zeros(size, dtype=DOUBLE)
        rate[0] = 50.0
        field = lambda x, t: x * torch.cos(50 * t)[:, None] * rate  # noqa: E731
        options = dict(divergence="hutchinson", rtol=0.0, atol=1e-3, divergence_atol=4e-7 / size)
        return pf.log_density(field, torch.zeros(1, size, dtype=DOUBLE), **options)

    many, one = run(400), run(1)
    assert many.solution.accepted == one.solution.accepted
    assert abs(many.divergence - one.divergence).item() < 1e-12
    assert abs(many.divergence.item() - math.sin(50)) < 4e-7 * int(many.solution.accepted[0])


def test_tensor_tolerances_and_norms_are_those_of_the_state() -> None:
    oracle = eight((2, 4))
    x = oracle.sample(2)
    number = pf.log_density(oracle.model(), x, rtol=1e-5, atol=1e-6)
    options = dict(divergence_atol=1e-6, norm=lambda q: q.flatten(1).square().mean(1).sqrt())
    tensor = pf.log_density(oracle.model(), x, rtol=1e-5, atol=torch.full((2, 1, 4), 1e-6, dtype=DOUBLE), **options)
    torch.testing.assert_close(number.value, tensor.value, rtol=1e-12, atol=1e-12)
    largest = pf.log_density(oracle.model(), x, rtol=1e-5, atol=1e-6, norm="max")
    assert (largest.nfe >= number.nfe).all()


# --- gradients -------------------------------------------------------------------------------------------------------


def steps(x: Tensor, weight: Tensor, shift: Tensor, **options: object) -> Tensor:
    field = lambda x, t, shift: torch.tanh(x @ weight + shift) * (1 + t[:, None])  # noqa: E731
    base = lambda x0: -(x0 - weight[0]).square().sum(1)  # noqa: E731
    found = pf.log_density(field, x, base=base, condition={"shift": shift}, gradient="steps", **FIXED, **options)
    return found.value


@pytest.mark.parametrize(
    ("divergence", "probes", "chunk"), [("exact", None, 32), ("hutchinson", 2, 1), ("hutch++", 6, 4)]
)
def test_gradients_are_those_of_the_steps(divergence: str, probes: int | None, chunk: int) -> None:
    # Hutch++ with three products for each of the two dimensions is exact, so that holding Q fixed changes nothing.
    inputs = [randn(3, 2), randn(2, 2, seed=1), randn(3, 2, seed=2)]
    options = dict(divergence=divergence, probes=probes, trace_chunk=chunk)
    assert gradcheck(
        lambda *given: steps(*given, **options), [x.requires_grad_() for x in inputs], fast_mode=True, nondet_tol=0
    )


def test_a_networks_parameters_have_the_gradient_of_the_likelihood() -> None:
    net = Net()
    x = randn(8, 2)
    model = adapt(net, "velocity")
    parameters = list(net.parameters())
    found = pf.log_density(model, x, gradient="steps", rtol=1e-8, atol=1e-8)
    gradients = torch.autograd.grad(found.value.sum(), parameters)
    direction = [randn(*p.shape, seed=k) for k, p in enumerate(parameters)]
    ends = []
    for sign in (1, -1):
        with torch.no_grad():
            for p, d in zip(parameters, direction, strict=True):
                p += sign * 1e-4 * d
            ends.append(pf.log_density(model, x, rtol=1e-8, atol=1e-8).value.sum())
            for p, d in zip(parameters, direction, strict=True):
                p -= sign * 1e-4 * d
    expected = (ends[0] - ends[1]) / 2e-4
    along = sum((g * d).sum() for g, d in zip(gradients, direction, strict=True))
    # Differences of two runs: 8 samples, 1e-7 each (1e-8 for each of a dozen steps), over 2e-4; and h^2 of the rest.
    assert abs(along - expected) < 5e-3 * abs(expected)
    assert all(p.grad is None for p in parameters)


@pytest.mark.parametrize("divergence", ["exact", "hutchinson"])
def test_the_adjoint_equation_gives_the_same_gradients(divergence: str) -> None:
    # Both runs and the run back are within 1e-8 for each of some twenty steps; gradients are of order one.
    net, x, shift = Net(), randn(4, 2).requires_grad_(), randn(4, 2, seed=1).requires_grad_()
    centre = torch.ones(2, dtype=DOUBLE, requires_grad=True)

    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor, t: Tensor, shift: Tensor) -> Tensor:
            return self.net(x + shift, t)

    def gradients(gradient: str) -> tuple[Tensor, ...]:
        found = pf.log_density(
            Shifted(),
            x,
            base=lambda x0: -(x0 - centre).square().sum(1),
            condition={"shift": shift},
            divergence=divergence,
            gradient=gradient,
            rtol=1e-8,
            atol=1e-8,
        )
        return torch.autograd.grad(found.value.sum() + found.x0.sum(), [x, shift, centre, *net.parameters()])

    for ours, steps in zip(gradients("adjoint"), gradients("steps"), strict=True):
        torch.testing.assert_close(ours, steps, rtol=1e-5, atol=1e-5)


def test_values_without_gradients_have_none_and_leave_the_mode_alone() -> None:
    net, x = Net(), randn(2, 2).requires_grad_()
    found = pf.log_density(adapt(net), x, rtol=1e-3, atol=1e-3)
    assert not found.value.requires_grad
    assert not found.x0.requires_grad
    with torch.inference_mode():
        inside = pf.log_density(adapt(net), x.detach().clone(), rtol=1e-3, atol=1e-3)
    assert torch.equal(inside.value, found.value)
    with torch.no_grad():
        assert not pf.log_density(adapt(net), x, gradient="steps", rtol=1e-3, atol=1e-3).value.requires_grad


# --- conditions, dtypes, bits --------------------------------------------------------------------------------------


def test_conditions_and_guidance_reach_the_network() -> None:
    # Samples leave the batch at different times, with their conditions.
    field = lambda x, t, shift: (shift - x) * (1 + 10 * shift.square())  # noqa: E731
    shift, x = torch.linspace(0, 1, 5, dtype=DOUBLE)[:, None], randn(5, 1)
    found = pf.log_density(field, x, condition={"shift": shift}, rtol=1e-8, atol=1e-8)
    rate = (1 + 10 * shift.square())[:, 0]
    x0 = shift[:, 0] + (x - shift)[:, 0] * rate.exp()
    expected = rate - 0.5 * x0.square() - 0.5 * math.log(2 * math.pi)
    torch.testing.assert_close(found.value, expected, rtol=1e-6, atol=1e-6)
    model = adapt(lambda x, t, shift: shift - x, null={"shift": torch.zeros(1, 1, dtype=DOUBLE)})
    guided = pf.log_density(model, x, condition={"shift": shift}, guidance=3.0, rtol=1e-8, atol=1e-8)
    triple = pf.log_density(model, x, condition={"shift": 3 * shift}, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(guided.value, triple.value, rtol=1e-6, atol=1e-6)


def test_single_precision_and_no_samples() -> None:
    oracle = reference_mixture()
    x = oracle.sample(8).float()
    found = pf.log_density(oracle.model("noise"), x)
    assert found.x0.dtype == torch.float32
    assert found.value.dtype == DOUBLE
    assert (found.value - oracle.log_prob(x)).abs().max() < 2e-3
    assert pf.log_density(oracle.model(), x[:0], divergence="hutchinson").value.shape == (0,)


def test_bits_per_dimension_are_those_of_a_uniform_density() -> None:
    # A density uniform on [-1, 1]^d needs 8 bits for 256 levels, and log2(17) for 17.
    uniform = torch.full((2,), -12 * math.log(2), dtype=DOUBLE)
    torch.testing.assert_close(bits_per_dimension(uniform, 12), torch.full((2,), 8.0, dtype=DOUBLE))
    few = bits_per_dimension(uniform, 12, levels=17)
    torch.testing.assert_close(few, torch.full((2,), math.log2(17), dtype=DOUBLE))
    oracle = eight((2, 4))
    x = oracle.sample(2)
    found = pf.log_density(oracle.model(), x)
    torch.testing.assert_close(found.bits_per_dimension(), 7 - found.value / (8 * math.log(2)))
    wide = found.bits_per_dimension(low=-2.0, high=2.0)
    torch.testing.assert_close(wide, 6 - found.value / (8 * math.log(2)))


def test_dequantised_levels_fill_their_cells() -> None:
    levels = torch.arange(17).repeat(4, 100)
    x = dequantise(levels, levels=17, low=0.0, high=34.0, seed=1, dtype=DOUBLE)
    assert torch.equal((x / 2).floor().long(), levels)
    assert ((x / 2) % 1).mean().item() == pytest.approx(0.5, abs=5 * math.sqrt(1 / 12 / levels.numel()))
    alone = dequantise(levels[2:3], levels=17, low=0.0, high=34.0, seed=1, samples=torch.tensor([2]), dtype=DOUBLE)
    assert torch.equal(alone, x[2:3])


# --- what goes wrong -----------------------------------------------------------------------------------------------


class Opaque(torch.autograd.Function):
    """Reads numbers in its backward pass, which a batched one has none of."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return gradient * math.copysign(1.0, 1.0 + gradient.sum().item())


def test_networks_that_cannot_be_batched_are_told_how() -> None:
    x, field = randn(2, 3), lambda x, t: Opaque.apply(-x)
    with pytest.raises(ArgumentError, match=r"trace_chunk: got 32, expected 1"):
        pf.log_density(field, x)
    assert torch.isfinite(pf.log_density(field, x, trace_chunk=1).value).all()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (dict(divergence="skilling"), UnknownNameError, "divergence: got 'skilling', expected 'exact'"),
        (dict(divergence="hutchinson", probe_law="uniform"), UnknownNameError, "probe_law: got 'uniform'"),
        (dict(probes=4), ArgumentError, "probes: got 4, with divergence='exact'"),
        (dict(divergence="hutchinson", probes=0), ArgumentError, "probes: got 0, expected an integer of at least 1"),
        (dict(divergence="hutch++", probes=4), ArgumentError, "probes: got 4, expected a multiple of 3"),
        (dict(trace_chunk=0), ArgumentError, "trace_chunk: got 0"),
        (dict(times=(1.0, 1.0)), GridError, "times: got .* two different numbers"),
        (dict(times=(1.0, 0.5, 0.0)), GridError, "times: got .* two different numbers"),
        (dict(times=(math.nan, 0.0)), GridError, "times: got .* two different numbers"),
        (dict(base=lambda x: x), ShapeError, r"base: got \[2, 3\], expected \[2\]"),
        (dict(divergence_atol=-1.0), ArgumentError, "divergence_atol: got -1.0"),
        (dict(rtol=-1.0), ArgumentError, "rtol: got -1.0"),
        (dict(norm="mean"), UnknownNameError, "norm: got 'mean'"),
        (dict(method="kvaerno32"), ArgumentError, "method: got kvaerno32, expected an explicit pair"),
        (dict(method="rk9"), UnknownNameError, "method: got 'rk9'"),
        (dict(gradient="jets"), UnknownNameError, "gradient: got 'jets'"),
        (dict(gradient="adjoint"), ArgumentError, "parameters: got none, and a field that is no Module"),
        (dict(gradient="steps", parameters=()), ArgumentError, "parameters: got a value, with gradient='steps'"),
        (dict(events=()), UnknownNameError, "options: got 'events'"),
        (dict(checkpoint=True), UnknownNameError, "options: got 'checkpoint'"),
        (dict(guidance=2.0), ArgumentError, "guidance: got 2.0"),
        (dict(max_steps=2), IntegrationError, "2 attempts were not enough"),
    ],
)
def test_bad_arguments(options: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        pf.log_density(lambda x, t: -x, randn(2, 3), **options)


def test_bad_points_and_fields() -> None:
    x = randn(2, 3)
    with pytest.raises(DtypeError, match=r"x: got torch.bfloat16, expected float32 or float64"):
        pf.log_density(lambda x, t: -x, x.bfloat16())
    with pytest.raises(ArgumentError, match="floating-point"):
        pf.log_density(lambda x, t: -x, torch.ones(2, 3, dtype=torch.int64))
    weight = torch.ones(3, dtype=DOUBLE, requires_grad=True)
    for constant in (lambda x, t: torch.ones_like(x), lambda x, t: -x.detach(), lambda x, t: -x.detach() * weight):
        with pytest.raises(ArgumentError, match=r"field: got a slope without a gradient with respect to x"):
            pf.log_density(constant, x)
    still = pf.log_density(lambda x, t: torch.ones_like(x) + 0 * x, x)
    torch.testing.assert_close(still.divergence, torch.zeros(2, dtype=DOUBLE))
    with pytest.raises(ShapeError, match=r"field at t = 1: got \[2, 2\]"):
        pf.log_density(lambda x, t: -x[:, :2], x)
    with pytest.raises(NotFiniteError, match="sample 0"):
        pf.log_density(lambda x, t: -x.log(), -x.abs())


def test_bases_that_nobody_has_said() -> None:
    x = randn(2, 2)
    with pytest.raises(ArgumentError, match=r"base: got None, where the path does not start from Gaussian noise"):
        pf.log_density(CouplingOracle([1.0], [([0.0] * 2, np.eye(2))], [([1.0] * 2, np.eye(2))]).model(), x)
    student = pfgm(adapt(lambda x, t: -x, "edm", "edm"), 128)
    for run in (pf.log_density, pf.sample_with_log_density):
        with pytest.raises(ArgumentError, match=r"base: got None"):
            run(student, x)
    with pytest.raises(ArgumentError, match=r"start: got the shape \(2, 2\), with a base"):
        pf.sample_with_log_density(lambda x, t: -x, (2, 2), base=lambda x: x.sum(1))
    with pytest.raises(ArgumentError, match=r"dtype, device: got"):
        pf.sample_with_log_density(lambda x, t: -x, x, dtype=DOUBLE)
    with pytest.raises(ShapeError, match=r"start: got \(-2, 2\)"):
        pf.sample_with_log_density(lambda x, t: -x, (-2, 2))


def test_samples_that_do_not_arrive_are_not_a_number() -> None:
    x = torch.tensor([[0.1], [2.0]], dtype=DOUBLE)  # x' = x^2 backward from t = 0 blows up at -1/x... forward at 1/x
    found = pf.log_density(lambda x, t: x.square(), x, (0.0, 1.0), on_failure="return", max_steps=200)
    assert found.value.isnan().tolist() == [False, True]
    assert found.solution.success.tolist() == [True, False]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: dequantise(torch.ones(2, 2)), DtypeError, "values: got torch.float32, expected integers"),
        (lambda: dequantise(torch.tensor([[256]])), ArgumentError, "values: got 256 to 256, expected levels from 0 to"),
        (lambda: dequantise(torch.tensor([[0]]), high=-1.0), ArgumentError, "high: got -1.0"),
        (lambda: bits_per_dimension(torch.zeros(1), 0), ArgumentError, "size: got 0"),
        (lambda: bits_per_dimension(torch.zeros(1), 1, levels=0), ArgumentError, "levels: got 0"),
    ],
)
def test_bad_levels(call: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_the_code_of_the_page_runs() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "likelihood.md").read_text()
    blocks, names = re.findall(r"```python\n(.*?)```", page, re.S), {}
    assert len(blocks) == 3
    for block in blocks:
        exec(block, names)
    assert all(p.grad is not None for p in names["network"].parameters())
    assert names["found"].value.shape == (2,)
