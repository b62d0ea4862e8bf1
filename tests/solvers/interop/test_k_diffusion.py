"""k-diffusion's functions against the published formulas, written out here in float64."""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import pushforward as pf
from pushforward.errors import ArgumentError, DtypeError, GridError, UnknownNameError
from pushforward.solvers.interop import k_diffusion
from pushforward.solvers.solver import REGISTRY

SIGMAS = [14.0, 9.0, 5.5, 3.0, 1.2, 0.6, 0.25, 0.1]  # a grid of no particular kind


def model(x: Tensor, sigma: Tensor, scale: float = 1.0, **_: Any) -> Tensor:
    """A clean estimate that depends on x and sigma, non-linearly."""
    s = sigma.reshape(-1, *[1] * (x.ndim - 1))
    return scale * torch.tanh(x / (1 + s)) + 0.1 * torch.roll(x, 1, -1) / (1 + s * s)


def start(sigma: float = SIGMAS[0], rows: int = 2) -> Tensor:
    return sigma * torch.randn(rows, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def noises() -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(4)
    while True:
        yield torch.randn(2, 3, 4, generator=generator, dtype=torch.float64)


class Given:
    """A noise sampler that returns those noises in turn, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[float, float]] = []
        self.source = noises()

    def __call__(self, sigma: Tensor, sigma_next: Tensor) -> Tensor:
        self.asked.append((sigma.item(), sigma_next.item()))
        return next(self.source)


def d(x: Tensor, sigma: float) -> Tensor:
    """The slope of the flow in sigma (Karras et al. 2022, equation 3 with s = 1)."""
    return (x - model(x, torch.full((len(x),), sigma, dtype=x.dtype))) / sigma


def euler(x: Tensor, sigmas: list[float]) -> Tensor:
    for s, n in itertools.pairwise(sigmas):
        x = x + (n - s) * d(x, s)
    return x


def heun(x: Tensor, sigmas: list[float]) -> Tensor:
    """Karras et al. 2022, algorithm 1."""
    for s, n in itertools.pairwise(sigmas):
        slope = d(x, s)
        ahead = x + (n - s) * slope
        x = ahead if n == 0 else x + (n - s) * (slope + d(ahead, n)) / 2
    return x


def euler_ancestral(x: Tensor, sigmas: list[float], eta: float = 1.0) -> Tensor:
    """Song et al. 2021, DDIM: down to sigma_down, then noise up to the level."""
    source = noises()
    for s, n in itertools.pairwise(sigmas):
        up = min(n, eta * math.sqrt(n**2 * (s**2 - n**2) / s**2))
        x = x + (math.sqrt(n**2 - up**2) - s) * d(x, s)
        x = x + up * next(source) if n else x
    return x


def adams_bashforth_2(x: Tensor, sigmas: list[float]) -> Tensor:
    """Slopes extrapolated linearly in sigma; Euler first."""
    before: tuple[float, Tensor] | None = None
    for s, n in itertools.pairwise(sigmas):
        h, slope = n - s, d(x, s)
        change = 0 * slope if before is None else (slope - before[1]) / (s - before[0])
        x, before = x + h * slope + h * h / 2 * change, (s, slope)
    return x


def churned(method: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Karras et al. 2022, algorithm 2: each step of the method after raising the noise by gamma."""

    def run(x: Tensor, sigmas: list[float], s_churn: float, s_noise: float, s_tmax: float) -> Tensor:
        source = noises()
        for s, n in itertools.pairwise(sigmas):
            gamma = min(s_churn / (len(sigmas) - 1), math.sqrt(2) - 1) if s <= s_tmax else 0.0
            raised = s * (1 + gamma)
            if gamma:
                x = x + s_noise * math.sqrt(raised**2 - s**2) * next(source)
            x = method(x, [raised, n])
        return x

    return run


def dpm_2(x: Tensor, sigmas: list[float]) -> Tensor:
    """Lu et al. 2022, DPM-Solver-2 in sigma: the slope at the geometric middle."""
    for s, n in itertools.pairwise(sigmas):
        middle, slope = math.sqrt(s * n), d(x, s)
        x = x + (n - s) * (d(x + (middle - s) * slope, middle) if n else slope)
    return x


def ancestral(method: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A step of the method to sigma_down, then noise up to the level."""

    def run(x: Tensor, sigmas: list[float], eta: float = 1.0, s_noise: float = 1.0) -> Tensor:
        source = noises()
        for s, n in itertools.pairwise(sigmas):
            up = min(n, eta * math.sqrt(n**2 * (s**2 - n**2) / s**2))
            x = method(x, [s, math.sqrt(n**2 - up**2)])
            x = x + s_noise * up * next(source) if n else x
        return x

    return run


def dpmpp_2s(x: Tensor, sigmas: list[float]) -> Tensor:
    """Lu et al. 2022, DPM-Solver++, algorithm 1 with r = 1/2."""
    for s, n in itertools.pairwise(sigmas):
        if not n:
            return x - s * d(x, s)
        h = math.log(s / n)
        u = math.exp(-h / 2) * x - math.expm1(-h / 2) * (x - s * d(x, s))
        middle = math.sqrt(s * n)
        x = math.exp(-h) * x - math.expm1(-h) * (u - middle * d(u, middle))
    return x


def lms(x: Tensor, sigmas: list[float], order: int = 4) -> Tensor:
    """Adams-Bashforth in sigma on any grid: integrals of the Lagrange basis through the last slopes."""
    past: list[tuple[float, Tensor]] = []
    for s, n in itertools.pairwise(sigmas):
        past = [(s, d(x, s)), *past][:order]
        nodes, change = [node for node, _ in past], torch.zeros_like(x)
        for node, slope in past:
            basis = np.poly1d([1.0])
            for other in nodes:
                basis = basis if other == node else basis * np.poly1d([1.0, -other]) / (node - other)
            change = change + float(basis.integ()(n) - basis.integ()(s)) * slope
        x = x + change
    return x


def dpmpp_sde_multistep(memory: int, midpoint: bool) -> Callable[..., Tensor]:
    """Lu et al. 2022, DPM-Solver++ for the SDE (2M), and k-diffusion's three-step method, with eta."""

    def run(x: Tensor, sigmas: list[float], eta: float = 1.0) -> Tensor:
        source, past = noises(), list[tuple[float, Tensor]]()  # (step in log sigma after it, clean estimate)
        for s, n in itertools.pairwise(sigmas):
            clean = x - s * d(x, s)
            if not n:
                return clean
            h = math.log(s / n)
            y = h * (1 + eta)
            m0 = -math.expm1(-y)
            m1 = 1 - m0 / y
            x = n / s * math.exp(-eta * h) * x + m0 * clean
            if past:
                first = (clean - past[0][1]) * (h / past[0][0])
                if len(past) > 1 and memory > 2:
                    r0, r1 = past[0][0] / h, past[1][0] / h
                    second = (past[0][1] - past[1][1]) / r1
                    bend = (first - second) / (r0 + r1)
                    x = x + m1 * (first + r0 * bend) + (0.5 - m1 / y) * bend
                else:
                    x = x + (m0 / 2 if midpoint else m1) * first
            if eta:
                x = x + n * math.sqrt(-math.expm1(-2 * eta * h)) * next(source)
            past = [(h, clean), *past]
        return x

    return run


def dpmpp_sde(x: Tensor, sigmas: list[float]) -> Tensor:
    """k-diffusion's two-stage method on one Brownian path in sigma: the second noise contains the first."""
    source = noises()
    for s, n in itertools.pairwise(sigmas):
        clean = x - s * d(x, s)
        if not n:
            return clean
        middle = math.sqrt(s * n)
        z, rest = next(source), next(source)
        up = math.sqrt(middle**2 * (s**2 - middle**2) / s**2)
        u = clean + math.sqrt(middle**2 - up**2) / s * (x - clean) + up * z
        clean = u - middle * d(u, middle)
        share = (s - middle) / (s - n)
        up = math.sqrt(n**2 * (s**2 - n**2) / s**2)
        whole = math.sqrt(share) * z + math.sqrt(1 - share) * rest
        x = clean + math.sqrt(n**2 - up**2) / s * (x - clean) + up * whole
    return x


CHURN = {"s_churn": 2.0, "s_noise": 1.01, "s_tmax": 6.0}
REFERENCES: dict[str, tuple[Callable[..., Tensor], dict[str, Any]]] = {
    "euler": (euler, {}),
    "ddim": (euler, {}),
    "heun": (heun, {}),
    "ab2": (adams_bashforth_2, {}),
    "euler_ancestral": (euler_ancestral, {}),
    "euler_ancestral eta": (euler_ancestral, {"eta": 0.6}),
    "euler churn": (churned(euler), CHURN),
    "heun churn": (churned(heun), CHURN),
    "dpm_2": (dpm_2, {}),
    "dpm_2 churn": (churned(dpm_2), CHURN),
    "dpm_2_ancestral": (ancestral(dpm_2), {}),
    "dpmpp_2s_ancestral": (ancestral(dpmpp_2s), {"eta": 0.7, "s_noise": 1.02}),
    "lms": (lms, {}),
    "lms 3": (lms, {"order": 3}),
    "dpmpp_2m": (dpmpp_sde_multistep(2, True), {"eta": 0.0}),
    "dpmpp_2m_sde": (dpmpp_sde_multistep(2, True), {}),
    "dpmpp_2m_sde heun": (dpmpp_sde_multistep(2, False), {"eta": 0.5}),
    "dpmpp_3m_sde": (dpmpp_sde_multistep(3, False), {"eta": 0.8}),
    "dpmpp_sde": (dpmpp_sde, {}),
}
OURS = {  # what is asked of ours beside or instead of the reference's options
    "dpmpp_2m": {},
    "dpmpp_2m_sde heun": {"eta": 0.5, "solver_type": "heun"},
}


def known(case: str) -> bool:
    """Whether the solver behind it is registered."""
    name = case.split(" ")[0]
    return name in k_diffusion.available() and ("churn" not in case or k_diffusion.CHURNED[name] in REGISTRY)


@pytest.mark.parametrize("ends_at_zero", [True, False])
@pytest.mark.parametrize("case", [case for case in REFERENCES if known(case)])
def test_the_published_formulas(case: str, ends_at_zero: bool) -> None:
    """Times on our path are 1 - sigma / (2 sigma_max): spacing 1e-16 there is 3e-15 of sigma, 3e-14 of the smallest."""
    reference, options = REFERENCES[case]
    sigmas = SIGMAS + [0.0] * ends_at_zero
    sampler = k_diffusion.sampler(case.split(" ")[0])
    given, asked = Given(), dict(OURS.get(case, options))
    theirs = reference(start(), sigmas, **options)
    if case == "ab2" and ends_at_zero:
        asked = {"last_step": "denoise"}  # an extrapolated slope would not end in the clean estimate
        theirs = euler(reference(start(), SIGMAS), [SIGMAS[-1], 0.0])
    ours = sampler(model, start(), torch.tensor(sigmas, dtype=torch.float64), noise_sampler=given, **asked)
    assert ((ours - theirs).abs().max() / theirs.abs().max()).item() < 1e-11
    steps = list(itertools.pairwise(SIGMAS))
    expected = {
        "dpmpp_sde": [part for s, n in steps for part in ((s, math.sqrt(s * n)), (math.sqrt(s * n), n))],
        "dpmpp_2m": [],
    }.get(case, steps if "ancestral" in case or "sde" in case else None)
    if expected is not None:
        assert list(itertools.chain(*given.asked)) == pytest.approx(list(itertools.chain(*expected)), rel=1e-6)


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_every_registered_solver_is_there(name: str) -> None:
    """Where the data are N(0, 1/4) the flow multiplies by 0.5 / sqrt(0.25 + sigma^2): within a fifth, in 8 steps."""

    def gaussian(x: Tensor, sigma: Tensor, scale: float, **_: Any) -> Tensor:
        return scale * x * (0.25 / (0.25 + sigma**2)).reshape(-1, 1, 1)

    sample = getattr(pf.solvers.interop, f"sample_{name}")
    assert sample.__name__ == f"sample_{name}"
    assert list(inspect.signature(sample).parameters)[:6] == [
        "model", "x", "sigmas", "extra_args", "callback", "disable",
    ]  # fmt: skip
    x = sample(gaussian, start(), [*SIGMAS, 0.0], {"scale": 1.0, "seed": 3}, disable=True)
    assert torch.equal(x, sample(gaussian, start(), [*SIGMAS, 0.0], {"scale": 1.0}, seed=3))
    exact = start() * 0.5 / math.sqrt(0.25 + SIGMAS[0] ** 2)
    if not REGISTRY[name]().stochastic:
        torch.testing.assert_close(x, exact, rtol=0.2, atol=0)
    else:
        assert 0.2 < x.std() < 0.8


def test_callback() -> None:
    """Once a step, with k-diffusion's keys; what it keeps is not written over."""
    seen: list[dict[str, Any]] = []
    sigmas = torch.tensor([*SIGMAS, 0.0])
    k_diffusion.sample_heun(model, start(), sigmas, {"scale": 1.0}, seen.append, True)
    assert [told["i"] for told in seen] == list(range(len(SIGMAS)))
    assert [told["sigma"].item() for told in seen] == sigmas[:-1].tolist()
    for i, told in enumerate(seen):
        assert set(told) == {"x", "i", "sigma", "sigma_hat", "denoised"}
        assert told["sigma_hat"].item() == pytest.approx(SIGMAS[i], rel=1e-7)
        torch.testing.assert_close(told["x"], heun(start(), SIGMAS[: i + 1]), rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(told["denoised"], model(told["x"], told["sigma_hat"].expand(2)))


def test_the_model_is_told_the_given_levels() -> None:
    """[B] of them, in float32 or better, and its further arguments."""
    told: list[Tensor] = []

    def watched(x: Tensor, sigma: Tensor, extra: str) -> Tensor:
        told.append(sigma)
        assert extra == "cond"
        return model(x, sigma)

    x = k_diffusion.sample_euler(watched, start().bfloat16(), torch.tensor([2.0, 0.7, 0.1]), {"extra": "cond"})
    assert x.dtype == torch.bfloat16
    assert [t.shape for t in told] == [(2,), (2,)]
    assert [t[0].item() for t in told] == torch.tensor([2.0, 0.7]).tolist()
    assert told[0].dtype == torch.float32


def test_from_data_to_noise() -> None:
    levels = SIGMAS[::-1]
    there = k_diffusion.sample_heun(model, start(0.1), levels)
    torch.testing.assert_close(there, heun(start(0.1), levels), rtol=1e-10, atol=1e-10)


def test_rectified_flow() -> None:
    """x = (1 - sigma) D + sigma n: Euler in sigma, from pure noise."""
    x, levels = start(1.0), [1.0, 0.8, 0.5, 0.2, 0.0]
    ours = k_diffusion.sample_euler(model, x, levels, path="linear")
    torch.testing.assert_close(ours, euler(x, levels), rtol=1e-12, atol=1e-12)
    with pytest.raises(GridError, match="path='linear'"):
        k_diffusion.sample_euler(model, x, [2.0, 1.0], path="linear")


def test_noise_is_keyed() -> None:
    """By the seed, by extra_args' seed, else by torch's generator; a sample of a seed is the same in any batch."""
    sample, sigmas = k_diffusion.sample_euler_ancestral, [*SIGMAS, 0.0]
    one = sample(model, start(), sigmas, seed=5)
    assert torch.equal(one, sample(model, start(), sigmas, {"seed": 5}))
    assert not torch.equal(one, sample(model, start(), sigmas, seed=6))
    torch.testing.assert_close(sample(model, start()[:1], sigmas, seed=5), one[:1])
    torch.manual_seed(3)
    first, second = sample(model, start(), sigmas), sample(model, start(), sigmas)
    torch.manual_seed(3)
    assert torch.equal(first, sample(model, start(), sigmas))
    assert not torch.equal(first, second)


def test_noise_of_a_step_with_several_draws_is_asked_for_in_parts() -> None:
    steps = k_diffusion.Steps(pf.solver("ddim", eta=1.0), (8.0, 2.0, 0.5), "edm", "auto", outside=True)
    first = steps.draws[0]
    steps.draws = (first, first._replace(stage=1), first._replace(step=1))
    given = Given()
    for function in steps.noise(start(), given).values():
        function(start(), 0.0)
    assert list(itertools.chain(*given.asked)) == pytest.approx([8.0, 4.0, 4.0, 2.0, 2.0, 0.5])


def test_options_that_ask_for_nothing_are_dropped() -> None:
    neutral = {"s_churn": 0.0, "s_tmin": 0.0, "s_tmax": math.inf, "s_noise": 1.0}
    plain = k_diffusion.sample_euler(model, start(), SIGMAS)
    assert torch.equal(k_diffusion.sample_euler(model, start(), SIGMAS, **neutral), plain)
    with pytest.raises(ArgumentError, match="options"):
        k_diffusion.sample_ab2(model, start(), SIGMAS, s_noise=1.1)


def test_bad_calls_are_named() -> None:
    sample = k_diffusion.sample_euler
    for bad in ([3.0], [3.0, 3.0], [3.0, 1.0, 2.0], [3.0, -1.0], [math.nan, 1.0], torch.ones(2, 2)):
        with pytest.raises(GridError, match="sigmas"):
            sample(model, start(), bad)
    with pytest.raises(DtypeError, match="x"):
        sample(model, torch.ones(2, dtype=torch.int64), SIGMAS)
    with pytest.raises(UnknownNameError, match="path"):
        sample(model, start(), SIGMAS, path="vp")
    with pytest.raises(UnknownNameError, match="hoin"):
        k_diffusion.sampler("hoin")
    with pytest.raises(AttributeError, match="hoin"):
        k_diffusion.sample_hoin  # noqa: B018
    assert "sample_euler_ancestral" in dir(k_diffusion)
