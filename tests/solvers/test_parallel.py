"""Sampling in parallel over time: the chain of a plan, Picard iteration, and what it costs."""

import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

import pushforward as pf
from pushforward import solvers
from pushforward.errors import ArgumentError, DtypeError, NotFiniteError, PlanError, ShapeError
from pushforward.models import GaussianOracle, TwoSided, adapt, adapt_two_sided, prediction, reference_mixture
from pushforward.solvers import Executor
from pushforward.solvers.parallel import picard
from pushforward.solvers.parallel.picard import Picard
from pushforward.solvers.plan import chain

ALL = dict(solvers.solvers())
ORACLES = {path: reference_mixture(path) for path in ("linear", "vp", "edm")}


def lowered(name, times, model, guidance=None, **options):
    path = model.prediction.interpolant
    return solvers.plan(solvers.solver(name, **options), times, path, prediction=model.prediction).lower(
        model.prediction, guidance
    )


def sequential(plan, x0, bound, **options):
    return Executor(plan.optimise(), x0, **options).run(bound.evaluate)


def levels(path, steps, low=-3.0, high=2.5):
    """Times that are uniform in the half log-SNR."""
    return [path.time_at(low + (high - low) * i / steps) for i in range(steps + 1)]


@cache
def short_plan(name):
    read = prediction("denoised")
    return solvers.plan(ALL[name], [0.1 + 0.1 * i for i in range(9)], prediction=read).lower(read)


def evaluates_at_its_states(name):
    """Whether every step evaluates once, and before anything is computed but the input's scale and the state."""
    plan = short_plan(name)
    inputs, states = [e.input for e in plan.evaluations], [plan.start, *(b.state for b in plan.boundaries)]
    return inputs == states[:-1]


CHAINS = [name for name in ALL if evaluates_at_its_states(name)]


def rms(difference):
    return difference.square().mean().sqrt().item()


# --- exactness ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CHAINS)
def test_after_as_many_rounds_as_steps_it_is_the_sequential_run(name):
    """Of every registered solver of one evaluation a step, stochastic and multistep ones too, in every window."""
    oracle, steps = ORACLES["linear"], 10
    model = oracle.model("denoised")
    plan = lowered(name, [0.1 + 0.08 * i for i in range(steps + 1)], model)
    x0 = oracle.sample(3, seed=1, t=0.1)
    exact = sequential(plan, x0, model.bind(), seed=7)
    for window in (1, 4, None):
        x, report = picard(plan, x0, model.bind(), window=window, tolerance=0.0, seed=7)
        # rounding of ten steps, whose weights are of order one, and of a network with slopes of order ten
        assert (x - exact).abs().max() < 1e-12 * exact.abs().max().clamp(min=1)
        assert (report.rounds <= steps).all()
        assert (report.evaluations >= steps).all()
        assert report.calls == report.rounds.max()
        assert report.converged.all()


def test_every_other_solver_is_refused():
    assert {"euler", "ddim", "ddpm", "dpmpp_2m", "dpmpp_3m_sde", "deis_tab3"} <= set(CHAINS)
    assert not {"heun", "unipc", "euler_churn"} & set(CHAINS)
    for name in ALL.keys() - set(CHAINS):
        with pytest.raises(PlanError, match="a one-evaluation plan is needed"):
            chain(short_plan(name))


def test_after_k_rounds_the_first_k_states_are_exact_and_so_is_every_shorter_run():
    oracle = ORACLES["vp"]
    model = oracle.model("noise")
    times = levels(oracle.interpolant, 12)
    x0 = oracle.sample(4, seed=2, t=times[0])
    for k in (1, 3, 6):
        plan = lowered("ddim", times[: k + 1], model)
        x, report = picard(plan, x0, model.bind(), tolerance=0.0, rounds=k)
        assert (x - sequential(plan, x0, model.bind())).abs().max() < 1e-13
        assert report.evaluations.tolist() == [k * (k + 1) // 2] * 4


@pytest.mark.parametrize("name", ["ddim", "ddpm", "euler_ancestral", "dpmpp_2m_sde"])
def test_a_stochastic_plan_gives_the_sample_of_the_sequential_run(name):
    """Noise is the plan's own: to a small tolerance the same sample, and not another one from the same law."""
    oracle = ORACLES["vp"]
    model = oracle.model("noise")
    options = {"eta": 1.0} if name == "ddim" else {}
    plan = lowered(name, levels(oracle.interpolant, 40), model, **options)
    assert plan.stochastic
    ids = torch.tensor([5, 0, 9])
    x0 = oracle.sample(3, seed=1, t=plan.grid[0])
    exact = sequential(plan, x0, model.bind(), seed=3, samples=ids)
    x, report = picard(plan, x0, model.bind(), tolerance=1e-4, seed=3, samples=ids)
    assert rms(x - exact) < 1e-3
    assert report.rounds.max() < 25
    other, _ = picard(plan, x0, model.bind(), tolerance=1e-4, seed=4, samples=ids)
    assert rms(other - exact) > 0.1


# --- how many rounds ---------------------------------------------------------------------------------------------


def test_rounds_of_the_reference_mixture():
    """DDIM in 50 steps, uniform in lam over [-3, 2.5]: 6, 7, 11 and 16 rounds to errors of 1e-2, 1e-3, 1e-6, 1e-12."""
    oracle = ORACLES["vp"]
    model = oracle.model("denoised")
    plan = lowered("ddim", levels(oracle.interpolant, 50), model)
    x0 = oracle.sample(16, seed=5, t=plan.grid[0])
    exact = sequential(plan, x0, model.bind())
    for rounds, error in ((6, 1e-2), (7, 1e-3), (11, 2e-6), (16, 1e-12)):
        x, report = picard(plan, x0, model.bind(), tolerance=0.0, rounds=rounds)
        assert rms(x - exact) < error
        assert not report.converged.any()
    x, report = picard(plan, x0, model.bind(), window=10, tolerance=0.1)
    assert report.rounds.max() <= 10
    assert report.evaluations.mean() < 85
    assert rms(x - exact) < 0.05


def test_rounds_and_errors_follow_the_tolerance():
    oracle = ORACLES["vp"]
    model = oracle.model("denoised")
    plan = lowered("ddim", levels(oracle.interpolant, 30), model)
    x0 = oracle.sample(4, seed=5, t=plan.grid[0])
    exact = sequential(plan, x0, model.bind())
    rounds, errors = [], []
    for tolerance in (1.0, 0.1, 1e-2, 1e-4, 1e-8):
        x, report = picard(plan, x0, model.bind(), tolerance=tolerance)
        rounds.append(report.rounds)
        errors.append(rms(x - exact))
    assert (np.diff(rounds, axis=0) >= 0).all()
    assert rounds[-1].max() < 20
    assert errors[2] > errors[3] > errors[4]
    assert errors[-1] < 1e-7


def test_every_path_needs_the_same_rounds():
    """States are scaled to those of a variance-preserving path; unscaled, this run takes 13 rounds on EDM's."""
    found = []
    for path in ("vp", "linear", "edm"):
        oracle = ORACLES[path]
        model = oracle.model("denoised")
        plan = lowered("ddim", levels(oracle.interpolant, 50), model)
        size = sum(c**2 for c in oracle.interpolant(plan.grid[0])[:2]) ** 0.5
        x0 = size * oracle.pairs(2, seed=5)[0]
        _, report = picard(plan, x0, model.bind(), window=10)
        found.append((report.rounds.tolist(), report.evaluations.tolist()))
    assert found[0] == found[1] == found[2]


# --- acceleration -------------------------------------------------------------------------------------------------


def perceptron():
    """A field of five layers with random weights, far from any flow of a mixture."""
    generator = torch.Generator().manual_seed(0)
    sizes = ((9, 32), (32, 32), (32, 32), (32, 32), (32, 8))
    weights = [1.6 / n**0.5 * torch.randn(n, m, generator=generator, dtype=torch.float64) for n, m in sizes]

    def network(x, t):
        hidden = torch.cat([x, t[:, None]], 1)
        for weight in weights[:-1]:
            hidden = torch.tanh(hidden @ weight)
        return 2 * hidden @ weights[-1]

    return adapt(network, time_dtype=torch.float64)


@pytest.mark.parametrize(("field", "eta"), [("mixture", 0.0), ("mixture", 1.0), ("perceptron", 0.0)])
def test_acceleration_saves_rounds_and_has_the_same_fixed_point(field, eta):
    if field == "mixture":
        model, times = ORACLES["vp"].model("denoised"), levels(ORACLES["vp"].interpolant, 50)
        x0 = ORACLES["vp"].sample(8, seed=5, t=times[0])
    else:
        model, times = perceptron(), [i / 50 for i in range(51)]
        x0 = torch.randn(8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    plan = lowered("ddim", times, model, eta=eta)
    exact = sequential(plan, x0, model.bind())
    rounds = {}
    for memory in (0, 3):
        run = Picard(plan, x0, model.bind(), 50, 0.0, 0, None, memory)
        with torch.no_grad():
            while run.count < 30 and rms(run.states[-1] - exact) > 1e-6:
                run.round()
        rounds[memory] = run.count
    assert rounds[3] <= rounds[0] - 2
    x, report = picard(plan, x0, model.bind(), window=20, tolerance=0.0, memory=3)
    assert report.rounds.max() <= 50
    assert rms(x - exact) < 1e-10  # rounding, which samples between two modes amplify a thousandfold


def test_acceleration_with_an_infinite_ridge_is_the_plain_iteration():
    model, times = ORACLES["vp"].model("denoised"), levels(ORACLES["vp"].interpolant, 20)
    plan = lowered("ddim", times, model)
    x0 = ORACLES["vp"].sample(3, seed=5, t=times[0])
    found = []
    for memory, ridge in ((0, 0.0), (3, 1e30), (3, 1e-3)):
        run = Picard(plan, x0, model.bind(), 10, 0.01, 0, None, memory)
        if run.anderson is not None:
            run.anderson.ridge = ridge
        with torch.no_grad():
            for _ in range(4):
                run.round()
        found.append(run.states[:11].clone())
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_accelerated_samples_do_not_depend_on_their_batch():
    model, times = ORACLES["edm"].model("denoised"), levels(ORACLES["edm"].interpolant, 30)
    plan = lowered("ddim", times, model, eta=0.5)
    x0 = ORACLES["edm"].sample(4, seed=1, t=times[0])
    together, report = picard(plan, x0, model.bind(), window=8, memory=3)
    assert len(set(report.evaluations.tolist())) > 1
    for i in range(4):
        ids = torch.tensor([i])
        alone, single = picard(plan, x0[i : i + 1], model.bind(), window=8, memory=3, samples=ids)
        assert single.rounds[0] == report.rounds[i]
        assert (alone - together[i : i + 1]).abs().max() < 1e-12  # sums of products are formed in another order


# --- batches, guidance, conditions, dtypes -----------------------------------------------------------------------


def test_a_sample_does_not_depend_on_its_batch_and_leaves_it_when_done():
    oracle = ORACLES["vp"]
    rows = []

    def network(x, t):
        rows.append(len(x))
        return oracle.network("noise")(x, t)

    model = adapt(network, "noise", oracle.interpolant, time_dtype=torch.float64)
    plan = lowered("ddim", levels(oracle.interpolant, 30), model, eta=0.5)
    x0 = oracle.sample(6, seed=1, t=plan.grid[0])
    together, report = picard(plan, x0, model.bind(), window=8, seed=2)
    assert len(set(report.rounds.tolist())) > 1
    assert sum(rows) == report.evaluations.sum()
    assert rows[-1] < rows[0]
    for i in range(6):
        alone, single = picard(plan, x0[i : i + 1], model.bind(), window=8, seed=2, samples=torch.tensor([i]))
        assert torch.equal(alone, together[i : i + 1])
        assert (single.rounds[0], single.evaluations[0]) == (report.rounds[i], report.evaluations[i])


def labelled(x, t, label):
    column = (label.to(x.dtype) - t.to(x.dtype))[:, None]
    return torch.tanh(x + column) - x


def test_guidance_and_conditions_go_with_their_rows():
    model = adapt(labelled, null={"label": torch.zeros(1)})
    guidance = pf.models.Guidance(2.5, interval=(0.2, 0.7))
    options = {
        "steps": 12,
        "solver": "ab2",
        "guidance": guidance,
        "condition": {"label": torch.tensor([1.0, -2.0, 0.5])},
    }
    x, report = pf.sample_parallel(model, (3, 2), window=5, tolerance=1e-9, dtype=torch.float64, **options)
    exact = pf.sample(model, (3, 2), dtype=torch.float64, **options)
    assert (x - exact).abs().max() < 1e-8
    assert report.calls == report.rounds.max()
    assert report.calls <= 12


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.bfloat16, 0.05)])
def test_other_dtypes(dtype, bound):
    """Of 16 bits only what the network sees and the result is rounded; sums are in float32."""
    seen = set()

    def network(x, t):
        seen.add(x.dtype)
        return torch.tanh(2 * x) - x

    x0 = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)
    x, _ = pf.sample_parallel(adapt(network), x0, solver="euler", steps=20, tolerance=1e-4)
    exact = pf.sample(adapt(network), x0.double(), solver="euler", steps=20)
    assert x.dtype == dtype
    assert seen == {dtype, torch.float64}
    assert (x.double() - exact).abs().max() < bound


def test_backward_and_from_a_shape():
    oracle = GaussianOracle([0.7, -0.2], [[0.3, 0.1], [0.1, 0.2]])
    data = oracle.sample(4, seed=3)
    options = {"solver": "euler", "steps": 30, "backward": True}
    x, report = pf.sample_parallel(oracle.model(), data, tolerance=1e-6, **options)
    assert (x - pf.sample(oracle.model(), data, **options)).abs().max() < 1e-6
    assert report.calls < 25
    x, _ = pf.sample_parallel(oracle.model(), (2, 2), steps=20, tolerance=0, dtype=torch.float64, seed=9)
    exact = pf.sample(oracle.model(), (2, 2), solver="ddim", steps=20, dtype=torch.float64, seed=9)
    assert (x - exact).abs().max() < 1e-12


def test_a_plan_written_on_another_path():
    oracle = ORACLES["vp"]
    options = {"steps": 15, "path": "linear", "grid": [0.05 + 0.06 * i for i in range(16)]}
    del options["steps"]
    x0 = oracle.sample(3, seed=1, t=0.1)
    x, _ = pf.sample_parallel(oracle.model("noise"), x0, tolerance=0, **options)
    assert (x - pf.sample(oracle.model("noise"), x0, solver="ddim", **options)).abs().max() < 1e-12


def test_the_only_read_of_a_round_is_the_changes(monkeypatch):
    oracle, reads = ORACLES["vp"], []
    network = torch.nn.Linear(2, 2, dtype=torch.float64)
    model = adapt(lambda x, t: network(x), "velocity", oracle.interpolant)
    plan = lowered("ddim", levels(oracle.interpolant, 20), model, eta=1.0)
    original = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda self: reads.append(self.shape) or original(self))
    for method in ("item", "cpu", "__bool__", "__float__"):
        monkeypatch.setattr(torch.Tensor, method, lambda self, *_: pytest.fail("a second read"))
    ids = torch.arange(2)
    monkeypatch.setattr("pushforward.kernels.noise.check_samples", lambda samples: None)  # ids on the host, not a state
    _, report = picard(plan, oracle.sample(2, seed=0, t=0.1), model.bind(), window=6, samples=ids)
    assert len(reads) == report.calls


def test_nothing_to_do():
    plan = lowered("ddim", [0.1, 0.5, 0.9], ORACLES["linear"].model())
    x, report = picard(plan, torch.empty(0, 2), ORACLES["linear"].model().bind())
    assert x.shape == (0, 2)
    assert (report.calls, report.rounds.size) == (0, 0)
    assert str(report) == "0 rounds for 2 steps, 0 evaluations a sample"


def test_the_code_of_the_page_runs():
    page = Path(__file__).resolve().parents[2] / "docs" / "parallel.md"
    blocks, names = re.findall(r"```python\n(.*?)```", page.read_text(), re.S), {}
    assert len(blocks) == 2
    for block in blocks:
        exec(block, names)
    assert names["report"].converged.all()
    assert names["report"].calls < 20
    assert names["v"].shape == (1, 1, 28, 28)


# --- errors ------------------------------------------------------------------------------------------------------


def run(name="ddim", model=None, x0=None, **options):
    model = model or ORACLES["linear"].model()
    x0 = torch.zeros(2, 2) if x0 is None else x0
    return picard(lowered(name, [0.1, 0.3, 0.6, 0.9], model), x0, model.bind(), **options)


ONE = "a one-evaluation plan is needed"


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: run("heun"), PlanError, ONE + ": got more than one evaluation in step 0 of heun"),
        (lambda: run("euler_churn"), PlanError, ONE + ": got an evaluation at t = .* at another state"),
        (lambda: pf.sample_parallel(ORACLES["linear"].model(), (1, 2), solver="rk4", steps=3), PlanError, ONE),
        (lambda: chain(lowered("ddim", [0.1, 0.9], ORACLES["linear"].model()).optimise()), PlanError, "not optimise"),
        (lambda: chain(solvers.plan(ALL["ddim"], [0.1, 0.9])), PlanError, "plan.stage: got 'quantities'"),
        (lambda: run(window=0), ArgumentError, "window: got 0, expected an integer, at least 1"),
        (lambda: run(rounds=1.5), ArgumentError, "rounds: got 1.5"),
        (lambda: run(memory=1), ArgumentError, "memory: got 1, expected an integer, at least 2, or 0"),
        (lambda: run(tolerance=-1), ArgumentError, "tolerance: got -1, expected a finite number, at least 0"),
        (lambda: run(tolerance=float("nan")), ArgumentError, "tolerance: got nan"),
        (lambda: run(x0=torch.zeros(2, 2, dtype=torch.int64)), DtypeError, "x0: got torch.int64"),
        (lambda: run(x0=torch.tensor(1.0)), ShapeError, r"x0: got \[\]"),
        (lambda: run(samples=torch.arange(3)), ShapeError, r"samples: got \[3\], expected \[2\]"),
        (lambda: run(model=adapt(lambda x, t: x[:1])), ShapeError, r"network output: got torch.float32 \[1, 2\]"),
        (lambda: run(model=adapt(lambda x, t: x, time_shape="one")), ArgumentError, "times: got rows with times of"),
        (
            lambda: run(model=adapt(lambda x, t: x / (t < 0.5)[:, None])),
            NotFiniteError,
            r"step 2 of 3, t = 0\.6, sample 0: got NaN or infinity",
        ),
        (
            lambda: pf.sample_parallel(adapt_two_sided(lambda x, t: x, None, TwoSided()), torch.zeros(1, 2), steps=4,
                                       solver="euler"),
            PlanError,
            "plan.interpolant: got TwoSided",
        ),
        (
            lambda: pf.sample_parallel(ORACLES["linear"].model(), torch.zeros(1, 2), steps=4, dtype=torch.float32),
            ArgumentError,
            "dtype, device",
        ),
    ],
)  # fmt: skip
def test_bad_arguments_are_named(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_plan_with_a_transform_is_refused():
    model = ORACLES["linear"].model()
    plan = solvers.plan(ALL["ddim"], [0.1, 0.5, 0.9], transform="clamp").lower(model.prediction)
    with pytest.raises(PlanError, match="plan: got the transform 'clamp', expected none"):
        chain(plan)
