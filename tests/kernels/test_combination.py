"""`combination`: `combine` with its coefficients settled. The same bits, errors and gradients, whatever the tensors."""

import copy
import pickle

import pytest
import torch
from kernel_variants import cpu_backends
from torch.utils._python_dispatch import TorchDispatchMode

from pushforward.errors import DtypeError, PushforwardError, ShapeError
from pushforward.kernels import Draw, Noise, backend, combination, combine, dispatch

AVAILABLE = cpu_backends("combine")
KEY = Noise(5, Draw(1, 2), torch.tensor([4, 9]))
ARGUMENTS = {
    "one row": ([1.0, -0.5], {}),
    "rows": ([[1.0, -0.5], [0.25, 2]], {}),
    "a row in rows": ([[1.0, -0.5]], {}),
    "noise": ([1.0, -0.5], {"noise": KEY, "scale": 0.5}),
    "noises": ([[1.0, -0.5], [0, 1]], {"noise": [KEY, KEY.at(Draw(1, 3))], "scale": [[0.5, 1.0], [0.0, 2.0]]}),
    "by sample": (torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64), {}),
}


class Counting(TorchDispatchMode):
    """Lists the operators that run."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.seen.append(function.name())
        return function(*args, **(kwargs or {}))


def tensors(dtype=torch.float32, layout=torch.contiguous_format):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 4, 5, 6, generator=generator).to(dtype).to(memory_format=layout) for _ in range(2)]


def same(got, expected):
    assert type(got) is type(expected)
    pairs = zip(got, expected, strict=True) if isinstance(got, tuple) else [(got, expected)]
    return all(a.dtype == b.dtype and a.stride() == b.stride() and torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("name", AVAILABLE)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("arguments", ARGUMENTS)
def test_equals_combine(name, layout, dtype, arguments):
    weights, noise = ARGUMENTS[arguments]
    inputs = tensors(dtype, layout)
    settled = combination(weights, **noise)
    with backend(name):
        assert same(settled(*inputs), combine(inputs, weights, **noise))
        whole = [x[:, :2] for x in inputs]  # tensors of another shape, which are not dense
        assert same(settled(*whole), combine(whole, weights, **noise))


@pytest.mark.parametrize("arguments", ARGUMENTS)
def test_copies_and_pickles_do_the_same(arguments):
    weights, noise = ARGUMENTS[arguments]
    settled, inputs = combination(weights, **noise), tensors()
    for other in (copy.deepcopy(settled), pickle.loads(pickle.dumps(settled))):
        assert same(other(*inputs), settled(*inputs))


def test_results_are_new():
    x, v = tensors()
    before = x.clone()
    copied = combination([1.0])
    first, second = copied(x), copied(x)
    assert len({first.data_ptr(), second.data_ptr(), x.data_ptr()}) == 3
    first.zero_()
    assert torch.equal(x, before)
    assert torch.equal(second, before)
    empty = combination([1.0, 2.0])(x[:0], v[:0])
    assert empty.shape == (0, 4, 5, 6)


def test_gradients_flow_where_they_are_recorded():
    settled, (x, v) = combination([[1.0, -0.5], [0.25, 2.0]]), tensors(torch.float64)
    x.requires_grad_()
    first, second = settled(x, v)
    (3 * first + second).sum().backward()
    assert torch.equal(x.grad, torch.full_like(x, 3.25))
    with torch.no_grad():
        assert not settled(x, v)[0].requires_grad
    square = torch.func.vmap(settled)(x.detach(), v)  # no addresses within a transform
    assert same(square, settled(x.detach(), v))


def test_the_backend_is_that_of_the_call(monkeypatch):
    settled, inputs, calls = combination([1.0, -0.5]), tensors(), []
    with backend("reference"):
        reference = dispatch.implementation("combine", "cpu")
        seen = lambda *given: (calls.append(1), reference(*given))  # noqa: E731
        monkeypatch.setitem(dispatch._chosen, ("combine", "reference", "cpu"), seen)
        settled(*inputs)
    assert calls == [1]


def test_modes_see_an_operator():
    with Counting() as mode:
        combination([1.0, -0.5])(*tensors())
    assert mode.seen[-1] == "pushforward::combine"


@pytest.mark.parametrize("name", AVAILABLE)
@pytest.mark.parametrize("shape", [(), (0, 3), (1, 1, 5), (4, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_any_shape_and_place_in_memory(name, shape, dtype):
    """Scalars, nothing, dimensions of one whose strides say nothing, offsets, and no contiguous order at all."""
    x = torch.arange(torch.Size(shape).numel() + 2).to(dtype)
    moved = [x[start : x.numel() - 2 + start].reshape(shape) for start in (0, 2)]
    turned = [y.movedim(0, -1) for y in moved if y.ndim]
    stretched = [
        y.as_strided(y.shape, [7 if n == 1 else s for n, s in zip(y.shape, y.stride(), strict=True)]) for y in moved
    ]
    settled = combination([1.0, 0.5])
    with backend(name):
        for inputs in filter(None, (moved, turned, stretched)):
            expected = inputs[0].double() + 0.5 * inputs[1].double()  # small integers and halves: exact in any dtype
            got = settled(*inputs)
            assert got.dtype == dtype
            assert torch.equal(got.double(), expected)


def test_transforms_whose_tensors_have_no_memory():
    """Within functionalize a tensor is a plain one on the CPU, at address 0."""
    inputs = tensors()
    settled = combination([1.0, -0.5])
    assert torch.equal(torch.func.functionalize(settled)(*inputs), inputs[0] - 0.5 * inputs[1])
    assert torch.equal(torch.func.functionalize(lambda *xs: combine(xs, [1.0, -0.5]))(*inputs), settled(*inputs))
    assert torch.equal(torch.vmap(settled)(*inputs), settled(*inputs))


@pytest.mark.parametrize("name", AVAILABLE)
def test_layouts_without_an_address_are_refused(name):
    x = torch.ones(3, 4)
    settled = combination([1.0, 0.5])
    with backend(name):
        for inputs in ((x.int(), x.int()), (x.to(torch.complex64), x), (x, x.to("meta")), (x, x.double()), (x, x[:1])):
            with pytest.raises(PushforwardError):
                settled(*inputs)
        with pytest.raises(RuntimeError):
            settled(x.to_sparse(), x)


def test_mistakes():
    x, v = tensors()
    settled = combination([1.0, -0.5])
    for wrong, error in (
        ((x, v[:1]), ShapeError),
        ((x, v.double()), DtypeError),
        ((x,), PushforwardError),
        ((x, v, v), PushforwardError),
    ):
        with pytest.raises(error) as ours:
            settled(*wrong)
        with pytest.raises(error) as theirs:
            combine(wrong, [1.0, -0.5])
        assert str(ours.value) == str(theirs.value)
