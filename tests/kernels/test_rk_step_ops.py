"""`rk_step` as an operator: gradients, compilation, fake tensors; and the names in its errors."""

import math

import pytest
import torch
from kernel_variants import using, variants

from pushforward.errors import ArgumentError, DtypeError, ShapeError
from pushforward.kernels import backend, rk_step

VARIANTS = variants("rk_step")
x, k, h = torch.zeros(2, 3), torch.ones(2, 3), torch.ones(2, dtype=torch.float64)
scalar = torch.tensor(1.0)
good = {"rtol": 1e-3, "atol": 1e-3}


@pytest.mark.parametrize(
    ("error", "argument", "call"),
    [
        (ArgumentError, "stages: got 0 tensors", lambda: rk_step(x, [], 1.0, [], [], **good)),
        (ArgumentError, "stages: got 17", lambda: rk_step(x, [k] * 17, 1.0, [1] * 17, [1] * 17, **good)),
        (ShapeError, r"stages\[0\]: got \[3, 2\]", lambda: rk_step(x, [k.view(3, 2)], 1.0, [1], [1], **good)),
        (
            DtypeError,
            r"stages\[1\]: got torch",
            lambda: rk_step(x, [k, k.double()], 1.0, [1, 1], [1, 1], **good),
        ),
        (DtypeError, "x: got torch.int64", lambda: rk_step(x.long(), [k], 1.0, [1], [1], **good)),
        (
            ShapeError,
            "x: got a tensor without",
            lambda: rk_step(scalar, [scalar], 1.0, [1], [1], **good),
        ),
        (ShapeError, "^weights", lambda: rk_step(x, [k], 1.0, [1, 1], [1], **good)),
        (ShapeError, "^weights", lambda: rk_step(x, [k], 1.0, 1.0, [1], **good)),
        (ArgumentError, "^weights", lambda: rk_step(x, [k], 1.0, [math.nan], [1], **good)),
        (ShapeError, "error_weights", lambda: rk_step(x, [k], 1.0, [1], [1, 1], **good)),
        (ArgumentError, "error_weights: got 3 rows", lambda: rk_step(x, [k], 1.0, [1], [[1]] * 3, **good)),
        (ArgumentError, "dense: got 5 rows", lambda: rk_step(x, [k], 1.0, [1], [1], dense=[[1]] * 5, **good)),
        (ShapeError, "dense", lambda: rk_step(x, [k], 1.0, [1], [1], dense=[[1, 2]], **good)),
        (DtypeError, "h: got torch.float32", lambda: rk_step(x, [k], torch.ones(2), [1], [1], **good)),
        (ShapeError, r"h: got \[3\]", lambda: rk_step(x, [k], torch.ones(3).double(), [1], [1], **good)),
        (
            DtypeError,
            "requires grad",
            lambda: rk_step(x, [k], h.clone().requires_grad_(), [1], [1], **good),
        ),
        (ArgumentError, "rtol: got -1", lambda: rk_step(x, [k], 1.0, [1], [1], rtol=-1, atol=1)),
        (ArgumentError, "atol: got nan", lambda: rk_step(x, [k], 1.0, [1], [1], rtol=1, atol=math.nan)),
        (ArgumentError, "atol: got 0, and rtol too", lambda: rk_step(x, [k], 1.0, [1], [1], rtol=0, atol=0)),
        (ShapeError, "out", lambda: rk_step(x, [k], 1.0, [1], [1], out=torch.zeros(6), **good)),
        (ArgumentError, "out", lambda: rk_step(x.clone().requires_grad_(), [k], 1.0, [1], [1], out=x.clone(), **good)),
    ],
)
def test_named_error(error, argument, call):
    with pytest.raises(error, match=argument):
        call()


@pytest.mark.parametrize("variant", VARIANTS)
def test_partial_overlap_is_refused(variant):
    buffer = torch.zeros(8)
    with using(variant), pytest.raises(ArgumentError, match=r"out\[0\]: got memory that partly overlaps inputs\[1\]"):
        rk_step(x, [buffer[:6].view(2, 3)], 1.0, [1], [1], out=buffer[1:7].view(2, 3), **good)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("case", range(3))
def test_opcheck(variant, case):
    a, b, c = (torch.randn(2, 3, requires_grad=True) for _ in range(3))
    h = torch.tensor([0.1, 0.2], dtype=torch.float64)
    cases = [
        (a, [b, c], h, [0.5, 0.5], [1.0, -1.0], [], 1e-3, 1e-3),
        (a, [b, c], h[:1], [0.5, 0.0], [1.0, -1.0, 2.0, 0.0], [1.0, 2.0, 0.0, 0.0], 1e-3, 0.0),
        (a.detach().half(), [b.detach().half()], h, [0.5], [1.0], [], 0.0, 1e-3),
    ]
    with using(variant):
        torch.library.opcheck(torch.ops.pushforward.rk_step.default, cases[case])


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients(variant):
    tensors = [torch.randn(2, 2, dtype=torch.float64, requires_grad=True) for _ in range(4)]
    h = torch.tensor([0.1, -0.2], dtype=torch.float64)

    def function(a, *stages):
        step = rk_step(
            a, stages, h, [0.5, 0.0, 1.0], [1.0, -1.0, 0.0], **good, dense=[[1.0, 2.0, 0.0], [0.0, 0.0, 1.0]]
        )
        assert not step.error.requires_grad
        return step.x, *step.dense

    with using(variant):
        assert torch.autograd.gradcheck(function, tensors)
        assert torch.autograd.gradgradcheck(function, tensors)
        (only_dense,) = torch.autograd.grad(function(*tensors)[2].sum(), tensors[3])
    torch.testing.assert_close(only_dense, h[:, None].expand(2, 2))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Inductor's own imports
def test_compiles_without_a_graph_break():
    def function(a, b, h, out):
        step = rk_step(a, [b, a * b], h, [0.5, 0.5], [1e-3, -1e-3], **good, dense=[[1.0, 1.0]])
        rk_step(a, [b], 0.5, [1.0], [1.0], **good, out=out)
        return step.x + step.dense[0], step.error * 2

    a, b, h = torch.randn(2, 3), torch.randn(2, 3), torch.tensor([0.1, 0.2], dtype=torch.float64)
    outs = torch.empty(2, 3), torch.empty(2, 3)
    expected = function(a, b, h, outs[0])
    result = torch.compile(function, fullgraph=True, backend="aot_eager")(a, b, h, outs[1])
    torch.testing.assert_close(result, expected)
    torch.testing.assert_close(*outs)


def test_fake_and_meta_tensors():
    with torch._subclasses.FakeTensorMode():
        step = rk_step(torch.empty(4, 3), [torch.empty(4, 3)], 0.1, [1.0], [[1.0], [2.0]], **good, dense=[[1.0]])
        assert (step.x.shape, step.error.shape, step.dense[0].shape) == ((4, 3), (4, 2), (4, 3))
    meta = torch.empty(4, 3, device="meta")
    assert rk_step(meta, [meta], 0.1, [1.0], [1.0], **good).error.shape == (4,)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["triton", "cuda"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(513, 2), (341, 3), (9, 127), (5, 1025), (4, 3, 64, 64), (2, 2**20 + 2000)])
def test_on_a_device(name, dtype, shape):
    tensors = [torch.randn(shape, generator=torch.Generator().manual_seed(i)).to(dtype) for i in range(8)]
    h = torch.rand(shape[0], dtype=torch.float64)
    rows = [torch.randn(7, dtype=torch.float64).tolist() for _ in range(4)]
    with backend("reference"):
        expected = rk_step(tensors[0], tensors[1:], h, rows[0], rows[1:3], **good, dense=rows[3:])
    cuda = [t.cuda() for t in tensors]
    with backend(name):
        step = rk_step(cuda[0], cuda[1:], h, rows[0], rows[1:3], **good, dense=rows[3:])
    assert torch.equal(step.x.cpu(), expected.x)
    assert torch.equal(step.error.cpu(), expected.error)
    assert torch.equal(step.dense[0].cpu(), expected.dense[0])
