from __future__ import annotations

import itertools
import threading

import pytest
import torch
from runs import ALL, GRID, field, make, noise
from torch.utils._python_dispatch import TorchDispatchMode

import pushforward as pf
from pushforward import models
from pushforward.errors import (
    ArgumentError,
    PlanError,
    ShapeError,
)
from pushforward.solvers import Executor, StepState

# --- results ---------------------------------------------------------------------------------------------------


def test_a_run_is_the_formula() -> None:
    x0 = noise(3, 5, dtype=torch.float64)
    x = x0
    for t, t_next in itertools.pairwise(GRID):
        h = t_next - t
        v0 = field(x, t)[0]
        x = x + h / 2 * (v0 + field(x + h * v0, t_next)[0])
    assert (Executor(make(), x0).run(field) - x).abs().max() < 1e-14


@pytest.mark.parametrize("name", ALL)
def test_backends_agree(name: str) -> None:
    x0 = noise(3, 4, 5)
    results = []
    for backend in ("reference", "native"):
        with pf.kernels.backend(backend):
            results.append(Executor(make(name), x0, seed=3).run(field))
    assert torch.equal(*results)


@pytest.mark.parametrize("name", ALL)
def test_the_differentiable_path_gives_the_same_samples(name: str) -> None:
    x0 = noise(3, 4, dtype=torch.float64)
    plain = Executor(make(name), x0, seed=3).run(field)
    assert (Executor(make(name), x0, seed=3, differentiable=True).run(field) - plain).abs().max() < 1e-14


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "transposed", "expanded", "output_strides"])
def test_strides_do_not_matter(layout: str) -> None:
    base = noise(4, 3, 6, 8)
    x0 = {
        "channels_last": base.to(memory_format=torch.channels_last),
        "transposed": base.transpose(1, 3).contiguous().transpose(1, 3),
        "expanded": base[:1].expand(4, 3, 6, 8),
    }.get(layout, base)

    def network(x: torch.Tensor, t: float, branches: tuple[str, ...]) -> list[torch.Tensor]:
        out = field(x, t)[0]
        return [out.to(memory_format=torch.channels_last) if layout == "output_strides" else out]

    expected = Executor(make("euler_maruyama"), x0.contiguous(), seed=1).run(field)
    assert torch.equal(Executor(make("euler_maruyama"), x0, seed=1).run(network), expected)


@pytest.mark.parametrize("shape", [(0, 3), (1,), (1, 1), (2, 0, 3), (5,)])
def test_degenerate_shapes(shape: tuple[int, ...]) -> None:
    assert Executor(make("stochastic_heun"), torch.ones(shape)).run(field).shape == shape


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_the_state_keeps_its_dtype(dtype: torch.dtype) -> None:
    x = Executor(make(), noise(2, 8).to(dtype)).run(field)
    exact = Executor(make(), noise(2, 8).to(dtype).double()).run(field)
    assert x.dtype is dtype
    # sixteen evaluations of a field with slope below 5, each rounded to the dtype, over a range of 0.8
    assert (x.double() - exact).abs().max() < 40 * torch.finfo(dtype).eps


def test_the_start_is_never_written_to() -> None:
    x0 = noise(2, 3)
    copy = x0.clone()
    for name in ALL:
        result = Executor(make(name), x0).run(field)
        assert torch.equal(x0, copy)
        assert result.data_ptr() != x0.data_ptr()


def test_a_network_may_return_its_input_or_a_view_of_it() -> None:
    x0 = noise(3, 4, dtype=torch.float64)
    for name in ALL:
        plan = make(name)
        returned = Executor(plan, x0).run(lambda x, t, b: [x])
        copied = Executor(plan, x0).run(lambda x, t, b: [x.clone()])
        assert torch.equal(returned, copied), name


def test_a_network_that_reuses_its_output_buffer_is_found_out() -> None:
    static = torch.empty(2, 3)

    def network(x: torch.Tensor, t: float, branches: tuple[str, ...]) -> list[torch.Tensor]:
        static.copy_(x)
        return [static]

    Executor(make("euler"), noise(2, 3)).run(network)  # needs no earlier output
    with pytest.raises(ArgumentError, match="in the memory of an earlier one"):
        Executor(make("ab2"), noise(2, 3)).run(network)


# --- reproducibility -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["euler", "heun", "ddim", "ab3", "euler_maruyama", "stochastic_heun"])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_sample_does_not_depend_on_its_batch(name: str, threads: int) -> None:
    """Sizes 1, 7 and 64, permuted, on 1 or 2 threads: bitwise the same, with a field that treats rows alone."""
    model = models.adapt(lambda x, t: field(x, float(t[0]))[0])
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        shape = (3, 33, 31)

        def draw(ids: torch.Tensor) -> torch.Tensor:
            return pf.sample(model, (len(ids), *shape), solver=name, steps=6, seed=5, samples=ids)

        whole = draw(torch.arange(64))
        order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
        assert torch.equal(draw(order), whole[order])
        assert torch.equal(draw(torch.arange(7)), whole[:7])
        for sample in (0, 5, 63):
            assert torch.equal(draw(torch.tensor([sample])), whole[sample : sample + 1])
        assert torch.equal(whole, reference_samples(name, model, shape))
    finally:
        torch.set_num_threads(before)


def reference_samples(name: str, model: models.Model, shape: tuple[int, ...]) -> torch.Tensor:
    """The same on one thread; not cached, since the threads in use are the point."""
    torch.set_num_threads(1)
    return pf.sample(model, (64, *shape), solver=name, steps=6, seed=5)


def test_seeds_differ_and_repeat() -> None:
    model = models.adapt(lambda x, t: -x)
    a, b, c = (pf.sample(model, (2, 50), solver="euler_maruyama", steps=4, seed=seed) for seed in (1, 2, 1))
    assert torch.equal(a, c)
    assert (a - b).abs().min() > 0


def test_one_plan_serves_many_threads() -> None:
    plan, x0 = make("ab3"), noise(4, 100)
    expected, results = Executor(plan, x0).run(field), {}

    def work(index: int) -> None:
        results[index] = Executor(plan, x0).run(field)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(results) == 8
    assert all(torch.equal(result, expected) for result in results.values())


# --- what is counted -------------------------------------------------------------------------------------------


class Watch(TorchDispatchMode):
    """Counts state-sized allocations and reads of a tensor's value by the host."""

    def __init__(self, elements: int) -> None:
        super().__init__()
        self.elements, self.allocations, self.reads = elements, 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        before = {a.data_ptr() for a in args if isinstance(a, torch.Tensor)}
        out = function(*args, **(kwargs or {}))
        if function is torch.ops.aten._local_scalar_dense.default:
            self.reads += 1
        if isinstance(out, torch.Tensor) and out.numel() >= self.elements and out.data_ptr() not in before:
            self.allocations += 1
        return out


@pytest.mark.parametrize("name", ALL)
def test_no_allocation_after_the_first_step_and_no_host_read(name: str) -> None:
    x0 = noise(2, 3, 16)
    plan = make(name)
    outputs = [noise(2, 3, 16, seed=i) for i in range(plan.nfe)]
    run = Executor(plan, x0)
    with pf.kernels.backend("native"), Watch(x0.numel()) as watch:
        for request in run:
            run.supply([outputs[request.index]])
    assert (watch.allocations, watch.reads) == (0, 0)


@pytest.mark.parametrize("name", ALL)
def test_live_buffers_are_as_the_plan_says(name: str) -> None:
    x0, plan = noise(2, 3, 16), make(name)
    with Watch(x0.numel()) as watch:
        Executor(plan, x0)
    assert watch.allocations == plan.cost(x0.shape).buffers


def test_network_outputs_are_let_go_when_they_are_no_longer_needed() -> None:
    import gc
    import weakref

    alive: list[weakref.ref[torch.Tensor]] = []

    def network(x: torch.Tensor, t: float, branches: tuple[str, ...]) -> list[torch.Tensor]:
        out = field(x, t)[0]
        alive.append(weakref.ref(out))
        return [out]

    gc.disable()
    try:
        run = Executor(make("ab2"), noise(2, 3))
        most = 0
        for request in run:
            run.supply(network(request.input, request.time, request.branches))
            most = max(most, sum(ref() is not None for ref in alive))
        assert most <= 2  # the current output and one of history
        assert sum(ref() is not None for ref in alive) <= 1
    finally:
        gc.enable()


def test_a_run_is_in_no_reference_cycle() -> None:
    """Its buffers are gone when it is, not when the garbage collector finds them."""
    import gc
    import weakref

    gc.collect()
    gc.disable()
    try:
        for complete in (True, False):
            run = Executor(make("heun", replace=True), noise(2, 3), hooks=[lambda state: None])
            if complete:
                run.run(field)
            else:
                next(run)
            gone = weakref.ref(run)
            del run
            assert gone() is None
    finally:
        gc.enable()


# --- hooks -----------------------------------------------------------------------------------------------------


def test_hooks_see_every_step() -> None:
    seen: list[StepState] = []

    def hook(state: StepState) -> None:
        seen.append(StepState(state.step, state.steps, state.time, state.state.clone(), state.denoised.clone()))

    x0 = noise(2, 3, dtype=torch.float64)
    x = Executor(make("euler", replace=True), x0, hooks=[hook]).run(field)
    assert [s.step for s in seen] == list(range(8))
    assert [s.time for s in seen] == GRID[1:]
    assert torch.equal(seen[-1].state, x)
    v = field(x0, GRID[0])[0]
    assert torch.allclose(seen[0].denoised, x0 + (1 - GRID[0]) * v, rtol=1e-14)


@pytest.mark.parametrize("name", ALL)
def test_observing_changes_nothing(name: str) -> None:
    x0, path = noise(2, 3, dtype=torch.float64), pf.Trajectory()
    plain = Executor(make(name), x0, seed=2).run(field)
    watched = Executor(make(name, observe=True), x0, seed=2, hooks=[path]).run(field)
    assert (plain - watched).abs().max() < 1e-14
    assert path.times == GRID[1:]
    assert torch.equal(path.states[-1], watched)
    assert all(estimate is not None for estimate in path.denoised)


@pytest.mark.parametrize("name", [n for n, s in ALL.items() if s.evaluations_per_step == 1])
def test_a_hook_may_replace_the_state(name: str) -> None:
    def zero(state: StepState) -> torch.Tensor:
        return torch.zeros_like(state.state)

    def half(state: StepState) -> torch.Tensor | None:
        return state.state / 2 if state.step == 3 else None

    x0 = noise(2, 3, dtype=torch.float64)
    assert torch.equal(Executor(make(name, replace=True), x0, hooks=[zero]).run(field), torch.zeros_like(x0))
    changed = Executor(make(name, replace=True), x0, hooks=[half]).run(field)
    functional = Executor(make(name, replace=True), x0, hooks=[half], differentiable=True).run(field)
    assert (changed - functional).abs().max() < 1e-14
    assert (changed - Executor(make(name), x0).run(field)).abs().max() > 1e-3


def test_bad_hooks_are_named() -> None:
    x0 = noise(2, 3)
    with pytest.raises(PlanError, match="observe=True"):
        Executor(make(), x0, hooks=[pf.Trajectory()])
    with pytest.raises(PlanError, match="replace=True"):
        Executor(make(observe=True), x0, hooks=[lambda state: None])
    with pytest.raises(ShapeError, match=r"hook at the end of step 0, t = 0\.2"):
        Executor(make(replace=True), x0, hooks=[lambda state: torch.zeros(3)]).run(field)

    class Liar:
        replaces_state = False

        def __call__(self, state: StepState) -> torch.Tensor:
            return state.state

    with pytest.raises(PlanError, match="replaces_state = False"):
        Executor(make(observe=True), x0, hooks=[Liar()]).run(field)


# --- gradients -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["heun", "ab3", "euler_maruyama", "pseudo_corrector"])
def test_gradients_are_exact(name: str) -> None:
    plan = make(name, grid=[0.2, 0.4, 0.6, 0.8])
    x0 = noise(2, 3, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: Executor(plan, x, seed=1, differentiable=True).run(field), (x0,))


@pytest.mark.parametrize("name", ["rk4", "ab3", "stochastic_heun"])
def test_checkpointing_gives_the_same_gradients(name: str) -> None:
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3)).double()
    calls = 0

    def evaluate(x: torch.Tensor, t: float, branches: tuple[str, ...]) -> list[torch.Tensor]:
        nonlocal calls
        calls += 1
        return [network(x) * (1 + t)]

    plan, gradients = make(name), []
    for checkpoint in (False, True):
        x0 = noise(4, 3, dtype=torch.float64).requires_grad_()
        result = Executor(plan, x0, seed=1, differentiable=True).run(evaluate, checkpoint=checkpoint)
        gradients.append(torch.autograd.grad(result.square().sum(), [x0, *network.parameters()]))
    assert calls == 3 * plan.nfe  # once plainly; with checkpoints once forward and once backward
    assert all(torch.allclose(a, b, rtol=1e-12) for a, b in zip(*gradients, strict=True))


def test_checkpointing_needs_gradients_and_no_hooks() -> None:
    with pytest.raises(ArgumentError, match="checkpoint"):
        Executor(make(), noise(2, 3)).run(field, checkpoint=True)


# --- transforms ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["euler", "heun", "ddim", "ab2", "euler_maruyama"])
def test_a_transform_acts_on_every_clean_estimate(name: str) -> None:
    model = models.GaussianOracle([0.5, -0.2], [[0.3, 0.0], [0.0, 0.2]]).model()
    x0, seen = noise(50, 2, dtype=torch.float64), []

    def clamp(denoised: torch.Tensor, t: float) -> torch.Tensor:
        seen.append(t)
        return denoised.clamp(-0.1, 0.1)

    x = pf.sample(model, x0, solver=name, steps=8, transform=clamp)
    assert len(seen) == pf.make_plan(model, solver=name, steps=8, transform=True).nfe
    # Euler's and DDIM's last step return the transformed estimate itself
    assert x.abs().max() <= 0.1 + 1e-12 or name == "ab2"
    same = pf.sample(model, x0, solver=name, steps=8, transform=lambda d, t: d)
    assert (same - pf.sample(model, x0, solver=name, steps=8, last_step="auto")).abs().max() < 0.2


def test_an_identity_transform_changes_nothing() -> None:
    model = models.GaussianOracle([0.5], [[0.3]]).model()
    x0 = noise(50, 1, dtype=torch.float64)
    times = [i / 10 for i in range(10)]  # ends before the data, where the closing rule may differ
    for name in ("euler", "heun", "ab3", "ddim", "stochastic_heun"):
        plain = pf.sample(model, x0, solver=name, grid=times)
        assert (pf.sample(model, x0, solver=name, grid=times, transform=lambda d, t: d) - plain).abs().max() < 1e-12
