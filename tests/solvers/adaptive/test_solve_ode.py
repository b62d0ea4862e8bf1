"""`solve_ode`: accuracy, counts, independence of samples, what it costs, and what it says when it fails."""

import gc
import weakref

import numpy as np
import pytest
import torch
from ode_problems import PROBLEMS, van_der_pol
from scipy.integrate import solve_ivp

import pushforward as pf
from pushforward import kernels
from pushforward.errors import (
    ArgumentError,
    DtypeError,
    GridError,
    IntegrationError,
    NotFiniteError,
    ShapeError,
    UnknownNameError,
)
from pushforward.solvers import Controller, Status
from pushforward.solvers.adaptive import loop, pairs

NOT_STIFF = [problem for problem in PROBLEMS.values() if not problem.stiff]
VAN_DER_POL = van_der_pol(1)


def starts(count, seed=0):
    return torch.rand(count, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 4 - 2


# --- accuracy and counts -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("problem", NOT_STIFF, ids=str)
@pytest.mark.parametrize("method", ["dopri54", "tsit54", "vern65", "dop853"])
def test_the_error_follows_the_tolerance(problem, method):
    """Within ten tolerances, times how much larger than the error of a step the error at the end can be."""
    for exponent in range(3, 11):
        tolerance = 10.0**-exponent
        solution = pf.solve_ode(problem.field, problem.x0, problem.times, method=method, rtol=tolerance, atol=tolerance)
        share = problem.error(solution.final) / (tolerance * problem.amplification)
        # Two steps are too few for an estimate that vanishes by accident: scipy's DOP853 makes the same 19.2.
        lucky = problem.name == "mixture-flow" and method == "dop853" and exponent == 4
        assert share < (20 if lucky else 10), (exponent, share)


@pytest.mark.parametrize("problem", NOT_STIFF, ids=str)
@pytest.mark.parametrize(("method", "theirs"), [("bosh32", "RK23"), ("dopri54", "RK45"), ("dop853", "DOP853")])
def test_as_many_steps_as_scipy(problem, method, theirs):
    for tolerance in (1e-4, 1e-7):
        if method == "bosh32" and tolerance < 1e-4:
            continue
        ours = pf.solve_ode(problem.field, problem.x0[:1], problem.times, method=method, rtol=tolerance, atol=tolerance)

        def rhs(t, x):
            return problem.field(torch.from_numpy(x)[None], torch.tensor([t], dtype=torch.float64))[0].numpy()

        start = problem.x0[0].numpy()
        peer = solve_ivp(rhs, problem.times, start, method=theirs, rtol=tolerance, atol=tolerance)
        steps = len(peer.t) - 1
        # The last step is ours alone to stretch by a hundredth; otherwise the rules are the same.
        assert abs(int(ours.accepted[0]) - steps) <= 1
        assert abs(int(ours.nfe[0]) - peer.nfev) <= 0.05 * peer.nfev + 14  # one attempt of dop853 more or less


@pytest.mark.parametrize("method", sorted(pairs.PAIRS))
def test_output_between_steps_is_as_good_as_the_steps(method):
    times = np.linspace(0, 5, 23)
    tolerance = 1e-3 if pairs.PAIRS[method].order < 3 else 1e-6
    x0 = starts(4)
    exact = pf.solve_ode(VAN_DER_POL, x0, times, method="dop853", rtol=1e-11, atol=1e-11).x
    solution = pf.solve_ode(VAN_DER_POL, x0, times, method=method, rtol=tolerance, atol=tolerance, dense=True)
    at_end = (solution.x[-1] - exact[-1]).abs().max()
    worst = (solution.x - exact).abs().amax(dim=(1, 2))
    assert worst.max() < 20 * max(float(at_end), tolerance)  # Van der Pol amplifies by 8 and contracts again
    # At the end of a step the coefficients of a stage, 1e5 in vern65, add up to its weight.
    cancelled = np.finfo(float).eps * max(abs(p) for row in pairs.PAIRS[method].dense for p in row)
    for k in (1, 7, 22):
        assert torch.allclose(solution.dense(times[k]), solution.x[k], rtol=1e-12, atol=max(1e-12, cancelled))


def test_backward_time_returns():
    x0 = starts(5)
    there = pf.solve_ode(VAN_DER_POL, x0, [0.0, 2.0], rtol=1e-10, atol=1e-10).final
    back = pf.solve_ode(VAN_DER_POL, there, [2.0, 1.0, 0.0], rtol=1e-10, atol=1e-10)
    assert (back.final - x0).abs().max() < 1e-6  # contraction by exp(-int div) turns into growth, here up to 1e3
    assert torch.equal(back.x[-1], back.final)
    assert back.times.tolist() == [2.0, 1.0, 0.0]


def test_times_may_differ_from_sample_to_sample():
    x0 = torch.ones(3, 1, dtype=torch.float64)
    times = torch.tensor([[0.0, 1.0], [0.0, 2.0], [1.0, 1.5]], dtype=torch.float64)
    solution = pf.solve_ode(lambda x, t: -x, x0, times, rtol=1e-9, atol=1e-9)
    assert np.allclose(solution.final[:, 0], np.exp([-1.0, -2.0, -0.5]), rtol=1e-8)


# --- samples are on their own --------------------------------------------------------------------------------------


def hardness(x, t, mu):
    position, speed = x.unbind(-1)
    return torch.stack([speed, mu * (1 - position**2) * speed - position], dim=-1)


@pytest.mark.parametrize("method", ["dopri54", "dop853", "heun21"])
def test_companions_change_nothing(method):
    """Bitwise: alone, in chunks, permuted, beside samples that need a hundred times as many steps."""
    count = 64
    x0, mu = starts(count), torch.linspace(0, 30, count, dtype=torch.float64)
    options = {"method": method, "rtol": 1e-5, "atol": 1e-5}

    def solve(rows):
        return pf.solve_ode(hardness, x0[rows], [0.0, 0.5, 1.0], condition={"mu": mu[rows]}, **options)

    everybody = solve(torch.arange(count))
    assert everybody.nfe.max() > 3 * everybody.nfe.min()
    order = torch.randperm(count, generator=torch.Generator().manual_seed(1))
    for rows in (order, torch.arange(16, 32), torch.tensor([7]), torch.tensor([63, 0])):
        some = solve(rows)
        assert torch.equal(some.x, everybody.x[:, rows])
        assert (some.nfe == everybody.nfe[rows.numpy()]).all()


def test_a_broken_sample_leaves_the_others_alone():
    def field(x, t, broken):
        return torch.where((broken & (t > 0.3))[:, None], torch.nan, -x)

    x0, broken = starts(4), torch.tensor([False, True, False, False])
    solution = pf.solve_ode(field, x0, [0.0, 0.2, 1.0], condition={"broken": broken}, on_failure="return")
    whole = pf.solve_ode(field, x0, [0.0, 0.2, 1.0], condition={"broken": torch.zeros(4, dtype=torch.bool)})
    assert solution.status.tolist() == [Status.SUCCESS, Status.NOT_FINITE, Status.SUCCESS, Status.SUCCESS]
    assert torch.equal(solution.x[:, [0, 2, 3]], whole.x[:, [0, 2, 3]])
    assert 0.2 < solution.t[1] <= 0.3
    assert solution.x[1, 1].isfinite().all()  # passed before it broke
    assert solution.x[2, 1].isnan().all()
    assert solution.final[1].isfinite().all()


def test_the_field_sees_live_samples_only():
    seen = []

    def field(x, t, rate):
        seen.append(len(x))
        assert len(t) == len(rate) == len(x)
        return -rate * x

    rate = torch.tensor([[0.1], [1.0], [40.0]], dtype=torch.float64)
    solution = pf.solve_ode(field, torch.ones(3, 1, dtype=torch.float64), [0.0, 1.0], condition={"rate": rate})
    assert sorted(set(seen)) == [1, 2, 3]
    assert sum(seen) == solution.nfe.sum()
    assert len(seen) == solution.calls


def test_one_step_size_for_all_is_a_choice():
    x0, mu = starts(8), torch.linspace(0, 5, 8, dtype=torch.float64)
    options = {"condition": {"mu": mu}, "rtol": 1e-8, "atol": 1e-8}
    own = pf.solve_ode(hardness, x0, [0.0, 1.0, 3.0], **options)
    joint = pf.solve_ode(hardness, x0, [0.0, 1.0, 3.0], per_sample=False, **options)
    assert (joint.x - own.x).abs().max() < 1e-5
    assert len(set(joint.nfe.tolist())) == 1
    assert joint.final.shape == x0.shape


# --- what it costs -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "stages"), [("dopri54", 7), ("bosh32", 4), ("tsit54", 7)])
def test_passes_and_host_reads(method, stages, monkeypatch):
    """An attempt: one host read, and at most one pass more than there are stages, copies of rejected rows included."""
    native = kernels.dispatch.native_module
    if native is None:
        pytest.skip("counts calls of the compiled module")
    calls = {"rk_stage": 0, "rk_step": 0}

    class Counting:
        def __getattr__(self, name):
            function = getattr(native, name)
            if name not in calls:
                return function

            def counted(*args):
                calls[name] += 1
                return function(*args)

            return counted

    monkeypatch.setattr("pushforward.solvers.adaptive.explicit.native_module", Counting())
    condition = {"unused": torch.zeros(16)}  # keeps this run out of the compiled module's own loop over stages

    def field(x, t, unused):
        return VAN_DER_POL(x, t)

    solution = pf.solve_ode(field, starts(16), [0.0, 5.0], method=method, condition=condition)
    attempts = solution.host_reads - 2  # norms of the first step: of state and slope, and of a difference of slopes
    assert attempts == (solution.accepted + solution.rejected).max()
    assert calls == {"rk_stage": attempts * (stages - 1) + 1, "rk_step": attempts}  # one stage for that difference
    # and the copy of slopes where a sample was rejected: stages + 1 in all


def compiled_runs(monkeypatch):
    """A list that gets what the compiled module does of every run."""
    made = []
    original = loop.compiled_run

    def remember(*args):
        made.append(original(*args))
        return made[-1]

    monkeypatch.setattr(loop, "compiled_run", remember)
    return made


@pytest.mark.skipif(kernels.dispatch.native_module is None, reason="tests the compiled module")
@pytest.mark.parametrize(
    ("method", "width"), [("dopri54", 1), ("bosh32", 1), ("tsit54", 1), ("vern65", 1), ("tsit54", 256)]
)
def test_the_compiled_run_is_the_same(method, width, monkeypatch):
    """To the bit, dense output and counts included; in as many passes. Stages of a wide state share no memory."""
    made = compiled_runs(monkeypatch)
    x0, times = starts(33)[:, None].repeat(1, width, 1), [0.0, 1.0, 1.5, 7.0]
    compiled = pf.solve_ode(VAN_DER_POL, x0, times, method=method, controller="I")
    attempts = compiled.host_reads - 2
    assert made[0].native.passes == attempts * pairs.PAIRS[method].stages
    condition = {"unused": torch.zeros(33)}
    plain = pf.solve_ode(lambda x, t, unused: VAN_DER_POL(x, t), x0, times, method=method, condition=condition)
    assert made[1] is None
    assert torch.equal(compiled.x, plain.x)
    for name in ("nfe", "accepted", "rejected", "status", "t"):
        assert (getattr(compiled, name) == getattr(plain, name)).all()
    assert (compiled.calls, compiled.host_reads) == (plain.calls, plain.host_reads)
    assert compiled.rejected.sum() > 0


@pytest.mark.skipif(kernels.dispatch.native_module is None, reason="tests the compiled module")
def test_the_compiled_run_checks_slopes_and_passes_errors_on(monkeypatch):
    made = compiled_runs(monkeypatch)
    x0 = starts(4)
    plain = pf.solve_ode(VAN_DER_POL, x0, [0.0, 2.0])
    strided = pf.solve_ode(lambda x, t: VAN_DER_POL(x, t).T.contiguous().T, x0, [0.0, 2.0])
    parameter = torch.nn.Parameter(torch.ones(4, 2, dtype=torch.float64))
    same = pf.solve_ode(lambda x, t: parameter, x0, [0.0, 2.0])
    assert torch.equal(strided.x, plain.x)
    assert (same.final - x0 - 2).abs().max() < 1e-12

    def late(result):
        return lambda x, t: result(x) if float(t[0]) > 0.5 else -x

    for error, result in (
        (ShapeError, lambda x: x[:, :1]),
        (DtypeError, lambda x: x.float()),
        (DtypeError, lambda x: None),
        (ZeroDivisionError, lambda x: 1 / 0),
    ):
        with pytest.raises(error):
            pf.solve_ode(late(result), x0, [0.0, 2.0])
    assert None not in made[:2]


def test_nothing_is_kept_alive():
    x0 = starts(4)
    watch = weakref.ref(x0)
    solution = pf.solve_ode(lambda x, t: -x, x0, [0.0, 1.0])
    gc.disable()
    try:
        del x0
        assert watch() is None
        watch = weakref.ref(solution.final)
        del solution
        assert watch() is None
    finally:
        gc.enable()


# --- backends and dtypes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["dopri54", "dop853", "fehlberg21"])
def test_the_reference_agrees(method):
    x0 = starts(9)
    compiled = pf.solve_ode(VAN_DER_POL, x0, [0.0, 1.0, 3.0], method=method, controller="PID")
    with kernels.backend("reference"):
        plain = pf.solve_ode(VAN_DER_POL, x0, [0.0, 1.0, 3.0], method=method, controller="PID")
    assert (compiled.accepted == plain.accepted).all()
    assert (compiled.nfe == plain.nfe).all()
    # factors of step sizes are computed in single precision in the compiled module: steps differ by 1e-7
    assert (compiled.x - plain.x).abs().max() < 1e-6 * 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_narrow_states_have_times_in_single_precision(dtype):
    def field(x, t):
        assert (x.dtype, t.dtype) == (dtype, torch.float32)
        return -x

    tolerance = 1e-4 if dtype == torch.float32 else 0.02
    solution = pf.solve_ode(field, torch.ones(3, 2, 2, dtype=dtype), [0.0, 1.0], rtol=0.1, atol=tolerance)
    assert solution.final.dtype == dtype
    assert (solution.final.double() - np.exp(-1)).abs().max() < 0.1


def test_slopes_in_one_buffer_or_with_other_strides():
    buffer = torch.empty(4, 2, dtype=torch.float64)

    def reused(x, t):
        return buffer[: len(x)].copy_(VAN_DER_POL(x, t))

    def strided(x, t):
        return VAN_DER_POL(x, t).T.contiguous().T

    x0 = starts(4)
    plain = pf.solve_ode(VAN_DER_POL, x0, [0.0, 3.0])
    assert torch.equal(pf.solve_ode(strided, x0, [0.0, 3.0]).x, plain.x)
    assert torch.equal(pf.solve_ode(reused, x0, [0.0, 3.0]).x, plain.x)
    first = pf.solve_ode(VAN_DER_POL, x0, [0.0, 3.0], first_step=0.01)
    assert torch.equal(pf.solve_ode(reused, x0, [0.0, 3.0], first_step=0.01).x, first.x)


def test_empty_batches_and_single_times():
    nothing = pf.solve_ode(lambda x, t: -x, torch.ones(0, 2), [0.0, 1.0])
    assert nothing.x.shape == (2, 0, 2)
    still = pf.solve_ode(lambda x, t: -x, torch.ones(2, 2), [0.5])
    assert still.x.shape == (1, 2, 2)
    assert still.nfe.tolist() == [0, 0]
    assert pf.solve_ode(lambda x, t: -x, torch.ones(2, 0), [0.0, 1.0]).x.shape == (2, 2, 0)


# --- options ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_stop_makes_a_jump_harmless(dtype):
    def field(x, t):
        return torch.where(t[:, None] < 0.3, 1.0, -1.0).to(x.dtype) + 0 * x

    x0, times = torch.zeros(2, 1, dtype=dtype), [0.0, 0.2, 0.3, 0.5, 0.6]
    exact = torch.tensor([0.0, 0.2, 0.3, 0.1, 0.0], dtype=dtype)
    for times_, exact_ in ((times, exact), (times[::-1], exact.flip(0))):
        stopped = pf.solve_ode(field, x0, times_, stops=[0.3])
        # a few units in the last place of the time on the wrong side of the jump
        assert (stopped.x[:, 0, 0] - exact_).abs().max() < 20 * torch.finfo(dtype).eps
        assert stopped.rejected.max() == 0
    assert pf.solve_ode(field, x0, times).rejected.min() > 5


def test_tolerances_may_be_tensors():
    x0 = torch.ones(3, 2, dtype=torch.float64)
    rtol = torch.tensor([[1e-3], [1e-6], [1e-9]], dtype=torch.float64)
    together = pf.solve_ode(lambda x, t: -x, x0, [0.0, 1.0], rtol=rtol, atol=1e-12)
    assert sorted(together.nfe.tolist()) == together.nfe.tolist()
    for row in range(3):
        alone = pf.solve_ode(lambda x, t: -x, x0[row : row + 1], [0.0, 1.0], rtol=rtol[row, 0], atol=1e-12)
        assert abs(int(alone.nfe[0]) - int(together.nfe[row])) <= 6  # norms are summed in another order
        assert (alone.final - together.final[row]).abs().max() < 1e-9


def test_bounds_of_steps():
    x0 = torch.ones(2, 1, dtype=torch.float64)
    solution = pf.solve_ode(lambda x, t: -x, x0, [0.0, 1.0], max_step=0.01)
    assert (solution.accepted >= 100).all()
    first = pf.solve_ode(lambda x, t: -x, x0, [0.0, 1.0], first_step=1e-4, dense=True)
    assert first.dense.pieces[0][2] == pytest.approx([1e-4, 1e-4])
    assert first.nfe[0] % 6 == 1  # without a probe


@pytest.mark.parametrize("name", ["I", "PI", "PI34", "PI42", "PID"])
def test_controllers(name):
    solution = pf.solve_ode(VAN_DER_POL, starts(16), [0.0, 10.0], rtol=1e-6, atol=1e-6, controller=name)
    exact = pf.solve_ode(VAN_DER_POL, starts(16), [0.0, 10.0], rtol=1e-11, atol=1e-11, method="dop853")
    assert (solution.final - exact.final).abs().max() < 1e-4
    if name != "I":  # what proportional control is for
        assert solution.rejected.mean() < 0.15 * solution.accepted.mean()


def test_a_model_is_a_field():
    oracle = pf.models.GaussianOracle([0.7, -0.2], [[0.09, 0.0], [0.0, 0.5]])
    x0 = oracle.sample(32, seed=3, t=0.1)
    for prediction in ("velocity", "noise", "denoised"):
        solution = pf.solve_ode(oracle.model(prediction), x0, [0.1, 0.9], rtol=1e-8, atol=1e-8)
        assert (solution.final - oracle.flow_map(x0, 0.1, 0.9)).abs().max() < 1e-6


# --- failures ------------------------------------------------------------------------------------------------------


def test_blowing_up_is_said():
    x0 = torch.tensor([[0.1], [1.0]], dtype=torch.float64)
    with pytest.raises(IntegrationError, match=r"sample 1 at t = 1.*1 of 2 samples failed") as caught:
        pf.solve_ode(lambda x, t: x * x, x0, [0.0, 2.0])
    solution = caught.value.solution
    assert solution.status.tolist() == [Status.SUCCESS, Status.STEP_TOO_SMALL]
    assert solution.final[0, 0] == pytest.approx(1 / 8, rel=1e-4)
    with pytest.warns(RuntimeWarning, match="sample 1"):
        pf.solve_ode(lambda x, t: x * x, x0, [0.0, 2.0], on_failure="warn")


def test_too_many_steps_and_a_stiff_trap_end():
    def stiff(x, t):
        return -1e6 * (x - torch.cos(t)[:, None])

    with pytest.raises(IntegrationError, match=r"200 attempts were not enough"):
        pf.solve_ode(stiff, torch.zeros(1, 1, dtype=torch.float64), [0.0, 1.0], max_steps=200)


def test_not_finite_names_the_sample_and_the_time():
    def field(x, t):
        return torch.where(t[:, None] > 0.5, torch.nan, x)

    with pytest.raises(NotFiniteError, match=r"sample 0 at t = 0\.5") as caught:
        pf.solve_ode(field, torch.ones(2, 1, dtype=torch.float64), [0.0, 1.0])
    assert caught.value.t == pytest.approx(0.5)
    assert caught.value.x.isfinite().all()
    with pytest.raises(NotFiniteError, match="t = 0,"):
        pf.solve_ode(lambda x, t: x * torch.inf, torch.ones(2, 1), [0.0, 1.0])


X = torch.ones(2, 1, dtype=torch.float64)


@pytest.mark.parametrize(
    ("error", "match", "given"),
    [
        (GridError, "times", {"times": [0.0, 1.0, 1.0]}),
        (GridError, "times", {"times": [0.0, 1.0, 0.5]}),
        (GridError, "times", {"times": [0.0, np.nan]}),
        (GridError, "times", {"times": [[0.0, 1.0], [1.0, 0.0]]}),
        (ShapeError, "times", {"times": []}),
        (ShapeError, "times", {"times": [[0.0, 1.0]]}),
        (ArgumentError, "rtol", {"rtol": -1.0}),
        (ArgumentError, "rtol", {"rtol": torch.nan}),
        (ArgumentError, "atol", {"atol": -1e-3}),
        (ArgumentError, "atol", {"rtol": 0.0, "atol": 0.0}),
        (ArgumentError, "rtol", {"rtol": 1e-15, "atol": 0.0}),
        (ShapeError, "atol", {"atol": torch.ones(3, 1)}),
        (UnknownNameError, "method", {"method": "rk4"}),
        (UnknownNameError, "norm", {"norm": "l1"}),
        (UnknownNameError, "controller", {"controller": "H211"}),
        (UnknownNameError, "on_failure", {"on_failure": "ignore"}),
        (ArgumentError, "first_step", {"first_step": 0.0}),
        (ArgumentError, "min_step", {"min_step": 1.0, "max_step": 0.5}),
        (ArgumentError, "max_steps", {"max_steps": 0}),
        (GridError, "stops", {"stops": [np.inf]}),
        (ArgumentError, "x0", {"x0": torch.ones(2, 1, dtype=torch.int64)}),
        (ShapeError, "x0", {"x0": torch.tensor(1.0)}),
        (ArgumentError, "field", {"field": 3}),
        (ArgumentError, "condition", {"condition": [1]}),
        (ShapeError, "condition 'y'", {"condition": {"y": torch.ones(3)}}),
        (ArgumentError, "guidance", {"guidance": 2.0}),
        (ShapeError, r"field at t = 0: got \[2\]", {"field": lambda x, t: x[:, 0]}),
        (DtypeError, "field at t = 0: got torch.float32", {"field": lambda x, t: x.float()}),
        (DtypeError, "field at t = 0: got float", {"field": lambda x, t: 0.0}),
        (ArgumentError, "event", {"events": [3]}),
        (ArgumentError, "per_sample", {"per_sample": False, "times": [[0.0, 1.0]] * 2}),
    ],
)
def test_bad_input(error, match, given):
    given = {"field": lambda x, t: -x, "x0": X, "times": [0.0, 1.0]} | given
    with pytest.raises(error, match=match):
        pf.solve_ode(given.pop("field"), given.pop("x0"), given.pop("times"), **given)


@pytest.mark.parametrize("given", [{"safety": 0.0}, {"min_factor": 1.0}, {"max_factor": 0.5}, {"integral": np.inf}])
def test_bad_controllers(given):
    with pytest.raises(ArgumentError, match=next(iter(given))):
        Controller(**given)
