"""Rules of guidance: what they compute from inner products is what their formulas say of whole tensors."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from diffusers.guiders import adaptive_projected_guidance as theirs_apg
from diffusers.guiders import guider_utils as theirs_rescale
from diffusers.guiders import magnitude_aware_guidance as theirs_mambo
from diffusers.guiders import tangential_classifier_free_guidance as theirs_tangential
from diffusers.guiders.classifier_free_zero_star_guidance import cfg_zero_star_scale

import pushforward as pf
from pushforward import kernels
from pushforward.errors import ArgumentError, DtypeError, ShapeError, UnknownNameError
from pushforward.models import (
    APG,
    CFGZero,
    GaussianOracle,
    Guidance,
    Linear,
    MagnitudeAware,
    Plain,
    Rescale,
    Tangential,
    VPLinear,
    adapt,
    composed,
    guided,
    residual,
)
from pushforward.models.capabilities import Remembers

WEIGHT, T = 4.0, 0.4
KINDS = ("velocity", "denoised", "noise", "v", "edm")
RULES = {
    "plain": Plain(),
    "rescale": Rescale(0.7),
    "rescale velocities": Rescale(0.4, "velocity"),
    "zero": CFGZero(),
    "apg": APG(eta=0.3, cap=2.0),
    "apg of noise": APG(space="noise"),
    "tangential": Tangential(),
    "tangential estimates": Tangential("denoised"),
    "magnitude": MagnitudeAware(2.0),
}


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


STATE = normal(3, 2, 5, seed=1)
OUTPUTS = {"cond": normal(3, 2, 5, seed=2), "null": normal(3, 2, 5, seed=3)}


def fixed(kind="velocity", path="linear", outputs=OUTPUTS):
    """A network of two branches that returns these tensors whatever it is asked."""
    condition = {"y": outputs["cond"]}
    model = adapt(lambda x, t, y: y, kind, path, time="t", null={"y": outputs["null"]})
    return model, condition


def evaluated(model, condition, t=T, x=STATE):
    prediction = model.prediction
    return model.bind(condition).evaluate(x * prediction.input_scale(t), t)[0]


def naive(rule, c, u, w):
    """The formulas of the papers, on tensors."""
    dims = tuple(range(1, c.ndim))

    def inner(a, b):
        return (a * b).sum(dims, keepdim=True)

    plain = u + w * (c - u)
    match rule:
        case Plain():
            return plain
        case Rescale():
            spread = c.std(dims, keepdim=True) / plain.std(dims, keepdim=True)
            return (rule.phi * spread + 1 - rule.phi) * plain
        case CFGZero():
            best = inner(c, u) / inner(u, u) * u
            return best + w * (c - best)
        case APG():
            update = c - u
            if rule.cap is not None:
                update = update * (rule.cap / inner(update, update).sqrt()).clamp_max(1)
            parallel = inner(update, c) / inner(c, c) * c
            return c + (w - 1) * (update - parallel + rule.eta * parallel)
        case Tangential():
            pairs = torch.stack([c.flatten(1), u.flatten(1)], 1)
            leading = torch.linalg.svd(pairs, full_matrices=False)[2][:, :1]
            nearer = ((u.flatten(1)[:, None] @ leading.mT) @ leading).reshape(u.shape)
            return nearer + w * (c - nearer)
        case MagnitudeAware():
            ratio = inner(c - u, c - u).sqrt() / inner(u, u).sqrt()
            return c + (w - 1) * (-rule.damping * ratio).exp() * (c - u)
    raise AssertionError(rule)


@pytest.mark.parametrize("name", RULES)
def test_inner_products_give_what_tensors_give_in_the_space_of_the_rule(name) -> None:
    rule = RULES[name]
    for kind, path in [(kind, Linear()) for kind in KINDS] + [("noise", VPLinear()), ("velocity", VPLinear())]:
        model, condition = fixed(kind, path)
        of_state, of_output = model.prediction.quantity(rule.space, T)
        c, u = (of_state * STATE + of_output * OUTPUTS[branch] for branch in ("cond", "null"))
        output = evaluated(guided(model, WEIGHT, rule), condition)
        expected = naive(rule, c, u, WEIGHT)
        assert (of_state * STATE + of_output * output - expected).abs().max() < 1e-10 * expected.abs().max()


def test_the_functions_of_diffusers_agree_in_the_convention_of_the_papers() -> None:
    c, u = (OUTPUTS[branch].float() for branch in ("cond", "null"))
    model, condition = fixed("noise", VPLinear(), {"cond": c, "null": u})

    def ours(rule):
        rule = dataclasses.replace(rule, space="output")
        return evaluated(guided(model, WEIGHT, rule), condition, x=STATE.float())

    plain = u + WEIGHT * (c - u)
    scale = cfg_zero_star_scale(c.flatten(1), u.flatten(1)).view(-1, 1, 1)
    expected = {
        Rescale(0.7): theirs_rescale.rescale_noise_cfg(plain, c, 0.7),
        CFGZero(): scale * u + WEIGHT * (c - scale * u),
        APG(eta=0.25, cap=2.0): theirs_apg.normalized_guidance(
            c, u, WEIGHT - 1, None, 0.25, 2.0, use_original_formulation=True
        ),
        Tangential(): theirs_tangential.normalized_guidance(c, u, WEIGHT),
        MagnitudeAware(3.0): theirs_mambo.mambo_guidance(c, u, WEIGHT, 3.0),
    }
    for rule, theirs in expected.items():
        assert (ours(rule) - theirs).abs().max() < 4e-6, rule  # float32: w ||o|| times a few roundings of 6e-8


def test_orthogonality_cap_and_the_spread() -> None:
    model, condition = fixed("denoised")
    c, u = OUTPUTS["cond"], OUTPUTS["null"]
    best = evaluated(guided(model, WEIGHT, CFGZero(space="denoised")), condition)
    added = (best - WEIGHT * c) / (1 - WEIGHT)  # a* u
    assert ((c - added) * u).sum((1, 2)).abs().max() < 1e-6
    update = evaluated(guided(model, WEIGHT, APG(cap=0.5)), condition) - c
    assert (update * c).sum((1, 2)).abs().max() < 1e-6 * update.norm()
    assert (update.flatten(1).norm(dim=1) <= (WEIGHT - 1) * 0.5 * (1 + 1e-12)).all()
    full = evaluated(guided(model, WEIGHT, APG(eta=1.0)), condition)
    assert (full - (u + WEIGHT * (c - u))).abs().max() < 1e-12
    same = evaluated(guided(model, WEIGHT, Rescale(1.0)), condition)
    assert (same.std((1, 2)) - c.std((1, 2))).abs().max() < 1e-12
    assert (evaluated(guided(model, WEIGHT, Rescale(0.0)), condition) - (u + WEIGHT * (c - u))).abs().max() < 1e-12


@pytest.mark.parametrize("name", RULES)
def test_weight_one_returns_the_conditional_output_and_runs_no_other_row(name) -> None:
    model, condition = fixed()
    bound = guided(model, Guidance(1.0), RULES[name]).bind(condition)
    assert torch.equal(bound.evaluate(STATE, T)[0], OUTPUTS["cond"])
    assert bound.rows == len(STATE)
    mixed = guided(model, torch.tensor([1.0, WEIGHT, 1.0]), RULES[name]).bind(condition).evaluate(STATE, T)[0]
    alone = evaluated(guided(model, WEIGHT, RULES[name]), condition)
    assert (mixed - torch.stack([OUTPUTS["cond"][0], alone[1], OUTPUTS["cond"][2]])).abs().max() < 1e-13
    changing = guided(model, lambda t: torch.tensor([1.0, WEIGHT, 1.0]) if t == T else 1.0, RULES[name])
    assert torch.equal(changing.bind(condition).evaluate(STATE, T)[0], mixed)


@pytest.mark.parametrize("name", RULES)
def test_where_sigma_vanishes_the_rule_has_its_limit(name) -> None:
    model, condition = fixed()
    limit = evaluated(guided(model, WEIGHT, RULES[name]), condition, 1.0)
    near = evaluated(guided(model, WEIGHT, RULES[name]), condition, 1 - 1e-7)
    assert limit.isfinite().all()
    assert (limit - near).abs().max() < 1e-4


@pytest.mark.parametrize("name", RULES)
def test_rows_with_times_of_their_own_and_selected_rows_are_as_alone(name) -> None:
    model, condition = fixed()
    weights = torch.tensor([2.0, WEIGHT, 3.0])
    times = np.array([0.2, 0.4, 0.9])
    bound = guided(model, weights, RULES[name]).bind(condition)
    together = bound.evaluate_rows(STATE, times)[0]
    for row, t in enumerate(times.tolist()):
        alone = bound.select([row]).evaluate(STATE[row : row + 1], t)[0]
        assert (alone[0] - together[row]).abs().max() < 1e-12
    with pytest.raises(ShapeError, match="weight"):
        guided(model, torch.ones(2), RULES[name]).bind(condition).check_rows(3)


def test_an_evaluation_is_one_reduction_and_one_combination(monkeypatch) -> None:
    model, condition = fixed()
    bound = guided(model, WEIGHT, APG(momentum=-0.5, cap=1.0)).bind(condition)
    bound.evaluate(STATE, 0.1)
    passes = []
    for name in ("gram", "combine"):
        original = getattr(kernels, name)
        monkeypatch.setattr(
            kernels, name, lambda *a, f=original, n=name, **k: passes.append((n, len(a[0]))) or f(*a, **k)
        )
    bound.evaluate(STATE, 0.2)
    assert passes == [("gram", 4), ("combine", 4)]
    guided(model, WEIGHT, Rescale(0.5)).bind(condition).evaluate(STATE, 0.2)
    assert passes[2:] == [("gram", 2), ("combine", 2)], "the output's own space needs no state"


def momentum_run(bound, times):
    return [bound.evaluate(STATE, t)[0] for t in times]


def test_momentum_advances_with_time_and_a_repeated_time_replaces() -> None:
    model, condition = fixed("denoised")
    beta, c = -0.5, OUTPUTS["cond"]
    difference = c - OUTPUTS["null"]
    rule = APG(eta=1.0, momentum=beta)
    factors = [1.0, 1 + beta, 1 + beta + beta**2]
    buffer = theirs_apg.MomentumBuffer(beta)
    for times in ((0.1, 0.2, 0.3), (0.9, 0.8, 0.3)):  # either direction
        bound = guided(model, WEIGHT, rule).bind(condition)
        for out, factor in zip(momentum_run(bound, times), factors, strict=True):
            assert (out - (c + (WEIGHT - 1) * factor * difference)).abs().max() < 1e-12
    for factor in factors:
        theirs = theirs_apg.normalized_guidance(
            c, OUTPUTS["null"], WEIGHT - 1, buffer, eta=1.0, use_original_formulation=True
        )
        assert (theirs - (c + (WEIGHT - 1) * factor * difference)).abs().max() < 1e-6
    bound = guided(model, WEIGHT, rule).bind(condition)
    first, second, again, rejected, third = momentum_run(bound, (0.1, 0.3, 0.3, 0.2, 0.3))
    assert torch.equal(second, again)
    assert torch.equal(second, rejected), "its step goes on from the one at 0.1"
    assert (third - (c + (WEIGHT - 1) * factors[2] * difference)).abs().max() < 1e-12
    assert not torch.equal(first, second)


def test_momentum_of_rows_is_their_own() -> None:
    model, condition = fixed("denoised")
    bound = guided(model, WEIGHT, APG(eta=1.0, momentum=-0.5)).bind(condition)
    bound.evaluate(STATE, 0.1)
    bound.evaluate_rows(STATE, [0.2, 0.3, 0.4])
    mixed = bound.select([2, 0]).evaluate_rows(STATE[[2, 0]], [0.3, 0.3])[0]  # row 2 goes back, row 0 goes on
    factors = torch.tensor([0.5, 0.75], dtype=torch.float64)[:, None, None]
    c, u = OUTPUTS["cond"][[2, 0]], OUTPUTS["null"][[2, 0]]
    assert (mixed - (c + (WEIGHT - 1) * factors * (c - u))).abs().max() < 1e-12


def test_momentum_of_adaptive_rows_is_as_alone() -> None:
    """The pair evaluates anew after accepted steps alone: those rows' updates are remembered with all the others'."""
    sharp, broad = (GaussianOracle([0.0, 1.0], s).model() for s in (0.25, 0.49))
    model = guided(composed(sharp, weak=broad), Guidance(2.0, against="weak"), APG(momentum=-0.5))
    x = STATE[:, :, 0] * torch.tensor([[0.3], [1.0], [4.0]], dtype=torch.float64)
    options = {"method": "heun21", "rtol": 1e-2, "atol": 1e-2}
    together = pf.solve_ode(model, x, [0.05, 0.95], **options)
    assert len(set(together.rejected.tolist())) > 1, "rows accept and reject at different times"
    for row in range(3):
        assert torch.equal(together.x[-1, row], pf.solve_ode(model, x[row : row + 1], [0.05, 0.95], **options).x[-1, 0])


def test_searches_refuse_what_is_remembered_of_rows() -> None:
    sharp, broad = (GaussianOracle([0.0, 1.0], s).model() for s in (0.25, 0.49))
    both = composed(sharp, weak=broad)
    plain = guided(both, Guidance(2.0, against="weak"), APG())
    momentum = dataclasses.replace(plain, rule=APG(momentum=-0.5))
    assert (plain.remembers, residual(sharp, 2.0, STATE).remembers) == (Remembers.NOTHING, Remembers.NOTHING)
    for model in (momentum, residual(sharp, 2.0), composed(sharp, other=momentum), guided(momentum, 1.0)):
        assert model.remembers is Remembers.ROWS
        with pytest.raises(ArgumentError, match=r"model: got .*whose answers depend on earlier calls"):
            pf.search(model, lambda x, context: x[:, 0], 10, shape=(1, 2))


def test_runs_of_one_model_remember_nothing_of_each_other() -> None:
    sharp, broad = (GaussianOracle([0.0, 1.0], s).model() for s in (0.25, 0.49))
    model = guided(composed(sharp, weak=broad), Guidance(2.0, against="weak"), APG(momentum=-0.5))
    runs = [pf.sample(model, (4, 2), solver=solver, steps=6, dtype=torch.float64) for solver in ("heun", "heun")]
    assert torch.equal(*runs)
    one = pf.sample(model, (1, 2), solver="heun", steps=6, samples=torch.tensor([2]), dtype=torch.float64)
    assert torch.equal(one, runs[0][2:3])


def test_plain_rules_are_guidance_of_the_plan_with_any_solver() -> None:
    sharp, broad = (GaussianOracle([0.0, 1.0], s).model() for s in (0.25, 0.49))
    both = composed(sharp, weak=broad)
    guidance = Guidance(2.0, against="weak")
    for solver in ("heun", "dpmpp_2m"):
        ours = pf.sample(guided(both, guidance), (4, 2), solver=solver, steps=8, dtype=torch.float64)
        plans = pf.sample(both, (4, 2), solver=solver, steps=8, guidance=guidance, dtype=torch.float64)
        assert (ours - plans).abs().max() < 1e-12


def test_states_are_held_while_no_network_runs() -> None:
    """Held until K, N(m, s^2) is then carried by its exact flow: x_1 = m + s (x_0 - alpha m) / nu."""
    oracle, held = GaussianOracle([1.0, -0.5], 0.49), 0.1
    m, s = torch.tensor([1.0, -0.5], dtype=torch.float64), 0.7
    both = composed(oracle.model(), other=oracle.model())
    model = guided(both, Guidance(3.0, against="other"), CFGZero(hold_until=held))
    start = normal(4, 2)
    nu = np.hypot(held * s, 1 - held)
    assert (oracle.flow_map(start, held, 1.0) - (m + s * (start - held * m) / nu)).abs().max() < 1e-12
    grid = [0.0, 0.05, held, 0.4, 0.7, 1.0]
    for solver in ("euler", "ddim"):
        bound = model.bind()
        whole = pf.sample(model, start, solver=solver, grid=grid)
        assert (whole - pf.sample(model, start, solver=solver, grid=grid[2:])).abs().max() < 1e-13
    assert bound.evaluate(start, 0.05)[0].eq(0).all()
    assert bound.calls == 0
    some = bound.evaluate_rows(start, [0.05, 0.1, 0.2, 0.05])[0]
    assert torch.equal(some[[0, 3]], torch.zeros(2, 2, dtype=torch.float64))
    assert (some[1:2] - bound.evaluate(start[1:2], 0.1)[0]).abs().max() < 1e-13
    noise = guided(composed(oracle.model("noise"), other=oracle.model("noise")), model.weight, model.rule)
    assert (pf.sample(noise, start, solver="euler", grid=[0.01, held, 0.5]) - start).abs().max() > 0.1
    assert (pf.sample(noise, start, solver="euler", grid=[0.01, 0.05, held]) - start).abs().max() < 1e-14


@pytest.mark.parametrize("name", RULES)
def test_guided_outputs_are_differentiated_with_their_coefficients(name) -> None:
    def output(x, c, u):
        model = adapt(lambda x, t, y: y + 0.1 * x.sin(), "velocity", null={"y": u})
        return guided(model, WEIGHT, RULES[name]).bind({"y": c}).evaluate(x, T)[0]

    tensors = [x[:1, :, :2].clone().requires_grad_() for x in (STATE, OUTPUTS["cond"], OUTPUTS["null"])]
    assert torch.autograd.gradcheck(output, tensors)


def test_adaptive_solvers_and_likelihoods_take_a_guided_model() -> None:
    sharp, broad = (GaussianOracle([0.0, 1.0], s).model() for s in (0.25, 0.49))
    both, guidance = composed(sharp, weak=broad), Guidance(1.5, against="weak")
    start = normal(3, 2)
    model = guided(both, guidance, APG(eta=0.0))
    fine = pf.sample(model, start, solver="rk4", steps=40)
    adaptive = pf.solve_ode(model, start, rtol=1e-5, atol=1e-6, times=(0.0, 1.0))
    assert (adaptive.x[-1] - fine).abs().max() < 1e-3
    plain = pf.log_density(both, start[:1], guidance=guidance).value
    assert (pf.log_density(guided(both, guidance), start[:1]).value - plain).abs().max() < 1e-6


@pytest.mark.parametrize("delta", [1.0, 0.5])
def test_residual_guidance_is_the_recursion_of_its_noise(delta) -> None:
    z, w = normal(3, 2, 5, seed=9), 1.4
    for kind, path in [(kind, Linear()) for kind in KINDS] + [("noise", VPLinear())]:
        model, condition = fixed(kind, path)
        alpha, sigma, _, _ = model.interpolant(T)
        of_state, of_output = model.prediction.quantity("noise", T)
        output = evaluated(residual(model, w, z, delta=delta), condition)
        n_c = of_state * STATE + of_output * OUTPUTS["cond"]
        n_z = delta * (STATE - alpha * z) / sigma
        expected = n_z + w * (n_c - n_z)
        assert (of_state * STATE + of_output * output - expected).abs().max() < 1e-12 * expected.abs().max()


def test_residual_guidance_counts_its_rows() -> None:
    model, condition = fixed()
    self_negative = residual(model, 1.3, OUTPUTS["null"]).bind(condition)
    once = residual(model, 1.3).bind(condition)
    for t in (0.1, 0.3, 0.5):
        self_negative.evaluate(STATE, t)
        once.evaluate(STATE, t)
    assert (self_negative.rows, once.rows) == (9, 12)
    first = residual(model, 1.3).bind(condition).evaluate(STATE, 0.1)[0]
    full = OUTPUTS["null"] + 1.3 * (OUTPUTS["cond"] - OUTPUTS["null"])
    assert (first - full).abs().max() < 1e-13, "at its first evaluation it is guidance by both branches"
    assert torch.equal(residual(model, 1.0, OUTPUTS["null"]).bind(condition).evaluate(STATE, T)[0], OUTPUTS["cond"])
    assert torch.equal(self_negative.evaluate(STATE, 1.0)[0], OUTPUTS["cond"])
    rows = once.select([2, 1]).evaluate_rows(STATE[[2, 1]], [0.6, 0.7])[0]
    assert (rows[1:] - once.evaluate(STATE, 0.7)[0][1:2]).abs().max() < 1e-12


def test_refuses_in_words() -> None:
    model, condition = fixed()
    unconditional = adapt(lambda x, t: x)
    for make, message in (
        (lambda: Rescale(1.2), r"phi: got 1.2, expected a share in \[0, 1\]"),
        (lambda: CFGZero(hold_until=1.0), "It covers every step"),
        (lambda: APG(cap=0.0), "cap: got 0.0"),
        (lambda: APG(momentum=1.0), "momentum: got 1.0"),
        (lambda: MagnitudeAware(-1.0), "damping: got -1.0"),
        (lambda: guided(model, float("nan")), "weight: got nan"),
        (lambda: guided(model, torch.tensor([1.0, torch.inf])), "weight: got NaN or infinity"),
        (lambda: guided(model, 2.0, "apg"), "rule: got str"),  # type: ignore[arg-type]
        (
            lambda: guided(unconditional, 4.0).bind(),
            "weight 4.0 needs an unconditional prediction. Pass null=",
        ),
        (lambda: guided(model, 4.0).bind(condition, guidance=2.0), "the model holds its own weight"),
        (lambda: residual(unconditional, 1.4).bind(), "needs an unconditional prediction"),
        (lambda: guided(model, 4.0).bind(condition).evaluate(STATE, T, ("cond", "null")), "'cond' alone"),
    ):
        with pytest.raises(ArgumentError, match=message):
            make()
    with pytest.raises(UnknownNameError, match="denoised"):
        APG(space="latent")
    with pytest.raises(DtypeError, match="weight"):
        guided(model, torch.ones(3, dtype=torch.int64))
    single, one = fixed(outputs={"cond": torch.ones(3, 1), "null": torch.zeros(3, 1)})
    bound = guided(single, 2.0, Rescale()).bind(one)
    with pytest.raises(ShapeError, match="one has no spread"):
        bound.evaluate(torch.ones(3, 1), T)


@pytest.mark.parametrize("name", RULES)
def test_branches_that_agree_or_vanish_change_nothing(name) -> None:
    """Equal branches give the conditional output; an unconditional output of zero, w times the conditional one."""
    c = OUTPUTS["cond"].clone().requires_grad_()
    model, condition = fixed("noise", outputs={"cond": c, "null": c.detach()})
    same = guided(model, WEIGHT, RULES[name]).bind(condition).evaluate(STATE, T)[0]
    assert (same - c).abs().max() < 1e-13
    assert torch.autograd.grad(same.sum(), c)[0].isfinite().all()
    zero, condition = fixed(outputs={"cond": c.detach(), "null": torch.zeros_like(c)})
    found = guided(zero, WEIGHT, dataclasses.replace(RULES[name], space="output")).bind(condition).evaluate(STATE, T)[0]
    assert found.isfinite().all()
    if name in ("plain", "zero"):
        assert (found - WEIGHT * c).abs().max() < 1e-13
