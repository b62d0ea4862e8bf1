"""How exact are log-densities, how many evaluations do they take, and what does the bundled digit model reach?

"mixture": the largest error in nats over 64 points of the reference mixture, by tolerance, for each end of the path.
"trace": Gaussian data in 64 dimensions whose standard deviations fall from 1 like 1 / k; the error of an estimate of
the divergence along the way by as many products with the Jacobian an evaluation. "digits": bits per dimension of
dequantised digits, held out and of the training set, with one probe each. "against torchdiffeq": the same exact
divergence and tolerance in its dopri5, which has one step size for the batch and a root mean square over all.
"""

from __future__ import annotations

import time

import torch
from _harness import Benchmark, main
from torch import Tensor

import pushforward as pf
from pushforward.solvers.likelihood import dequantise

LOW, HIGH = -256 / 255, 256 / 255  # cells of pixels that are u / 127.5 - 1


def mixture(bench: Benchmark) -> None:
    """Error and evaluations by tolerance."""
    for path, kind in (("linear", "velocity"), ("linear", "denoised"), ("vp", "noise"), ("edm", "edm")):
        oracle = pf.models.reference_mixture(path)
        model, x = oracle.model(kind), oracle.sample(64, seed=3)
        for tolerance in (1e-3, 1e-5, 1e-7):
            case = f"mixture {path} {kind} {tolerance:g}"
            if not bench.wants(case):
                continue
            first = pf.log_density(model, x[:1], rtol=1e-2, atol=1e-2)
            begin = time.perf_counter()
            base = lambda x0, end=first.times[1]: oracle.log_prob(x0, end)  # noqa: E731, B023
            found = pf.log_density(model, x, base=base, rtol=tolerance, atol=tolerance)
            spent = time.perf_counter() - begin
            error = (found.value - oracle.log_prob(x)).abs().max().item()
            nfe = float(found.nfe.mean())
            bench.alone(case, spent, f"error {error:.1e}, {nfe:.0f} evaluations", error=error, nfe=nfe)


def traces(bench: Benchmark) -> None:
    """Errors of the estimators by products."""
    spread = torch.arange(1, 65, dtype=torch.float64).reciprocal()
    rotation = torch.linalg.qr(torch.randn(64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))).Q
    oracle = pf.models.GaussianOracle(torch.zeros(64), rotation @ torch.diag(spread.square()) @ rotation.T)
    model, x = oracle.model(), oracle.sample(16, seed=1)
    exact = pf.log_density(model, x, rtol=1e-4, atol=1e-4).value
    for name, law in (("hutchinson", "rademacher"), ("hutchinson", "gaussian"), ("hutch++", "rademacher")):
        for products in (6, 24, 96):
            case = f"trace {name} {law} {products} products"
            if not bench.wants(case):
                continue
            begin = time.perf_counter()
            options = dict(divergence=name, probes=products, probe_law=law, rtol=1e-4, atol=1e-4)
            found = pf.log_density(model, x, **options)
            spent = time.perf_counter() - begin
            error = (found.value - exact).square().mean().sqrt().item()
            told = found.standard_error.square().mean().sqrt().item()
            bench.alone(case, spent, f"error {error:.3g} nats, told {told:.3g}", error=error, told=told)


def digits(bench: Benchmark) -> None:
    """Bits per dimension of the bundled models."""
    try:
        from pushforward.models.training.digits import load_digits28

        train, held_out, _ = load_digits28()
    except ImportError as error:
        bench.skip(str(error))
        return
    count = 20 if bench.quick else 100
    for name, tolerance in (("digits28-small", 1e-2), ("digits28-small", 1e-4), ("digits28-base", 1e-2)):
        for title, part in (("held out", held_out), ("training", train)):
            case = f"{name} {title} {tolerance:g}"
            if not bench.wants(case):
                continue
            ids = torch.randperm(len(part), generator=torch.Generator().manual_seed(0))[:count]
            x = dequantise(((part.images[ids] + 1) * 127.5).round().long(), low=LOW, high=HIGH, samples=ids)
            options = dict(divergence="hutchinson", rtol=tolerance, atol=tolerance)
            begin, found = time.perf_counter(), []
            for some in torch.arange(count).split(20):
                label = {"label": part.labels[ids[some]]}
                model = pf.models.load(name)
                found.append(pf.log_density(model, x[some], condition=label, samples=ids[some], **options))
            spent = time.perf_counter() - begin
            bits = torch.cat([part.bits_per_dimension(low=LOW, high=HIGH) for part in found])
            nfe = sum(float(part.nfe.sum()) for part in found) / count
            error = (bits.std() / count**0.5).item()
            said = f"{bits.mean():.3f} +- {error:.3f} bits, {nfe:.0f} evaluations"
            bench.alone(case, spent, said, bits=bits.mean().item(), error=error, nfe=nfe)


def against(bench: Benchmark) -> None:
    """The same problem with torchdiffeq."""
    try:
        from torchdiffeq import odeint
    except ImportError:
        bench.skip("torchdiffeq is not installed")
        return
    network = torch.nn.Sequential(torch.nn.Linear(3, 64), torch.nn.Tanh(), torch.nn.Linear(64, 2)).double()
    network.requires_grad_(False)

    def field(x: Tensor, t: Tensor) -> Tensor:
        return network(torch.cat([x, t.expand(len(x))[:, None]], dim=1)) - 2 * x

    def both(t: Tensor, z: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            x = z[0].detach().requires_grad_()
            slope = field(x, t)
            rows = (torch.autograd.grad(slope[:, i].sum(), x, retain_graph=True)[0][:, i] for i in range(2))
            return slope.detach(), sum(rows)

    for count in (64, 4096):
        x = torch.randn(count, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        start, times = (x, torch.zeros(count, dtype=torch.float64)), torch.tensor([1.0, 0.0], dtype=torch.float64)
        bench.compare(
            f"against torchdiffeq {count}x2",
            "torchdiffeq",
            lambda x=x: lambda: pf.log_density(field, x, rtol=1e-6, atol=1e-6),
            lambda start=start, times=times: (
                lambda: odeint(both, start, times, rtol=1e-6, atol=1e-6, method="dopri5") and None
            ),
        )


def benchmark(bench: Benchmark) -> None:
    """All cases."""
    mixture(bench)
    traces(bench)
    digits(bench)
    against(bench)


if __name__ == "__main__":
    main(benchmark, __doc__)
