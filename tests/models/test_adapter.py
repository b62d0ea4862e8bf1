import math
import threading

import pytest
import torch
from torch import nn

from pushforward.errors import ArgumentError, ShapeError, UnknownNameError
from pushforward.models import (
    EDM,
    Guidance,
    IndexClock,
    Linear,
    Model,
    adapt,
    prediction,
    reference_mixture,
)


class Spy:
    """A network that records what it is given and returns the state plus its label."""

    def __init__(self):
        self.calls = []

    def __call__(self, x, time, y=None, **others):
        self.calls.append((x.clone(), time, y, others))
        return x if y is None else x + y.to(x.dtype).reshape(-1, *[1] * (x.ndim - 1))


@pytest.fixture
def spy():
    return Spy()


def labels(*values):
    return {"y": torch.tensor(values)}


X = torch.arange(6.0).reshape(3, 2)


def test_one_branch_is_one_call_with_the_state_itself():
    seen = []

    def network(x, time):
        seen.append((x, time))
        return -x

    (out,) = adapt(network).bind().evaluate(X, 0.25)
    assert seen[0][0] is X
    assert torch.equal(out, -X)
    assert torch.equal(seen[0][1], torch.full((3,), 0.25))


def test_two_branches_are_one_call_branch_major(spy):
    bound = adapt(spy, null=labels(10)).bind(labels(1, 2, 3))
    cond, null = bound.evaluate(X, 0.5, ("cond", "null"))
    assert torch.equal(cond, X + torch.tensor([[1.0], [2.0], [3.0]]))
    assert torch.equal(null, X + 10)
    x, time, y, _ = spy.calls[0]
    assert len(spy.calls) == 1
    assert torch.equal(x, torch.cat([X, X]))
    assert time.shape == (6,)
    assert y.tolist() == [1, 2, 3, 10, 10, 10]
    assert (bound.calls, bound.rows) == (1, 6)
    assert cond.untyped_storage().data_ptr() == null.untyped_storage().data_ptr()


def test_branches_alone_cost_one_row_a_sample(spy):
    bound = adapt(spy, null=labels(10)).bind(labels(1, 2, 3))
    assert torch.equal(bound.evaluate(X, 0.5, ("null",))[0], X + 10)
    assert bound.rows == 3


def test_sequential_branches_agree_with_joint_ones(spy):
    joint, sequential = (adapt(spy, null=labels(10), sequential=s).bind(labels(1, 2, 3)) for s in (False, True))
    for a, b in zip(
        joint.evaluate(X, 0.5, ("cond", "null")), sequential.evaluate(X, 0.5, ("cond", "null")), strict=True
    ):
        assert torch.equal(a, b)
    assert (joint.calls, sequential.calls) == (1, 2)


def test_conditions_are_trees_and_leaves_of_one_row_are_expanded(spy):
    condition = {
        "y": torch.tensor([1]),
        "added": {"text": torch.ones(3, 4), "ids": [torch.zeros(1, 2), "name"]},
        "flag": 7,
    }
    null = {"y": torch.tensor([0]), "added": {"text": torch.zeros(1, 4), "ids": [torch.zeros(1, 2), "name"]}}
    bound = adapt(spy).bind(condition, null)
    bound.evaluate(X, 0.5, ("cond", "null"))
    _, _, y, others = spy.calls[0]
    assert y.tolist() == [1, 1, 1, 0, 0, 0]
    assert others["added"]["text"][:, 0].tolist() == [1, 1, 1, 0, 0, 0]
    assert others["added"]["ids"][0].shape == (6, 2)
    assert others["added"]["ids"][1] == "name"
    assert others["flag"] == 7


@pytest.mark.parametrize(
    ("condition", "null"),
    [
        ({"tokens": torch.ones(3, 5, 2)}, {"tokens": torch.ones(1, 4, 2)}),
        ({"tokens": torch.ones(3, 5, 2)}, {"tokens": None}),
        ({"scale": 1.0}, {"scale": 2.0}),
        ({"scale": torch.tensor(1.0)}, {"scale": torch.tensor(2.0)}),
        ({"ids": [torch.ones(3)]}, {"ids": [torch.ones(3), torch.ones(3)]}),
    ],
    ids=["length", "none", "number", "scalar tensor", "structure"],
)
def test_conditions_that_do_not_stack_run_one_after_another(spy, condition, null):
    bound = adapt(spy).bind(condition, null)
    bound.evaluate(X, 0.5, ("cond", "null"))
    assert len(spy.calls) == 2


def test_shared_conditions_have_no_batch_dimension(spy):
    ids = torch.arange(14.0).reshape(7, 2)
    bound = adapt(spy, shared=("ids",), null=labels(0)).bind(labels(1, 2, 3) | {"ids": ids})
    bound.evaluate(X, 0.5, ("cond", "null"))
    assert spy.calls[0][3]["ids"] is ids
    with pytest.raises(
        ShapeError, match=r"condition 'ids' of branch 'cond': got a batch of 7, expected 3 rows.*shared="
    ):
        adapt(spy).bind({"ids": ids}).evaluate(X, 0.5)


def test_time_shapes_and_dtypes(spy):
    for shape, expected in (("batch", (3,)), ("one", (1,)), ("scalar", ())):
        adapt(spy, time_shape=shape).bind().evaluate(X, 0.5)
        assert spy.calls[-1][1].shape == expected
    adapt(spy).bind().evaluate(X.to(torch.bfloat16), 0.999)
    assert spy.calls[-1][1].dtype == torch.float32
    adapt(spy).bind().evaluate(X.double(), 0.1)
    assert spy.calls[-1][1].tolist() == [0.1] * 3


def test_whole_times_for_tables(spy):
    path = prediction("noise", "linear", network_time=IndexClock(1000))
    bound = adapt(spy, path, time_dtype=torch.int64).bind()
    bound.evaluate(X, 0.3)
    assert spy.calls[-1][1].tolist() == [699] * 3
    with pytest.raises(ArgumentError, match=r"network time: got 699\.3.*expected an integer.*quantise=True"):
        bound.evaluate(X, 0.2997)


def test_times_are_made_once_and_forgotten_eventually(spy):
    bound = adapt(spy).bind()
    bound.evaluate(X, 0.5)
    bound.evaluate(X, 0.5)
    assert spy.calls[0][1] is spy.calls[1][1]
    for i in range(5000):
        bound.evaluate(X[:1], i / 5000)
    assert len(bound._times) <= 4096


def test_the_networks_dtype_is_entered_and_left(spy):
    (out,) = adapt(spy, dtype=torch.bfloat16, time="1000*(1-t)").bind({"y": torch.ones(3, 1)}).evaluate(X, 0.001)
    x, time, y, _ = spy.calls[0]
    assert x.dtype == y.dtype == torch.bfloat16
    assert out.dtype == torch.float32
    assert time.tolist() == [999.0] * 3  # in bfloat16 it would be 1000


def test_the_double_input_is_one_buffer_but_never_under_autograd():
    seen = []
    bound = adapt(lambda x, t, y: seen.append(x.data_ptr()) or x * 1.0, null=labels(0)).bind(labels(1, 2, 3))
    with torch.no_grad():
        for _ in range(3):
            bound.evaluate(X, 0.5, ("cond", "null"))
    assert len(set(seen)) == 1
    weight = torch.ones(1, requires_grad=True)
    bound = adapt(lambda x, t, y: x * weight, null=labels(0)).bind(labels(1, 2, 3))
    state = X
    for _ in range(3):  # a reused buffer would have been overwritten before the backward pass
        cond, null = bound.evaluate(state, 0.5, ("cond", "null"))
        state = 2 * cond - null
    state.sum().backward()
    assert weight.grad.item() == pytest.approx(3 * X.sum().item())


def test_under_inference_mode_and_after(spy):
    bound = adapt(spy, null=labels(0)).bind(labels(1, 2, 3))
    with torch.inference_mode():
        bound.evaluate(X, 0.5, ("cond", "null"))
    with torch.no_grad():
        bound.evaluate(X, 0.5, ("cond", "null"))


def test_empty_batches(spy):
    bound = adapt(spy, null=labels(0)).bind(labels(1))
    outs = bound.evaluate(X[:0], 0.5, ("cond", "null"))
    assert [out.shape for out in outs] == [(0, 2), (0, 2)]


def test_learned_variance_is_cut_off():
    model = adapt(lambda x, t: torch.cat([x, 0 * x], dim=1), split_variance=True)
    image = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(model.evaluate(image, 0.5)[0], image)
    with pytest.raises(ShapeError, match=r"network output: got \[2, 3, 4, 4\], expected 6 channels"):
        adapt(lambda x, t: x, split_variance=True).evaluate(image, 0.5)


def test_other_signatures():
    assert torch.equal(adapt(lambda t, x: x + t[:, None], call="t_x").evaluate(X, 0.5)[0], X + 0.5)
    assert torch.equal(adapt(lambda x: -x, call="x").evaluate(X, 0.5)[0], -X)
    custom = adapt(lambda a: {"out": a}, call=lambda network, x, time, condition: network(x)["out"])
    assert torch.equal(custom.evaluate(X, 0.5)[0], X)


def test_modules_with_their_clock():
    model = adapt(nn.Identity(), "velocity", "linear", time="1-t", sign=-1, call="x")
    assert model.interpolant == Linear()
    assert model.prediction.velocity(0.5) == (0, -1)
    assert model.prediction.time(0.25) == 0.75


def test_a_model_on_another_path():
    oracle = reference_mixture("vp")
    model = oracle.model("noise").on(EDM())
    x = oracle.sample(4, seed=1, t=0.5)
    nu, alpha = oracle.interpolant.noise_ratio(0.5), oracle.interpolant.alpha(0.5)
    t = EDM().time_at_noise_ratio(nu)
    state = x / alpha
    (raw,) = model.evaluate(state * model.prediction.input_scale(t), t)
    affine = model.prediction.denoised(t)
    assert (affine.x * state + affine.output * raw - oracle.denoised(x, 0.5)).abs().max() < 1e-10


def test_one_model_in_many_threads():
    oracle = reference_mixture()
    model, results = oracle.model(), {}
    states = {i: oracle.sample(i + 1, seed=i, t=0.5) for i in range(8)}

    def work(i):
        bound = model.bind()
        results[i] = [bound.evaluate(states[i], 0.5)[0] for _ in range(5)]

    threads = [threading.Thread(target=work, args=(i,)) for i in states]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    for i, outs in results.items():
        assert all(torch.equal(out, oracle.velocity(states[i], 0.5)) for out in outs)


def test_guidance_without_a_null_condition():
    model = adapt(lambda x, t: x)
    message = (
        r"guidance weight 4.0 needs an unconditional prediction\. "
        r"Pass null= \(this adapter cannot derive one\) or use weight 1"
    )
    with pytest.raises(ArgumentError, match=message):
        model.bind(guidance=4.0)
    with pytest.raises(ArgumentError, match=message):
        model.bind(guidance=Guidance(4.0))
    with pytest.raises(ArgumentError, match="guidance needs an unconditional prediction"):
        model.bind().evaluate(X, 0.5, ("cond", "null"))
    model.bind(guidance=1.0)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: adapt(3), ArgumentError, "network: got int, expected a callable"),
        (lambda: adapt(abs, call="y"), UnknownNameError, "call: got 'y', expected 'x_t'"),
        (lambda: adapt(abs, time_shape="B"), UnknownNameError, "time_shape: got 'B'"),
        (lambda: adapt(abs, "flow"), UnknownNameError, "prediction: got 'flow'"),
        (lambda: adapt(abs, prediction("noise"), "vp"), ArgumentError, "prediction: got NoisePrediction"),
        (lambda: adapt(abs).bind(torch.ones(2)), ArgumentError, "condition: got Tensor, expected a dict.*'y'"),
        (lambda: adapt(abs).bind(None, [1]), ArgumentError, "null: got list, expected a dict"),
        (lambda: adapt(abs).bind().evaluate(X, 0.5, ("image",)), ArgumentError, "branch: got 'image'"),
        (
            lambda: adapt(lambda x, t: (x,)).evaluate(X, 0.5),
            ArgumentError,
            "network output: got tuple, expected a tensor",
        ),
        (
            lambda: adapt(lambda x, t: x, channels=3).evaluate(X, 0.5),
            ShapeError,
            r"x: got torch.float32 \[3, 2\], expected",
        ),
        (lambda: adapt(lambda x, t: x, channels=3).evaluate(X, 0.5), ShapeError, r"Try x\[None\]"),
        (lambda: adapt(lambda x, t: x).bind(labels(1, 2)).evaluate(X, 0.5), ShapeError, "'y'.*batch of 2, expected 3"),
        (lambda: adapt(lambda x, t: x).evaluate(X, math.nan), ArgumentError, "t: got nan"),
        (
            lambda: adapt(lambda x, t: x[:3], null={}).bind().evaluate(X, 0.5, ("cond", "null")),
            ShapeError,
            r"network output: got \[3, 2\], expected 6 rows",
        ),
    ],
)
def test_bad_arguments_are_named(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_hint_for_outputs_of_another_shape():
    assert "split_variance=True" in adapt(abs).output_hint
    assert adapt(abs, split_variance=True).output_hint is None
    assert isinstance(adapt(abs), Model)
