"""Region-adaptive sampling: what is exact, what converges, who waits how long, and what is refused."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
from host_reads import no_host_reads
from token_mixture import TokenMixture, half_point_masses
from torch import Tensor, nn

import pushforward as pf
from pushforward.errors import ArgumentError, ShapeError, UnknownNameError
from pushforward.models import BoundWrapped, Guidance, Model
from pushforward.models.nets import DigitDiT
from pushforward.models.regional import (
    BoundRegionAdaptive,
    RegionAdaptive,
    RegionSchedule,
    Tokens,
    TokenSites,
    least_active,
    most_drifted,
    token_sites,
)
from pushforward.models.regional.selectors import SELECTORS, choose

LABEL = {"label": torch.tensor([1, 2, 3])}


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(scope="module")
def model() -> Model:
    """A transformer with random weights whose clock stands still, in float64."""
    torch.manual_seed(0)
    net = DigitDiT(16, 2)
    for p in net.parameters():  # zero-initialised layers would hide everything behind them
        nn.init.normal_(p, std=0.2)
    net.double().requires_grad_(False)
    null = {"label": torch.tensor([10])}
    return pf.models.adapt(net, "velocity", time=lambda t: 0.5, null=null, channels=1)


def around(model: Model, ratio: float = 0.5, warmup: int = 2, **options) -> RegionAdaptive:
    schedule = RegionSchedule(ratio, warmup=warmup, resets=options.pop("resets", ()))
    return RegionAdaptive.around(model, schedule=schedule, **options)


def bound(model: RegionAdaptive, condition: dict[str, Tensor] = LABEL) -> BoundRegionAdaptive:
    found = model.bind(condition)
    assert isinstance(found, BoundRegionAdaptive)
    return found


def oracle(net: nn.Module) -> Model:
    return pf.models.adapt(net, "velocity")


def token_ids(rows: int, active: Tensor | None, tokens: int) -> Tensor:
    """Whether each token is active, [rows, tokens]."""
    if active is None:
        return torch.ones(rows, tokens, dtype=torch.bool)
    return torch.zeros(rows, tokens, dtype=torch.bool).scatter(1, active, True)


# --- what is exact ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("branches", [("cond",), ("cond", "null")], ids=len)
def test_dense_evaluations_are_those_of_the_model_bit_for_bit(model, branches):
    plain = model.bind(LABEL)
    for fast in (around(model, 1.0), around(model, 0.5, warmup=4)):
        run = fast.bind(LABEL)
        for k in range(4):
            x = normal(3, 1, 28, 28, seed=k)
            pairs = zip(run.evaluate(x, k / 4, branches), plain.evaluate(x, k / 4, branches), strict=True)
            assert all(torch.equal(a, b) for a, b in pairs)


def test_searches_refuse_what_is_remembered_of_rows(model: Model) -> None:
    with pytest.raises(ArgumentError, match="RegionAdaptive, whose answers depend on earlier calls"):
        pf.search(around(model), lambda x, context: x.flatten(1).sum(1), 20, shape=(3, 1, 28, 28), condition=LABEL)


def test_ratio_one_samples_what_the_model_samples(model):
    fast, start = around(model, 1.0), normal(3, 1, 28, 28)
    for solver in ("euler", "heun", "ab2"):
        given = {"solver": solver, "steps": 4, "guidance": 2.0, "condition": LABEL}
        assert torch.equal(pf.sample(fast, start, **given), pf.sample(model, start, **given))


@pytest.mark.parametrize("branches", [("cond",), ("cond", "null")], ids=len)
def test_a_partial_pass_on_an_unchanged_state_is_the_dense_one(model, branches):
    """The sums over keys are the same numbers in another blocking: rounding alone, and kept tokens not even that."""
    x, run = normal(3, 1, 28, 28), bound(around(model))
    for k in range(2):
        dense = run.evaluate(x, k / 4, branches)
    for k in range(2, 5):
        partial = run.evaluate(x, k / 4, branches)
        assert run.log[-1].active == 25
        assert run.active.shape == (3, 25)
        kept = ~token_ids(3, run.active, 49).view(3, 1, 7, 7).repeat_interleave(4, 2).repeat_interleave(4, 3)
        for a, b in zip(partial, dense, strict=True):
            assert (a - b).abs().max() < 1e-6 * b.abs().max()
            assert torch.equal(a[kept], b[kept])


def test_active_tokens_of_a_changed_state_see_themselves_and_the_kept_keys():
    """The oracle with the states of kept tokens as they were when last seen is exactly what a partial pass computes."""
    net = half_point_masses()
    run = bound(around(oracle(net), warmup=1), {})
    first, second = normal(5, 8, 2), normal(5, 8, 2, seed=1)
    before = run.evaluate(first, 0.2)[0]
    after = run.evaluate(second, 0.4)[0]
    here = token_ids(5, run.active, 8)
    mixed = torch.where(here[..., None], second, first)
    times = torch.full((5, 8), 0.2, dtype=torch.float64).masked_fill(here, 0.4)
    exact = net(mixed, times)
    torch.testing.assert_close(after[here], exact[here], rtol=1e-12, atol=1e-12)
    assert torch.equal(after[~here], before[~here])


def test_stages_and_rejected_steps_take_the_place_of_what_they_repeat(model):
    """A run in which evaluations were repeated with other states goes on like one that never saw them."""
    states = [normal(3, 1, 28, 28, seed=k) for k in range(5)]
    plain, repeated = bound(around(model)), bound(around(model))
    for k, x in enumerate(states):
        t = 0.1 * k
        if k:
            repeated.evaluate(normal(3, 1, 28, 28, seed=9), t + 0.05)  # a step too far, rejected
            repeated.evaluate(normal(3, 1, 28, 28, seed=8), t)
        assert torch.equal(repeated.evaluate(x, t)[0], plain.evaluate(x, t)[0])
    assert [entry.index for entry in plain.log] == [0, 1, 2, 3, 4]
    assert [entry.index for entry in repeated.log] == [0, *[k for k in range(1, 5) for _ in range(3)]]


def test_going_further_back_begins_with_a_dense_evaluation(model):
    run = bound(around(model))
    for t in (0.0, 0.1, 0.2, 0.3, 0.15):
        run.evaluate(normal(3, 1, 28, 28), t)
    assert [entry.active for entry in run.log] == [49, 49, 25, 25, 49]
    assert run.log[-1].index == 2


def test_times_may_fall(model):
    run = bound(around(model))
    for t in (1.0, 0.8, 0.6, 0.6, 0.4):
        run.evaluate(normal(3, 1, 28, 28), t)
    assert [(entry.index, entry.active) for entry in run.log] == [(0, 49), (1, 49), (2, 25), (2, 25), (3, 25)]


def test_branches_keep_caches_of_their_own(model):
    """Guidance that ends goes on with the rows of the branch that is left; one that begins is dense once."""
    x = [normal(3, 1, 28, 28, seed=k) for k in range(6)]
    both, alone = bound(around(model)), bound(around(model))
    pairs = [both.evaluate(x[k], k / 8, ("cond", "null")) for k in range(4)]
    nulls = bound(around(model))
    for k in range(4):
        nulls.evaluate(x[k], k / 8, ("null",))
    assert torch.equal(both.evaluate(x[4], 0.5, ("cond",))[0].isfinite().all(), torch.tensor(True))
    assert [entry.active for entry in both.log] == [49, 49, 25, 25, 25]
    both.evaluate(x[5], 0.7, ("cond", "null"))
    assert both.log[-1].active == 49
    for k in range(2):  # dense: rows of one call and of two are the same numbers up to rounding
        single = alone.evaluate(x[k], k / 8, ("cond",))[0]
        torch.testing.assert_close(pairs[k][0], single, rtol=1e-12, atol=1e-12)
    guided = pf.sample(
        around(model), x[0], solver="euler", steps=6, guidance=Guidance(2.0, interval=(0.3, 0.7)), condition=LABEL
    )
    assert guided.isfinite().all()


def test_one_call_and_one_for_each_branch_agree(model):
    given = {"solver": "euler", "steps": 6, "guidance": 2.0, "condition": LABEL}
    start, apart = normal(3, 1, 28, 28), around(dataclasses.replace(model, sequential=True))
    together = pf.sample(around(model), start, **given)
    torch.testing.assert_close(pf.sample(apart, start, **given), together, rtol=1e-9, atol=1e-9)


def test_a_run_leaves_no_trace(model):
    patched = lambda: sum("forward" in vars(module) for module in model.network.modules())  # noqa: E731
    given = {"solver": "euler", "steps": 5, "condition": LABEL}
    start, fast = normal(3, 1, 28, 28), around(model)
    first = pf.sample(fast, start, **given)
    assert patched() == 0
    run = bound(fast)
    with pytest.raises(ShapeError):
        run.evaluate(normal(3, 1, 27, 28), 0.0)
    assert patched() == 0
    assert torch.equal(pf.sample(fast, start, **given), first), "two runs share nothing"


def test_gradients_flow_through_active_and_kept_tokens(model):
    start = normal(1, 1, 28, 28).requires_grad_(True)
    given = {"solver": "euler", "steps": 4, "condition": {"label": torch.tensor([3])}, "differentiable": True}
    end = pf.sample(around(model, warmup=1), start, **given)
    direction = normal(1, 1, 28, 28, seed=5)
    (gradient,) = torch.autograd.grad((end * direction).sum(), start)
    step = 1e-6
    ends = [
        pf.sample(around(model, warmup=1), start.detach() + s * step * direction, **given | {"differentiable": False})
        for s in (1, -1)
    ]
    slope = ((ends[0] - ends[1]) * direction).sum() / (2 * step)
    assert (gradient * direction).sum().item() == pytest.approx(slope.item(), rel=1e-6)


# --- what converges --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mixture() -> tuple[Model, Tensor, Tensor]:
    """Eight tokens of which four are points, states, and where they go."""
    plain, start = oracle(half_point_masses()), normal(64, 8, 2, seed=7)
    return plain, start, pf.sample(plain, start, solver="midpoint", steps=200)


def error(model: Model, start: Tensor, exact: Tensor, steps: int) -> float:
    return (pf.sample(model, start, solver="euler", steps=steps) - exact).square().mean().sqrt().item()


def test_table_of_selectors(mixture):
    """28 steps at the cost of 16: the tokens of known end are kept at no cost, if their changes are looked at."""
    plain, start, exact = mixture
    dense, coarse = error(plain, start, exact, 28), error(plain, start, exact, 16)
    found = {name: error(around(plain, warmup=4, selector=name), start, exact, 28) for name in SELECTORS}
    run = bound(around(plain, warmup=4), {})
    for k in range(28):
        run.evaluate(start, k / 28)
    assert run.share * 28 == 16
    assert max(found["change"], found["drift"]) <= 1.05 * dense
    assert found["change"] < coarse < found["random"] < found["std"]


def test_order_one_for_any_selection_of_bounded_age():
    """Tokens in turn, so that none is older than one evaluation: the error is first order in the step."""
    generator = torch.Generator().manual_seed(3)
    means = torch.randn(6, 3, 2, generator=generator, dtype=torch.float64)
    net = TokenMixture(means, torch.full((6,), 0.4, dtype=torch.float64))
    plain, start = oracle(net), normal(8, 6, 2, seed=1)
    exact = pf.sample(plain, start, solver="rk4", steps=64)
    turns = around(plain, warmup=1, selector=lambda tokens: torch.zeros_like(tokens.age), starvation=1.0)
    steps = [64, 128, 256]  # the finest of six that double from 8
    errors = [error(turns, start, exact, n) for n in steps]
    slopes = [float(torch.tensor(a / b).log2()) for a, b in itertools.pairwise(errors)]
    assert all(0.85 <= slope <= 1.15 for slope in slopes), slopes


# --- who waits how long ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("selector", sorted(SELECTORS))
def test_index_sets_are_equal_in_size_and_ascending(model, selector):
    run = bound(around(model, 0.3, selector=selector, seed=5))
    for k in range(5):
        run.evaluate(normal(3, 1, 28, 28, seed=k), k / 8)
        if k >= 2:
            assert run.active.shape == (3, 49 - 34)
            assert run.active.dtype == torch.int64
            assert (run.active.diff(dim=1) > 0).all()
            assert run.active.min() >= 0
            assert run.active.max() < 49


def test_of_equal_tokens_the_first_are_chosen():
    assert choose(torch.zeros(2, 7), 3).tolist() == [[0, 1, 2]] * 2
    assert choose(torch.tensor([[0.0, 1.0, 2.0, 1.0, 1.0]]), 3).tolist() == [[1, 2, 3]]


@pytest.mark.parametrize("starvation", [0.5, 2.0])
def test_every_token_comes_within_the_bound(starvation):
    """Scores of range R: a token older than R / kappa is beaten by each other token at most once."""
    scores = torch.linspace(-3, 0, 12, dtype=torch.float64).expand(2, -1)
    net = TokenMixture(normal(12, 2, 2), torch.full((12,), 0.3, dtype=torch.float64))
    run = bound(around(oracle(net), 0.25, warmup=1, selector=lambda tokens: scores, starvation=starvation), {})
    limit, waited, longest = int(3 / starvation) + 1 + 11 // 3, torch.zeros(2, 12), 0.0
    for k in range(80):
        run.evaluate(normal(2, 12, 2, seed=k), k / 100)
        waited = torch.where(token_ids(2, run.active, 12), 0.0, waited + 1)
        longest = max(longest, waited.max().item())
    assert 3 < longest <= limit


def test_without_ages_tokens_may_starve():
    scores = torch.linspace(-3, 0, 12, dtype=torch.float64).expand(2, -1)
    net = TokenMixture(normal(12, 2, 2), torch.full((12,), 0.3, dtype=torch.float64))
    run = bound(around(oracle(net), 0.25, warmup=1, selector=lambda tokens: scores, starvation=0.0), {})
    for k in range(5):
        run.evaluate(normal(2, 12, 2, seed=k), k / 10)
    assert run.active.tolist() == [[9, 10, 11]] * 2


def test_changes_are_for_each_evaluation_that_they_took():
    """A token that was kept twice has its change divided by three; one never seen to change has what it had."""
    seen: list[Tokens] = []
    turn = torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])

    def selector(tokens: Tokens) -> Tensor:
        seen.append(tokens)
        return turn[tokens.evaluation - 1][None].double()

    net = TokenMixture(normal(2, 2, 2), torch.full((2,), 0.3, dtype=torch.float64))
    run = bound(around(oracle(net), 0.5, warmup=1, selector=selector, starvation=0.0), {})
    outputs = [run.evaluate(normal(1, 2, 2, seed=k), k / 10)[0] for k in range(5)]
    assert [tokens.age.tolist() for tokens in seen] == [[[0, 0]], [[1, 0]], [[0, 1]], [[0, 2]]]
    last = run._memory  # after the fifth evaluation, at which token 1 came back
    assert last is not None
    step = (outputs[4] - outputs[1]).norm(dim=2)
    assert last.change[0, 1].item() == pytest.approx(step[0, 1].item() / 3)
    assert torch.equal(last.stacked(1)[0], outputs[4])


def test_random_choices_are_those_of_their_seed(model):
    sets = {}
    for seed in (0, 0, 1):
        run = bound(around(model, selector="random", seed=seed, warmup=1))
        for k in range(2):
            run.evaluate(normal(3, 1, 28, 28), k / 4)
        sets.setdefault(seed, []).append(run.active)
    assert torch.equal(*sets[0])
    assert not torch.equal(sets[0][0], sets[1][0])
    assert not torch.equal(sets[0][0][0], sets[0][0][1]), "rows choose for themselves"


def test_drift_is_the_change_so_far():
    """A token that changes half as fast, and has waited three times as long, has gone further."""
    tokens = Tokens(torch.ones(1, 1, 2, 1), torch.tensor([[1.0, 0.5]]), torch.tensor([[0.0, 2.0]]), 4, 0)
    assert most_drifted(tokens).exp().tolist() == [pytest.approx([1.0, 1.5])]


def test_low_deviations_come_first():
    output = torch.tensor([[0.0, 4.0], [1.0, 2.0], [0.0, 2.0]]).view(1, 1, 3, 2)
    tokens = Tokens(output, torch.ones(1, 3), torch.zeros(1, 3), 1, 0)
    assert least_active(tokens).argsort(dim=1, descending=True).tolist() == [[1, 2, 0]]


def test_nothing_is_read_by_the_host():
    run, states = bound(around(oracle(half_point_masses())), {}), [normal(3, 8, 2, seed=k) for k in range(5)]
    with no_host_reads():
        for k, x in enumerate(states):
            run.evaluate(x, k / 8)


# --- schedules and sites ---------------------------------------------------------------------------------------


def test_schedule_of_the_paper():
    """4096 tokens in 30 steps: 1280 skipped after the warm-up, 2816 at the end, about half of them on average."""
    schedule = RegionSchedule(0.5, warmup=4, slope=1 / 16, block=4, multiple=64, evaluations=30, resets=(12, 22))
    counts = schedule.counts(30, 4096)
    assert [4096 - count for count in counts[4:12:4]] == [1280, 1536]
    assert 4096 - counts[-1] == 2816
    assert [k for k, count in enumerate(counts) if count == 4096] == [0, 1, 2, 3, 12, 22]
    assert all((4096 - count) % 64 == 0 for count in counts)
    assert schedule.average(30, 4096) == pytest.approx(0.61, abs=0.01)
    assert schedule.count(99, 4096) == schedule.count(29, 4096)


def test_counts_stay_between_one_and_all():
    steep = RegionSchedule(0.1, warmup=1, slope=0.5, block=2, evaluations=20)
    assert min(steep.counts(20, 10)) == 1
    assert max(steep.counts(20, 10)) == 10
    assert RegionSchedule(0.3, warmup=1).count(1, 10) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratio": 0.0}, r"ratio: got 0\.0, expected a share"),
        ({"ratio": 1.1}, "ratio"),
        ({"ratio": float("nan")}, "ratio"),
        ({"warmup": 0}, "warmup: got 0, expected an integer of at least 1"),
        ({"warmup": 4, "resets": (3,)}, r"resets: got 3, expected evaluations from 4 on"),
        ({"slope": 0.1}, "evaluations: expected their number"),
        ({"multiple": 0}, "multiple"),
        ({"block": 1.5}, "block"),
    ],
)
def test_bad_schedules(options, message):
    with pytest.raises(ArgumentError, match=message):
        RegionSchedule(**options)


def test_bad_models(model):
    with pytest.raises(ArgumentError, match="network: got Sequential with 0, expected a transformer over a grid"):
        RegionAdaptive.around(dataclasses.replace(model, network=nn.Sequential(nn.Conv2d(1, 1, 3))))
    with pytest.raises(ArgumentError, match="network: got function"):
        RegionAdaptive.around(dataclasses.replace(model, network=lambda x, t: x))
    with pytest.raises(UnknownNameError, match=r"tap: got 'blocks\.0\.to_k'"):
        RegionAdaptive.around(model, sites=TokenSites("embed", ("blocks.0.to_k",), "leave"))
    with pytest.raises(ArgumentError, match="selector: got 'best'"):
        around(model, selector="best")
    with pytest.raises(ArgumentError, match="starvation"):
        around(model, starvation=-1.0)
    with pytest.raises(ArgumentError, match="schedule"):
        RegionAdaptive.around(model, schedule=0.5)


def test_bad_calls(model):
    run = bound(around(model, warmup=1))
    run.evaluate(normal(3, 1, 28, 28), 0.0)
    with pytest.raises(ShapeError, match="x: got 2 rows, expected 3, as before"):
        run.evaluate(normal(2, 1, 28, 28), 0.5, ("null",))
    wrong = around(model, warmup=1, selector=lambda tokens: tokens.age[:, :3]).bind(LABEL)
    wrong.evaluate(normal(3, 1, 28, 28), 0.0)
    with pytest.raises(ShapeError, match=r"selector: got \[3, 3\], expected \[3, 49\]"):
        wrong.evaluate(normal(3, 1, 28, 28), 0.5)


def test_rows_with_times_of_their_own_are_dense(model):
    run, x = bound(around(model, warmup=1)), normal(3, 1, 28, 28)
    run.evaluate(x, 0.0)
    expected = model.bind(LABEL).evaluate_rows(x, [0.1, 0.2, 0.3])[0]
    assert torch.equal(run.evaluate_rows(x, [0.1, 0.2, 0.3])[0], expected)
    assert len(run.log) == 1
    assert isinstance(run.select([0, 1]), BoundWrapped)


def test_sites_of_the_bundled_transformer():
    sites = token_sites(DigitDiT(16, 2))
    assert len(sites.keys) == 4
    assert sites.entry == "embed"
