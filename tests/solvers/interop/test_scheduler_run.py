"""DiffusersScheduler in a run: beginnings, changed samples, gradients, host reads, seeds, noise."""

from __future__ import annotations

import copy
import pickle
import sys
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pushforward import kernels
from pushforward.errors import ArgumentError, ShapeError

with warnings.catch_warnings():  # their import-time deprecations are not ours to act on
    warnings.simplefilter("ignore")
    import diffusers

    from pushforward.solvers.interop import DiffusersScheduler
    from pushforward.solvers.interop.scheduler import DiffusersSchedulerOutput

from host_reads import HostReadError, no_host_reads
from scheduler_loop import LEADING, SHAPE, STABLE, loop, network, relative, sampled, scheduler_of, start

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array:DeprecationWarning"),  # theirs, with NumPy 2
    pytest.mark.filterwarnings("ignore:.*algorithm_types dpmsolver:FutureWarning"),
]

# --- the run ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["ddim", "heun", "ab2", "pseudo_corrector"])
def test_beginning_in_the_middle(solver: str) -> None:
    """By begin index or by the timestep alone, it is the run of the rest of the grid."""
    scheduler = DiffusersScheduler(solver, training="flow")
    scheduler.set_timesteps(6)
    first = 2 * scheduler.order
    scheduler.set_begin_index(first)
    by_index = loop(scheduler, start(torch.float64), first)
    scheduler.set_timesteps(6)
    by_timestep = loop(scheduler, start(torch.float64), first)
    copied = [t.clone() for t in scheduler.timesteps]  # elements of another tensor say nothing
    scheduler.set_timesteps(6)
    scheduler.set_begin_index(first)
    x = start(torch.float64)
    for t in copied[first:]:
        x = scheduler.step(network(x, t.double()), t, x).prev_sample
    sigmas = [t / 1000 for t in scheduler.timesteps.double().tolist()]
    rest = list(dict.fromkeys(sigmas))[2:]
    scheduler.set_timesteps(sigmas=[s for s in rest if s > 0])
    alone = loop(scheduler, start(torch.float64))
    assert torch.equal(by_index, by_timestep)
    assert torch.equal(by_index, x)
    assert relative(by_index, alone) < 1e-6


def test_beginning_within_a_step_is_refused() -> None:
    for solver, first in (("heun", 1), ("ab3", 2)):
        scheduler = DiffusersScheduler(solver, training="flow")
        scheduler.set_timesteps(6)
        with pytest.raises(ArgumentError, match="begin_index"):
            loop(scheduler, start(), first)


def test_one_scheduler_serves_run_after_run() -> None:
    """Without another set_timesteps, and after a run that was broken off: the first timestep begins anew."""
    scheduler = DiffusersScheduler("heun", **STABLE)
    first = sampled(scheduler, 4)
    assert scheduler.step_index == len(scheduler.timesteps)
    assert torch.equal(loop(scheduler, start()), first)
    scheduler.step(start(), scheduler.timesteps[0], start())
    assert torch.equal(loop(scheduler, start()), first)
    x = start()
    for t in scheduler.timesteps.tolist():  # numbers are found by value
        x = scheduler.step(network(x, torch.tensor(t)), t, x).prev_sample
    assert torch.equal(x, first)


def test_what_a_step_returned_is_never_written_to() -> None:
    scheduler = DiffusersScheduler("heun", **STABLE)
    scheduler.set_timesteps(4)
    x, kept = start(), []
    for t in scheduler.timesteps:
        x = scheduler.step(network(x, t), t, x).prev_sample
        kept.append((x, x.clone()))
    assert all(torch.equal(a, b) for a, b in kept)
    assert len({a.data_ptr() for a, _ in kept}) == len(kept)


@pytest.mark.parametrize("solver", ["ddim", "heun", "rk4"])
def test_a_run_keeps_no_state_that_it_does_not_read(solver: str) -> None:
    """Of all states that were handed out, besides the caller's own, at most the start of the step is alive."""
    scheduler = DiffusersScheduler(solver, **STABLE)
    scheduler.set_timesteps(6)
    x, states = start(), list[weakref.ref[torch.Tensor]]()
    for t in scheduler.timesteps:
        x = scheduler.step(network(x, t), t, x).prev_sample
        states.append(weakref.ref(x))
        alive = {id(state()) for state in states if state() is not None}
        assert len(alive - {id(x)}) <= 1


@pytest.mark.parametrize("solver", ["ddim", "heun", "ab2"])
def test_a_changed_sample_is_where_the_run_goes_on(solver: str) -> None:
    """Inpainting: a pipeline writes the known part over the state between steps, in place or as a new tensor."""
    scheduler = DiffusersScheduler(solver, training="flow")
    known = start(torch.float64, seed=9)[:, :2]

    def run(in_place: bool | None) -> torch.Tensor:
        scheduler.set_timesteps(5)
        x = start(torch.float64)
        for index, t in enumerate(scheduler.timesteps):
            x = scheduler.step(network(x, t.double()) + 0.3 * x.flip(1), t, x).prev_sample
            if (index + 1) % scheduler.order == 0 and in_place is not None:
                if in_place:
                    x[:, :2] = known
                else:
                    x = torch.cat([known, x[:, 2:]], dim=1)
        return x

    new, inside = run(False), run(True)
    assert torch.equal(new, inside)
    assert torch.equal(new[:, :2], known)
    assert relative(new[:, 2:], run(None)[:, 2:]) > 1e-3, "the rest has seen what was written"


@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_a_changed_sample_is_what_gets_scaled(solver: str) -> None:
    """The network's input on the path "edm" is made from the sample that is handed in, whatever was done to it."""
    scheduler = DiffusersScheduler(solver, path="edm", **LEADING)
    scheduler.set_timesteps(3)
    x = start() * scheduler.init_noise_sigma
    for index, t in enumerate(scheduler.timesteps):
        scale = scheduler._schedule.scales[index]
        assert torch.equal(scheduler.scale_model_input(x, t), x * scale)
        x.numpy()[:] += 1.0  # which no version counter sees
        scaled = scheduler.scale_model_input(x, t)
        assert torch.equal(scaled, x * scale)
        x = scheduler.step(network(scaled, t), t, x).prev_sample


def test_outputs() -> None:
    scheduler = DiffusersScheduler("ddim")
    scheduler.set_timesteps(2)
    x = start()
    first, last = scheduler.timesteps
    out = scheduler.step(torch.cat([x, 7 * x], dim=1), first, x)  # a learned variance is dropped
    assert out.pred_original_sample is None
    assert torch.equal(out["prev_sample"], scheduler.step(x, first, x, return_dict=False)[0])
    end = scheduler.step(x.double(), last, x)  # an output of another dtype is cast to the state's
    assert end.prev_sample is end.pred_original_sample
    assert end.prev_sample.dtype == torch.float32


def test_outputs_that_are_not_like_the_state() -> None:
    """Cast, and without their variance, in every kind of step; anything else is refused by name."""
    for solver in ("ddim", "heun", "dpmpp_2m"):
        scheduler = DiffusersScheduler(solver, **STABLE)
        plain = sampled(scheduler, 3)
        x = start()
        for t in scheduler.timesteps:
            output = network(x, t).double()
            output = torch.cat([output, 7 * output], dim=1)
            x = scheduler.step(output, t, x, return_dict=False)[0]
        assert torch.equal(x, plain)
        x = start()
        for t in scheduler.timesteps:
            for wrong in (x[:, :2], x[:1], torch.cat([x, x], 2)):
                with pytest.raises(ShapeError, match="model_output"):
                    scheduler.step(wrong, t, x)
            x = scheduler.step(network(x, t), t, x, return_dict=False)[0]
        assert torch.equal(x, plain), "what was refused has left no trace"


def test_gradients_flow_through_a_step() -> None:
    scheduler = DiffusersScheduler("euler", training="flow")
    scheduler.set_timesteps(2)
    x = start().requires_grad_()
    loop(scheduler, x).square().sum().backward()
    assert x.grad is not None
    assert x.grad.abs().min() > 0


def test_gradients_flow_through_the_scaled_input_and_from_the_output_alone() -> None:
    scheduler = DiffusersScheduler("heun", path="edm", **LEADING)
    scheduler.set_timesteps(2)
    x = start(torch.float64).requires_grad_()
    direction, h = start(torch.float64, seed=3), 1e-5
    along = lambda y: (loop(scheduler, y) * start(torch.float64, seed=4)).sum()  # noqa: E731
    (slope,) = torch.autograd.grad(along(x), x)
    with torch.no_grad():
        central = (along(x + h * direction) - along(x - h * direction)) / (2 * h)
    # a central difference: h^2 times a third derivative, and rounding over h; some 1e-10 each, of numbers of order 1
    assert (slope * direction).sum().item() == pytest.approx(central.item(), rel=1e-7)
    parameter = start(torch.float64).requires_grad_()
    scheduler.step(parameter, scheduler.timesteps[0], start(torch.float64)).prev_sample.sum().backward()
    assert parameter.grad is not None
    assert parameter.grad.abs().min() > 0


def frames(function: Callable[..., Any], *args: Any, **options: Any) -> tuple[list[str], Any]:
    """The Python functions of a call, and its result."""
    seen: list[str] = []
    sys.setprofile(lambda frame, event, _: seen.append(frame.f_code.co_name) if event == "call" else None)
    try:
        result = function(*args, **options)
    finally:
        sys.setprofile(None)
    return seen, result


@pytest.mark.parametrize("clean", [None, torch.zeros(1)])
def test_the_output_is_as_diffusers_makes_its_own(clean: torch.Tensor | None) -> None:
    """Mapping, tuple, attributes, what assignment does, copies, the pytree: as of DDIM's output of the same fields."""
    theirs = diffusers.schedulers.scheduling_ddim.DDIMSchedulerOutput
    x, y = torch.ones(1), torch.full((1,), 2.0)
    made = [kind(prev_sample=x, pred_original_sample=clean) for kind in (theirs, DiffusersSchedulerOutput)]
    expected = list(made[0])
    for output in made:
        copies = [copy.copy(output), copy.deepcopy(output), pickle.loads(pickle.dumps(output))]
        leaves = torch.utils._pytree.tree_leaves(output)
        for other in (output, *copies):
            assert list(other) == expected
            assert all(torch.equal(a, b) for a, b in zip(other.to_tuple(), leaves, strict=True))
            assert other[0] is other.prev_sample is other["prev_sample"]
            assert (other.pred_original_sample is None) == (clean is None)
        output.prev_sample = y
        assert output[0] is output["prev_sample"] is y
        output["pred_original_sample"] = y
        assert output[1] is output.pred_original_sample is y
    assert repr(made[1]) == repr(made[0]).replace("DDIM", "Diffusers")


@pytest.mark.skipif(kernels.backends()["native"] != "available", reason="counts what stands around a native call")
@pytest.mark.parametrize(("solver", "path"), [("euler", None), ("euler", "edm"), ("heun", "edm")])
def test_a_step_is_one_function_around_one_kernel(solver: str, path: Any) -> None:
    """Within a run: `step`, and no torch function that has a Python frame."""
    scheduler = DiffusersScheduler(solver, path=path, **LEADING)
    scheduler.set_timesteps(4)
    x = start() * scheduler.init_noise_sigma
    for index, t in enumerate(scheduler.timesteps):
        called, scaled = frames(scheduler.scale_model_input, x, t)
        assert called == ["scale_model_input"] + ["index"] * (path == "edm")
        called, (x, _) = frames(scheduler.step, network(scaled, t), t, x, return_dict=False)
        if 0 < index < len(scheduler.timesteps) - 1:  # the last step asks whether it has come to clean data
            assert called == ["step"]


@pytest.mark.parametrize("path", [None, "edm"])
@pytest.mark.parametrize("solver", ["euler", "heun", "dpmpp_2m", "unipc", "ab2"])
def test_a_step_is_one_pass_over_memory(solver: str, path: Any) -> None:
    """One combination for each output of the network, one for each scaled input, and no other operator."""
    scheduler = DiffusersScheduler(solver, path=path, **LEADING)
    scheduler.set_timesteps(5)
    x = start() * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        with Operators() as scaling:
            scaled = scheduler.scale_model_input(x, t)
        output = network(scaled, t)
        with Operators() as stepping:
            x = scheduler.step(output, t, x, return_dict=False)[0]
        assert scaling.seen == ["pushforward::combine"] * (path == "edm")
        assert stepping.seen == ["pushforward::combine"]


class Operators(TorchDispatchMode):
    """Lists the operators that run, allocations apart."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "empty" not in function.name():
            self.seen.append(function.name())
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda scheduler: pickle.loads(pickle.dumps(scheduler))])
def test_a_copy_goes_on_by_itself(duplicate: Callable[[Any], Any]) -> None:
    """A copy in the middle of a run continues it, and knows the elements of its own list of timesteps."""
    scheduler = DiffusersScheduler("heun", path="edm", **LEADING)
    scheduler.set_timesteps(4)
    x = start() * scheduler.init_noise_sigma
    for t in scheduler.timesteps[:3]:
        x = scheduler.step(network(scheduler.scale_model_input(x, t), t), t, x).prev_sample
    other = duplicate(scheduler)
    assert torch.equal(loop(other, x.clone(), 3), loop(scheduler, x, 3))
    assert other.timesteps.data_ptr() != scheduler.timesteps.data_ptr()
    loop(other, x, 4)
    other.step(x, other.timesteps[2], x)
    assert other.step_index == 3, "an element of its own list begins a run there"


def test_a_list_of_timesteps_that_was_replaced() -> None:
    """Elements of another tensor count as the next in turn, and the next set_timesteps brings the list back."""
    scheduler = DiffusersScheduler("ddim", **STABLE)
    first = sampled(scheduler, 4)
    own = scheduler.timesteps
    scheduler.timesteps = own.clone()
    assert torch.equal(loop(scheduler, start()), first)
    scheduler.set_timesteps(4)
    assert scheduler.timesteps is own


def test_half_precision() -> None:
    """One rounding a step, as diffusers': to bfloat16, 2^-9 relative, of a network with a slope below 2."""
    scheduler = DiffusersScheduler("ddim", **STABLE)
    exact, half = sampled(scheduler, 10, torch.float64), sampled(scheduler, 10, torch.bfloat16)
    assert half.dtype == torch.bfloat16
    assert relative(half.double(), exact) < 10 * 2 * 2**-9


@pytest.mark.parametrize("solver", ["euler", "heun", "ddim", "ab2", "euler_maruyama"])
@pytest.mark.parametrize("training", ["ddpm", "flow"])
def test_no_step_reads_from_the_device(solver: str, training: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = DiffusersScheduler(solver, training=training, **STABLE)
    scheduler.set_timesteps(5)
    scheduler.set_begin_index(0)
    x, generator = start(), torch.Generator().manual_seed(0)
    monkeypatch.setattr("pushforward.kernels.noise.check_samples", lambda _: None)  # reads ids on the CPU only
    with no_host_reads():
        noised = scheduler.add_noise(x, x, scheduler.timesteps[:1].repeat(SHAPE[0]))
        loop(scheduler, noised, generator=generator)


def test_the_guard_sees_host_reads() -> None:
    theirs = diffusers.FlowMatchEulerDiscreteScheduler()
    theirs.set_timesteps(3)
    with pytest.raises(HostReadError), no_host_reads():
        theirs.step(start(), theirs.timesteps[0], start())


# --- noise -----------------------------------------------------------------------------------------------------


def test_seeds() -> None:
    """One generator a sample: each is the same alone, in any batch and order; states decide, not objects."""
    scheduler = DiffusersScheduler("ddim", {"eta": 1.0}, **STABLE)
    make = lambda seed: torch.Generator().manual_seed(seed)  # noqa: E731
    both = sampled(scheduler, 5, generator=[make(5), make(6)])
    swapped_start = start().flip(0)
    scheduler.set_timesteps(5)
    swapped = loop(scheduler, swapped_start, generator=[make(6), make(5)])
    scheduler.set_timesteps(5)
    alone = loop(scheduler, start()[1:], generator=make(6))
    torch.testing.assert_close(swapped.flip(0), both, rtol=0, atol=0)
    torch.testing.assert_close(alone, both[1:], rtol=1e-6, atol=1e-6)  # network() on another batch may round otherwise
    shared = make(5)
    one = sampled(scheduler, 5, generator=shared)
    assert torch.equal(one, sampled(scheduler, 5, generator=make(5)))
    assert not torch.equal(one, sampled(scheduler, 5, generator=shared)), "the next run has other noise"
    assert not torch.equal(one[0], one[1])
    torch.manual_seed(8)
    default = sampled(scheduler, 5)
    torch.manual_seed(8)
    assert torch.equal(default, sampled(scheduler, 5))
    with pytest.raises(ArgumentError, match="generator"):
        sampled(scheduler, 5, generator=[make(1), make(2), make(3)])


# --- scales ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["DDIM", "EulerDiscrete"])
def test_adding_noise(name: str) -> None:
    euler = name == "EulerDiscrete"
    theirs = scheduler_of(name, **LEADING)
    ours = DiffusersScheduler.from_config(theirs, solver="ddim", path="edm" if euler else None)
    for scheduler in (theirs, ours):
        scheduler.set_timesteps(10)
    x, noise = start(), start(seed=1)
    times = theirs.timesteps[torch.tensor([2, 7])]
    expected = theirs.add_noise(x, noise, times)
    torch.testing.assert_close(ours.add_noise(x, noise, times), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.add_noise(x, noise, times.float()), expected, rtol=1e-5, atol=1e-5)
    half = ours.add_noise(x.bfloat16(), noise.bfloat16(), times)
    assert half.dtype == torch.bfloat16
    if not euler:
        torch.testing.assert_close(
            ours.get_velocity(x, noise, times), theirs.get_velocity(x, noise, times), rtol=1e-5, atol=1e-5
        )


def test_scaling_noise_of_flows() -> None:
    theirs = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    ours = DiffusersScheduler.from_config(theirs, solver="euler")
    for scheduler in (theirs, ours):
        scheduler.set_timesteps(10)
    x, noise, times = start(), start(seed=1), theirs.timesteps[[2, 7]]
    expected = theirs.scale_noise(x, times, noise)
    torch.testing.assert_close(ours.scale_noise(x, times, noise), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours.scale_noise(x, 500.0, noise), (x + noise) / 2, rtol=1e-5, atol=1e-6)


def test_noise_between_trained_levels_lies_on_the_path() -> None:
    scheduler = DiffusersScheduler("ddim", **STABLE)
    path = scheduler._trained.interpolant
    zero, one = torch.zeros(1, 1), torch.ones(1, 1)
    for index in (0.25, 371.5, 998.75):
        alpha, sigma = path(path.time_of_index(index))[:2]
        time = torch.tensor([index])
        assert scheduler.add_noise(one, zero, time).item() == pytest.approx(alpha, rel=1e-5)
        assert scheduler.add_noise(zero, one, time).item() == pytest.approx(sigma, rel=1e-5)
