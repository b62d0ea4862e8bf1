"""Taps: skipped modules are not run, everything is restored, and what is remembered belongs to one run."""

from __future__ import annotations

import inspect
import math
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from pushforward.errors import ArgumentError, ShapeError, UnknownNameError
from pushforward.models import Linear, reuse
from pushforward.models.reuse import Taps
from pushforward.models.reuse.outputs import map_tensors, tensors


class Pair(NamedTuple):
    a: Tensor
    b: Any


@dataclass
class Fields:
    first: Tensor
    second: Any = None


class Branching(nn.Module):
    """A module that returns a tree."""

    def __init__(self) -> None:
        super().__init__()
        self.runs = 0

    def forward(self, x: Tensor, scale: float = 1.0) -> dict[str, Any]:
        self.runs += 1
        return {"pair": Pair(x * scale, None), "list": [x + 1, "text"], "fields": Fields(x - 1), "tuple": (x,)}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(3, 4)
        self.tree = Branching()
        self.twice = nn.Linear(4, 4)
        self.same = self.twice
        self.leave = nn.Linear(4, 3)

    def forward(self, x: Tensor, t: Tensor | None = None) -> Tensor:
        tree = self.tree(self.enter(x), scale=2.0)
        h = tree["pair"].a + tree["list"][0] + tree["fields"].first + tree["tuple"][0]
        return self.leave(self.twice(self.twice(h)))


@pytest.fixture
def net() -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Net().requires_grad_(False)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def run(taps: Taps, net: nn.Module, x: Tensor) -> Tensor:
    with taps:
        return net(x)


def patched(net: nn.Module) -> list[str]:
    return [name for name, module in net.named_modules() if "forward" in vars(module)]


def test_a_held_module_is_not_run_and_returns_its_tree(net: Net) -> None:
    state = reuse.RunState()
    x = normal(2, 3)
    dense = net(x)
    state.begin(index=0)
    assert torch.equal(run(Taps(net).tap("tree", reuse.Record(state)), net, x), dense)
    runs = net.tree.runs
    state.begin(index=1)
    assert torch.equal(run(Taps(net).tap("tree", reuse.Hold(state)), net, 5 * x), dense)
    assert net.tree.runs == runs


def test_everything_is_restored_also_after_an_error(net: Net) -> None:
    before, x = {key: value.clone() for key, value in net.state_dict().items()}, normal(2, 3)
    dense = net(x)

    def fail(call: reuse.Call) -> None:
        raise RuntimeError("from inside")

    taps = Taps(net).tap(lambda name, module: isinstance(module, nn.Linear) and name != "same", fail)
    with taps:
        assert patched(net) == ["enter", "twice", "leave"]
        assert inspect.signature(net.leave.forward) == inspect.signature(nn.Linear(1, 1).forward)
    with pytest.raises(RuntimeError, match="from inside"):
        run(taps, net, x)
    assert patched(net) == []
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert torch.equal(net(x), dense)
    assert type(net.leave).forward is nn.Linear.forward


def test_another_tool_inside_the_block_is_nested_and_one_that_stays_is_reported(net: Net) -> None:
    theirs = net.leave.forward
    net.leave.forward = lambda x: theirs(x) + 1  # an instance's patch that was there before
    earlier = net.leave.forward
    taps = Taps(net).tap("leave", lambda call: call.run(*call.args) * 2)
    x = normal(1, 3)
    plain = net(x)
    with taps:
        ours = net.leave.forward
        net.leave.forward = lambda x: ours(x) - 3
        assert torch.equal(net(x), plain * 2 - 3)
        net.leave.forward = ours
    assert net.leave.forward is earlier
    with pytest.raises(ArgumentError, match="another tool's patch"), taps:
        net.leave.forward = lambda x: x
    del net.leave.forward
    inner, outer = Taps(net).tap("enter", lambda call: call.run(*call.args) + 1), Taps(net).tap("", lambda c: c.run(x))
    with outer, inner:
        assert patched(net) == ["", "enter"]
    assert patched(net) == []


def test_bad_taps(net: Net) -> None:
    state = reuse.RunState()
    with pytest.raises(UnknownNameError, match=r"'leav', expected a module of Net, such as \['leave'"):
        Taps(net).tap("leav", reuse.Record(state))
    taps = Taps(net).tap("twice", reuse.Record(state))
    with pytest.raises(ArgumentError, match="'twice' again"):
        taps.tap(["enter", "twice"], reuse.Hold(state))
    with pytest.raises(ArgumentError, match="'same', which is the module 'twice'"):
        taps.tap("same", reuse.Hold(state))
    with pytest.raises(ArgumentError, match="matches nothing"):
        taps.tap(lambda name, module: False, reuse.Hold(state))
    with pytest.raises(ArgumentError, match=r"got function, expected a torch\.nn\.Module"):
        Taps(run)  # type: ignore[arg-type]
    compiled = nn.Module()  # what torch.compile returns holds the module so
    compiled._orig_mod = net
    with pytest.raises(ArgumentError, match="a compiled module"):
        Taps(compiled)
    with taps:
        forward = net.twice.forward
        with pytest.raises(ArgumentError, match="before it is entered"):
            taps.tap("leave", reuse.Hold(state))
        with pytest.raises(ArgumentError, match="entered twice"), taps:
            net(normal(1, 3))
    with pytest.raises(ArgumentError, match="'twice': got a use after exit"):
        forward(normal(1, 4))


def test_bad_states(net: Net) -> None:
    state = reuse.RunState()
    record, hold = Taps(net).tap("enter", reuse.Record(state)), Taps(net).tap("enter", reuse.Hold(state))
    with pytest.raises(ArgumentError, match="nothing cached"):
        run(hold, net, normal(4, 3))
    run(record, net, normal(4, 3))
    with pytest.raises(ShapeError, match=r"a cache that holds 4 rows, and a call that has 2.*belongs to one run"):
        run(hold, net, normal(2, 3))
    state.begin(("null",), index=1)
    with pytest.raises(ArgumentError, match=r"nothing cached for \('null',\)"):
        run(hold, net, normal(4, 3))
    state.close()
    with pytest.raises(ArgumentError, match=r"a use after close\(\)"):
        run(hold, net, normal(4, 3))
    with pytest.raises(ArgumentError, match="keep"):
        reuse.RunState(keep=0)


def test_a_module_that_is_used_twice_has_two_outputs(net: Net) -> None:
    state, x = reuse.RunState(), normal(2, 3)
    dense = run(Taps(net).tap("twice", reuse.Record(state)), net, x)
    state.begin(index=1)
    assert torch.equal(run(Taps(net).tap("twice", reuse.Hold(state)), net, x), dense)


def test_evaluations_that_come_again_replace_what_was_remembered(net: Net) -> None:
    state = reuse.RunState(keep=2)
    record, hold = Taps(net).tap("", reuse.Record(state)), Taps(net).tap("", reuse.Hold(state))
    outputs = {}
    for index in (0, 2, 3):
        state.begin(index=index)
        outputs[index] = run(record, net, normal(1, 3, seed=index))
    state.begin(index=3)  # a rejected step: the third is gone, and of the second the last two were kept
    assert state.latest(("cond",)) == 2
    assert torch.equal(run(hold, net, normal(1, 3)), outputs[2])
    state.begin(index=1)
    assert state.latest(("cond",)) is None, "the first was let go"


def test_a_write_in_place_is_noticed_and_lent_memory_is_copied(net: Net) -> None:
    x = normal(1, 3)
    shaky = nn.Sequential(nn.Linear(3, 3), nn.ReLU(inplace=True), nn.Identity()).requires_grad_(False)
    state = reuse.RunState()
    record, hold = Taps(shaky).tap("0", reuse.Record(state)), Taps(shaky).tap("0", reuse.Hold(state))
    dense = run(record, shaky, x).clone()
    with pytest.raises(ArgumentError, match=r"written to since.*copy=True"):
        run(hold, shaky, x)
    run(Taps(shaky).tap("0", reuse.Record(state, copy=True)), shaky, x)
    assert torch.equal(run(hold, shaky, x), dense)
    identity, state = nn.Sequential(nn.Identity()), reuse.RunState()
    run(Taps(identity).tap("0", reuse.Record(state)), identity, x)
    before, x[:] = x.clone(), 0.0  # the run's buffer is written to
    assert torch.equal(run(Taps(identity).tap("0", reuse.Hold(state)), identity, x), before)


def test_other_threads_run_the_modules_themselves_and_wait_to_patch(net: Net) -> None:
    x, seen = normal(1, 3), []
    dense, entered, leave = net(x), threading.Event(), threading.Event()

    def other() -> None:
        entered.wait()
        seen.append(net(x))
        leave.set()
        with Taps(net).tap("leave", lambda call: call.run(*call.args) * 2):
            seen.append(net(x))

    thread = threading.Thread(target=other)
    thread.start()
    with Taps(net).tap("leave", lambda call: call.run(*call.args) * 0):
        entered.set()
        leave.wait()
        assert torch.equal(net(x), dense * 0)
    thread.join()
    assert torch.equal(seen[0], dense)
    assert torch.equal(seen[1], dense * 2)
    assert patched(net) == []


def test_residuals_are_added_to_new_inputs() -> None:
    block = nn.Sequential(nn.Linear(3, 3)).requires_grad_(False)
    state, x, y = reuse.RunState(), normal(2, 3, dtype=torch.float64), normal(2, 3, seed=1, dtype=torch.float64)
    block.double()
    residual = run(Taps(block).tap("0", reuse.RecordResidual(state)), block, x) - x
    state.begin(index=1)
    reused = run(Taps(block).tap("0", reuse.AddResidual(state)), block, y)
    torch.testing.assert_close(reused, y + residual, rtol=0, atol=0)
    wrong = nn.Sequential(nn.Linear(3, 2))
    with pytest.raises(ArgumentError, match=r"0 inputs like the output \[2, 2\]"):
        run(Taps(wrong).tap("0", reuse.RecordResidual(state)), wrong, x.float())


@pytest.mark.parametrize("order", [1, 2])
def test_extrapolation_is_exact_on_polynomials_of_the_half_log_snr(order: int) -> None:
    times, path = [0.1, 0.17, 0.35, 0.6], Linear()
    place = [path.half_log_snr(t) for t in times]
    polynomial = torch.tensor([0.3, -1.2, 0.7][: order + 1], dtype=torch.float64)
    module = nn.Sequential(nn.Identity())
    state = reuse.RunState(keep=order + 1)
    record = Taps(module).tap("0", reuse.Record(state))
    hold = Taps(module).tap("0", reuse.Hold(state, order=order))
    values = [sum(c * u**k for k, c in enumerate(polynomial)) * torch.ones(1, 2, dtype=torch.float64) for u in place]
    for index in range(3):
        state.begin(index=index, variable=place[index])
        run(record, module, values[index])
    state.begin(index=3, variable=place[3])
    found = run(hold, module, torch.full((1, 2), math.nan, dtype=torch.float64))
    torch.testing.assert_close(found, values[3], rtol=1e-10, atol=1e-10)
    assert (values[2] - values[3]).abs().max() > 0.1, "holding would not do"


def test_newton_on_equal_distances_is_the_backward_form() -> None:
    values = torch.tensor([1.0, 4.0, 2.0], dtype=torch.float64)
    f, d, dd = values[2], values[2] - values[1], values[2] - 2 * values[1] + values[0]
    for s in (0.5, 1.0, 2.0):
        weights = torch.tensor(reuse.newton_weights([0.0, 0.1, 0.2], 0.2 + 0.1 * s), dtype=torch.float64)
        expected = f + s * d + s * (s + 1) / 2 * dd
        torch.testing.assert_close(weights @ values, expected, rtol=1e-12, atol=1e-12)
    with pytest.raises(ArgumentError, match="nodes"):
        reuse.newton_weights([0.0, 0.0], 1.0)
    with pytest.raises(ArgumentError, match="nodes"):
        reuse.newton_weights([-math.inf, 0.0], 1.0)


def test_order_above_zero_holds_where_only_infinite_places_are_remembered() -> None:
    module, state = nn.Sequential(nn.Identity()), reuse.RunState(keep=2)
    state.begin(index=0, variable=-math.inf)
    x = normal(1, 2)
    run(Taps(module).tap("0", reuse.Record(state)), module, x)
    state.begin(index=1, variable=0.0)
    assert torch.equal(run(Taps(module).tap("0", reuse.Hold(state, order=1)), module, 0 * x), x)


class Attention(nn.Module):
    """A layer of attention over tokens, as RAS meets it: queries of some tokens, keys and values of all."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.Linear(3, 4), nn.Linear(4, 3)
        self.to_q, self.to_k, self.to_v = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x)
        scores = self.to_q(h) @ self.to_k(h).transpose(1, 2)
        return self.out(h + scores.softmax(-1) @ self.to_v(h))


def test_gather_and_scatter_evaluate_some_tokens() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Attention().double().requires_grad_(False)
    x, state = normal(4, 6, 3, dtype=torch.float64), reuse.RunState(keep=2)  # two branches of two samples

    def taps(index: Tensor | None) -> Taps:
        scatter = reuse.Scatter(state, index)
        return Taps(net).tap("embed", reuse.Gather(index)).tap(["to_k", "to_v", "out"], scatter)

    state.begin(("cond", "null"), 0)
    dense = run(taps(None), net, x)
    assert torch.equal(dense, net(x))
    active = torch.tensor([[4, 1, 0], [2, 3, 5]])
    state.begin(("cond", "null"), 1)
    torch.testing.assert_close(run(taps(active), net, x), dense, rtol=1e-13, atol=1e-13)
    state.begin(("cond", "null"), 1)
    moved = run(taps(active), net, x + 1)
    idle = torch.ones(4, 6, dtype=torch.bool).scatter(1, active.repeat(2, 1), False)
    assert torch.equal(moved[idle], dense[idle])
    assert (moved[~idle] - dense[~idle]).abs().max() > 1e-3
    with pytest.raises(ShapeError, match="rows that divide"):
        run(taps(torch.zeros(3, 2, dtype=torch.int64)), net, x)


def test_trees_of_outputs() -> None:
    import dataclasses

    @dataclass
    class Output(OrderedDict):  # as diffusers' outputs: a dataclass that is a mapping of its fields
        sample: Any = None

        def __post_init__(self) -> None:
            self["sample"] = self.sample

    tree = Output(sample=(torch.ones(1), Pair(torch.ones(2), 3)))
    doubled = map_tensors(lambda leaf: leaf * 2, tree)
    assert isinstance(doubled, Output)
    assert isinstance(doubled.sample[1], Pair)
    assert doubled["sample"][1].b == 3
    assert [leaf.tolist() for leaf in tensors(doubled)] == [[2.0], [2.0, 2.0]]
    fields = map_tensors(lambda leaf: leaf + 1, Fields(torch.zeros(1), [torch.ones(1)]))
    assert [leaf.item() for leaf in tensors(dataclasses.astuple(fields))] == [1.0, 2.0]
