"""The operators: what `torch.library` asks of them, gradients, and compilation without a graph break."""

import pytest
import torch
from kernel_variants import cpu_backends, fast_backends
from torch.utils.flop_counter import FlopCounterMode

from pushforward.kernels import Draw, Noise, backend, combine, normal

AVAILABLE, FAST = cpu_backends("combine"), fast_backends("combine")
KEY = Noise(3, Draw(1, 2), torch.tensor([5, 6]))


def samples():
    x, v = torch.randn(2, 3, requires_grad=True), torch.randn(2, 3)
    op = torch.ops.pushforward.combine.default
    yield op, ([x, v], 1, [1.0, 0.5], None, [], [], [], None, None, None)
    yield op, ([x, v], 2, [1.0, 0.5, 0.0, 2.0], None, [3, 1, 2, 0, 0], [KEY.samples], [0.5, 0.0], None, None, None)
    yield op, ([x, v], 1, [], torch.randn(2, 1, 2).double(), [], [], [], None, None, None)
    yield op, ([], 1, [], None, [3, 1, 2, 0, 0], [None], [], torch.randn(2, 1, 1).double(), v, None)
    channels_last = torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last).requires_grad_()
    yield op, ([channels_last], 1, [2.0], None, [], [], [], None, None, None)
    groups = torch.tensor([[0, 2, 2]])
    yield op, ([x, v], 2, [], torch.randn(3, 2, 2).double(), [], [], [], None, None, groups)
    yield torch.ops.pushforward.normal.default, ([2, 5], [-7, 1, 2, 3, 4], None, torch.float32, torch.device("cpu"))
    yield (
        torch.ops.pushforward.normal.default,
        ([2, 5], [7, 1, 2, 3, 4], KEY.samples, torch.float16, torch.device("cpu")),
    )


@pytest.mark.parametrize("name", AVAILABLE)
@pytest.mark.parametrize("case", range(8))
def test_opcheck(name, case):
    with backend(name):
        torch.library.opcheck(*list(samples())[case])


@pytest.mark.parametrize("name", FAST)
@pytest.mark.parametrize("per_sample", [False, True])
def test_gradients(name, per_sample):
    inputs = [torch.randn(2, 3, dtype=torch.float64, requires_grad=True) for _ in range(6)]
    table = torch.randn(2, 2, 6, dtype=torch.float64)
    weights = table if per_sample else table[0].tolist()

    def function(*tensors):
        return combine(tensors, weights, noise=KEY, scale=[0.5, 1.0])

    with backend(name):
        assert torch.autograd.gradcheck(function, inputs)
        assert torch.autograd.gradgradcheck(function, inputs)
        one = function(*inputs)[1].sum()  # the other output unused
        (gradient,) = torch.autograd.grad(one, inputs[0])
    torch.testing.assert_close(gradient, table[:, 1, :1].expand(2, 3) if per_sample else table[:1, 1, :1].expand(2, 3))


def step(x, v):
    y = combine([x, v], [1.0, 0.25], noise=KEY, scale=0.5)
    mean, spread = combine([x, y], [[0.5, 0.5], [1, -1]])
    return mean * 2 + spread + normal((2, 3), seed=2**64 - 1, draw=Draw(0, 0))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Inductor's own imports
@pytest.mark.parametrize("compiler", ["aot_eager", "inductor"])
def test_compiles_without_a_graph_break(compiler):
    x, v = torch.randn(2, 3), torch.randn(2, 3)
    compiled = torch.compile(step, fullgraph=True, backend=compiler)
    torch.testing.assert_close(compiled(x, v), step(x, v))
    x.requires_grad_()
    (expected,) = torch.autograd.grad(step(x, v).sum(), x)
    (gradient,) = torch.autograd.grad(compiled(x, v).sum(), x)
    torch.testing.assert_close(gradient, expected)


def test_compiles_with_outputs_and_status_given():
    def function(x, out, status):
        combine([x, x], [1.0, 2.0], out=out, status=status)
        return out + 1

    x, out, status = torch.randn(2, 3), torch.empty(2, 3), torch.zeros(1, dtype=torch.int32)
    result = torch.compile(function, fullgraph=True, backend="aot_eager")(x, out, status)
    torch.testing.assert_close(out, 3 * x)
    torch.testing.assert_close(result, 3 * x + 1)
    assert status.item() == 0


def test_compiles_for_any_size():
    compiled = torch.compile(lambda x: combine([x, x], [1.0, 2.0]), fullgraph=True, backend="aot_eager", dynamic=True)
    for size in (2, 5, 9):
        x = torch.randn(size, 3)
        torch.testing.assert_close(compiled(x), 3 * x)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own forward mode
def test_transforms_and_modes_see_it():
    x = torch.randn(4, 3)
    with torch.no_grad():
        mapped = torch.func.vmap(lambda row: combine([row, row], [1.0, 2.0], out=torch.zeros_like(row)))
        torch.testing.assert_close(mapped(x), 3 * x)
    value, tangent = torch.func.jvp(lambda y: combine([y, y * y], [1.0, 2.0]), (x,), (torch.ones(4, 3),))
    torch.testing.assert_close(value, x + 2 * x * x)
    torch.testing.assert_close(tangent, 1 + 4 * x)
    with FlopCounterMode(display=False):
        torch.testing.assert_close(combine([x, x], [1.0, 2.0]), 3 * x)
    with torch._subclasses.FakeTensorMode():
        assert combine([torch.empty(4, 3)], [[1.0], [2.0]])[1].shape == (4, 3)
        assert normal((4, 3), seed=0, draw=Draw(0, 0)).shape == (4, 3)


def test_meta_tensors():
    assert combine([torch.empty(4, 3, device="meta")], [2.0]).shape == (4, 3)


@pytest.mark.parametrize("differ", [False, True])
def test_a_batch_of_gradients_goes_through_combine_at_once(differ):
    x = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    weights = torch.rand(3, 2, dtype=torch.float64) if differ else [0.3, -1.5]
    y = combine([x, x.square()], weights)
    vectors = torch.randn(4, 3, 2, dtype=torch.float64)
    pull = lambda v: torch.autograd.grad(y, x, v, create_graph=True)[0]  # noqa: E731
    one_by_one = torch.stack([pull(v) for v in vectors])
    at_once = torch.func.vmap(pull)(vectors)
    torch.testing.assert_close(at_once, one_by_one, rtol=1e-14, atol=1e-14)
    second = [torch.autograd.grad(found.square().sum(), x, retain_graph=True)[0] for found in (at_once, one_by_one)]
    torch.testing.assert_close(*second, rtol=1e-13, atol=1e-13)
