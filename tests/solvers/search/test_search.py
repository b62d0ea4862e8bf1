"""`search`: results that do not depend on batches, orders or numbers of candidates; what it returns and refuses."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from search_oracles import gaussian_line, three_modes
from small_searches import samplers
from torch import nn

import pushforward as pf
from pushforward.errors import ArgumentError, DtypeError, ShapeError, UnknownNameError
from pushforward.models import MixtureOracle
from pushforward.models.pfgm import pfgm
from pushforward.solvers.search import SVDD, BestOfN, RolloverBudgetForcing, methods, search

DOUBLE = torch.float64
METHODS = dict(methods())
MODES = three_modes()
IDS = torch.tensor([5, 2**31 - 1, 0])


class Wide(nn.Module):
    """A float32 network of matrix products, whose rounding depends on how many rows there are."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.layers = nn.Sequential(nn.Linear(3, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 2))

    def forward(self, x, t):
        return self.layers(torch.cat([x, t[:, None]], 1)) - x


WIDE = pf.models.adapt(Wide(), "velocity", "linear")


def target(x, context):
    """Highest at each request's own point, so that a mixed-up context shows."""
    return -(x - context["point"]).square().sum(1)


def run(name, order=(0, 1, 2), **options):
    """A small search of three requests, in any order, with contexts of their own."""
    rows = torch.tensor(order)
    points = torch.tensor([[0.5, 0.0], [0.0, -0.5], [0.2, 0.3]])[rows]
    settings = {"shape": (len(rows), 2), "steps": 4, "seed": 1, "method": METHODS[name]} | options
    budget = 60 if settings.get("solver") is None else 90
    return search(WIDE, target, budget, requests=IDS[rows], context={"point": points}, **settings)


@pytest.mark.parametrize(("name", "solver"), samplers())
def test_results_do_not_depend_on_the_batch(name, solver):
    """Network calls of 1, 3, 7 and all rows, and requests in another order: to 1e-6; filled up to 16, bit for bit.

    In calls of 16 rows the products of matrices treat all rows alike; in calls of 7 the last ones are remainders.
    """
    whole = run(name, solver=solver)
    for batch in (1, 3, 7):
        part = run(name, solver=solver, batch=batch)
        torch.testing.assert_close(part.samples, whole.samples, rtol=0, atol=1e-6)
        assert (part.ledger.nfe == whole.ledger.nfe).all()
    turned = run(name, solver=solver, order=(2, 0, 1))
    torch.testing.assert_close(turned.samples, whole.samples[[2, 0, 1]], rtol=0, atol=1e-6)
    padded, other = (
        run(name, solver=solver, batch=16, pad=True),
        run(name, solver=solver, order=(2, 0, 1), batch=16, pad=True),
    )
    assert torch.equal(other.samples, padded.samples[[2, 0, 1]])
    assert torch.equal(run(name, solver=solver, order=(1,), batch=16, pad=True).samples, padded.samples[[1]])
    assert padded.ledger.nfe.tolist() == whole.ledger.nfe.tolist(), "rows that fill a call belong to nobody"


@pytest.mark.parametrize("name", METHODS)
def test_seeds(name):
    """The same seed, the same samples; another, others; requests of one seed differ."""
    one, again, other = run(name, seed=2**64 - 1), run(name, seed=2**64 - 1), run(name, seed=3)
    assert torch.equal(one.samples, again.samples)
    assert not torch.isclose(one.x, other.x).any()
    assert not torch.isclose(one.x[0], one.x[1]).any()


def test_more_candidates_never_hurt_the_best_of_n():
    """The first N of N + 5 are the same, so the best reward cannot fall."""
    found = [
        search(MODES.model(), MODES.reward, 10**4, shape=(4, 2), method=BestOfN(candidates=n), dtype=DOUBLE)
        for n in (1, 6, 11)
    ]
    assert all((b.best >= a.best).all() for a, b in pairwise(found))
    first, last = found[0].trace.records[0].rewards, found[-1].trace.records[0].rewards
    assert torch.equal(first, last[:, :1])


# --- what comes back ------------------------------------------------------------------------------------------------


def test_samples_are_the_best_first():
    found = search(MODES.model(), MODES.reward, 300, shape=(3, 2), method=SVDD(chains=4), keep=3, dtype=DOUBLE)
    assert found.samples.shape == (3, 3, 2)
    assert found.rewards.shape == (3, 4)
    again = MODES.reward(found.samples.reshape(9, 2), None).reshape(3, 3)
    assert torch.equal(again, found.rewards.gather(1, found.order))
    assert torch.equal(again, again.sort(1, descending=True).values)
    assert torch.equal(found.x, found.samples[:, 0])
    assert torch.equal(found.best, again[:, 0])
    assert "NFE a request, best reward" in str(found)


def test_fewer_samples_than_asked_for():
    """Two chains keep two samples, whatever ``keep`` says."""
    found = search(MODES.model(), MODES.reward, 100, shape=(2, 2), method=SVDD(chains=2), keep=50, dtype=DOUBLE)
    assert found.samples.shape == (2, 2, 2)


def test_held_out_verifier_sees_the_samples_and_costs_nothing():
    asked = []

    def other(x, context):
        asked.append((len(x), context["point"].shape[0]))
        return x[:, 0]

    found = run("svdd", held_out=other, keep=2)
    assert torch.equal(found.held_out, found.samples[..., 0].double())
    assert asked == [(6, 6)]
    assert torch.equal(run("svdd", held_out=other, keep=2, batch=4).held_out, found.held_out)
    assert asked[1:] == [(4, 4), (2, 2)]
    assert (found.ledger.total("rewards") == run("svdd").ledger.total("rewards")).all()


def test_method_by_name_has_its_defaults():
    named = search(MODES.model(), MODES.reward, 100, shape=(1, 2), dtype=DOUBLE)
    built = search(MODES.model(), MODES.reward, 100, shape=(1, 2), method=RolloverBudgetForcing(), dtype=DOUBLE)
    assert torch.equal(named.samples, built.samples)
    assert named.method == str(RolloverBudgetForcing())
    written = {"path": "vp", "grid": "circular", "steps": 10, "solver": RolloverBudgetForcing.solver}
    assert torch.equal(search(MODES.model(), MODES.reward, 100, shape=(1, 2), dtype=DOUBLE, **written).x, named.x)


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"shape": ()}, ShapeError, "shape"),
        ({"shape": (0, 2)}, ShapeError, r"shape: got \(0, 2\), expected \[S, \*D\], positive integers"),
        ({"shape": (2, 0)}, ShapeError, "positive integers"),
        ({"keep": 0}, ArgumentError, "keep: got 0, expected an integer, at least 1"),
        ({"batch": 0}, ArgumentError, "batch: got 0"),
        ({"batch": -3}, ArgumentError, "batch: got -3"),
        ({"pad": True}, ArgumentError, "pad"),
        ({"seed": -1}, ArgumentError, "seed"),
        ({"seed": 2**64}, ArgumentError, "seed"),
        ({"dtype": torch.int64}, DtypeError, "dtype"),
        ({"method": "svd"}, UnknownNameError, "one of"),
        ({"grid": [0.5, 0.75, 1.0]}, ArgumentError, "grid: got noise, with a grid that starts at t = 0.5"),
        ({"requests": torch.tensor([4, 4])}, ArgumentError, "id 4 twice"),
        ({"requests": torch.tensor([4, -1])}, ArgumentError, r"ids in \[0, 2\*\*31\)"),
        ({"requests": torch.tensor([4, 2**31])}, ArgumentError, r"ids in \[0, 2\*\*31\)"),
        ({"requests": torch.tensor([4])}, ShapeError, "requests"),
        ({"requests": torch.tensor([4.0, 5.0])}, DtypeError, "requests"),
        ({"requests": [4, 5]}, DtypeError, "requests: got list"),
        ({"context": {"prompt": ["a", "b", "c"]}}, ShapeError, r"context\['prompt'\]: got 3 entries, expected 2 rows"),
        ({"context": {"y": torch.zeros(4)}}, ShapeError, r"context\['y'\]: got shape \[4\], expected 2 rows"),
        (
            {"condition": {"y": torch.zeros(3)}},
            ShapeError,
            "condition 'y' of branch 'cond': got a batch of 3, expected 2",
        ),
        ({"guidance": 2.0}, ArgumentError, "unconditional"),
        ({"budget": 0}, ArgumentError, r"budget.nfe: got 0"),
        ({"budget": None}, ArgumentError, "budget"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_spent(options, error, message):
    model, options = MODES.model(), dict(options)
    settings = {"shape": (2, 2), "method": "svdd", "dtype": DOUBLE} | options
    budget = settings.pop("budget", 100)
    with pytest.raises(error, match=message):
        search(model, MODES.reward, budget, **settings)
    assert model.network.rows == 0


def test_one_request_does_not_take_another_ones_condition():
    """A batch of two conditions for one request is an error even where it happens to have two rows."""
    with pytest.raises(ShapeError, match="condition 'y' of branch 'cond': got a batch of 2, expected 1 rows"):
        search(MODES.model(), MODES.reward, 100, shape=(1, 2), condition={"y": torch.zeros(2)}, dtype=DOUBLE)


# --- the noise it starts from ---------------------------------------------------------------------------------------


def test_heavy_tailed_noise_of_pfgm():
    """Student variates, as ``sample`` starts from; methods without noise in their steps search with them."""
    oracle = MixtureOracle([0.5, 0.5], [[-1.0], [1.0]], 0.04, "edm")
    light = oracle.model("denoised")
    heavy = pfgm(light, 4)
    options = {"shape": (3, 1), "method": BestOfN(candidates=1), "dtype": DOUBLE}
    found, other = (search(model, lambda x, _: x[:, 0], 10, **options) for model in (heavy, light))
    plain = pf.sample(heavy, (3, 1), samples=torch.arange(3) << 32, solver="euler", steps=10, dtype=DOUBLE)
    assert torch.equal(found.x, plain)
    assert not torch.isclose(found.x, other.x).any()


def test_a_larger_budget_is_worth_it():
    """Ten times the evaluations raise the mean of 60 requests on the line by far more than their standard errors."""
    problem = gaussian_line()
    for name in ("best_of_n", "svdd", "rbf"):
        few, many = (
            search(problem.model(), problem.reward, b, shape=(60, 1), method=name, steps=4, dtype=DOUBLE).best
            for b in (60, 400)
        )
        gap = many.mean() - few.mean()
        assert gap > 3 * ((few.var() + many.var()) / 60).sqrt(), name
