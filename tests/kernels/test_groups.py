"""Coefficients by group: every variant gives the bits of the definition, whichever of its loops an element takes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_variants import using, variants

from pushforward.errors import ArgumentError, DeviceError, DtypeError, ShapeError
from pushforward.kernels import Draw, Noise, backend, combine, normal, prepare

VARIANTS = variants("combine")
FAST = [name for name in VARIANTS if name != "triton"]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
# Inputs and groups: by sample, token, pixel, channel, element; runs from one element to more than a chunk of 512.
SHAPES = [
    ((0, 3), (1, 3)),
    ((1,), (1,)),
    ((2, 5, 4), (2, 1, 1)),
    ((2, 5, 4), (1, 5, 1)),
    ((2, 5, 4), (2, 5, 4)),
    ((2, 5, 4), (1, 1, 1)),
    ((3, 37, 3), (3, 37, 1)),
    ((2, 9, 31), (2, 9, 1)),
    ((2, 9, 33), (2, 9, 1)),
    ((2, 4, 70), (2, 4, 1)),
    ((3, 1100), (3, 1)),
    ((2, 3, 9, 17), (1, 1, 9, 17)),
    ((2, 3, 9, 17), (2, 3, 1, 1)),
    ((700, 2), (700, 1)),
]
COUNTS = [1, 4, 8, 9, 16, 17, 40]  # around the lengths of a column that a register holds


def tensors(count, shape, dtype, permuted, generator):
    made = []
    for _ in range(count):
        x = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
        made.append(x.permute(*range(x.ndim)[::-1]).contiguous().permute(*range(x.ndim)[::-1]) if permuted else x)
    return made


@st.composite
def problems(draw, shapes=SHAPES):
    (shape, of_groups), dtype = draw(st.sampled_from(shapes)), draw(st.sampled_from(DTYPES))
    count, outputs, draws = draw(st.integers(0, 5)), draw(st.integers(1, 4)), draw(st.integers(0, 2))
    rows, permuted = draw(st.sampled_from(COUNTS)), draw(st.booleans())
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    inputs = tensors(count, shape, dtype, permuted, generator)
    groups = torch.randint(rows, of_groups, generator=generator)
    table = torch.randn(rows, outputs, count + draws, generator=generator, dtype=torch.float64)
    noise = [Noise(draw(st.integers(0, 2**64 - 1)), Draw(1, step)) for step in range(draws)]
    keys = {"noise": noise, "scale": table[..., count:]} if draws else {}
    return inputs, table[..., :count], {**keys, "groups": groups}, torch.empty(shape, dtype=dtype)


def outputs_for(like, weights):
    return [torch.full_like(like, 7.0) for _ in range(weights.shape[1])]


@pytest.mark.parametrize("variant", FAST)
@settings(max_examples=100, deadline=None)
@given(problem=problems(), aliased=st.booleans())
def test_within_the_rounding_bound_and_equal_to_the_reference(variant, problem, aliased):
    inputs, weights, keys, like = problem
    with backend("reference"):
        expected = combine(inputs, weights, out=outputs_for(like, weights), **keys)
    noises, groups, count = keys.get("noise", []), keys["groups"], len(inputs)
    values = [x.double() for x in inputs]
    if noises:
        values += [normal(like.shape, seed=n.seed, draw=n.draw, dtype=torch.float64) for n in noises]
        weights_and_scales = torch.cat([weights, keys["scale"]], -1)
    else:
        weights_and_scales = weights
    wide, narrow = torch.finfo(torch.promote_types(like.dtype, torch.float32)), torch.finfo(like.dtype)
    for o, result in enumerate(expected):
        # A sum of n products, each rounded, of coefficients rounded once, then rounded to the dtype; and subnormals.
        terms = [x * weights_and_scales[:, o, t][groups] for t, x in enumerate(values)]
        exact = sum(terms, torch.zeros(like.shape, dtype=torch.float64))
        bound = (len(terms) + 1) * wide.eps * sum([t.abs() for t in terms], torch.zeros(like.shape).double())
        assert ((result.double() - exact).abs() <= bound + narrow.eps / 2 * exact.abs() + 4 * narrow.tiny).all()
    outs = outputs_for(like, weights)
    if aliased and count:
        outs[-1] = inputs[0]
    with using(variant):
        for got, want in zip(combine(inputs, weights, out=outs, **keys), expected, strict=True):
            assert torch.equal(got, want)


@pytest.mark.skipif("triton" not in VARIANTS, reason="triton does not run here")
@settings(max_examples=8, deadline=None)
@given(problem=problems(SHAPES[1:7]))
def test_triton_equals_the_reference(problem):
    inputs, weights, keys, like = problem
    with backend("reference"):
        expected = combine(inputs, weights, out=outputs_for(like, weights), **keys)
    with backend("triton"):
        results = combine(inputs, weights, out=outputs_for(like, weights), **keys)
    for got, want in zip(results, expected, strict=True):
        if like.dtype == torch.bfloat16:  # Triton's interpreter truncates: one ulp
            assert ((got - want).abs() <= torch.finfo(like.dtype).eps * want.abs()).all()
        else:
            assert torch.equal(got, want)


@pytest.mark.parametrize("variant", FAST)
def test_one_group_a_sample_is_coefficients_by_sample(variant):
    x = torch.randn(6, 5, 3)
    table = torch.randn(4, 1, dtype=torch.float64)
    groups = torch.tensor([3, 0, 0, 2, 1, 3])
    with using(variant):
        by_group = combine([x], table, groups=groups[:, None, None])
        assert torch.equal(by_group, combine([x], table[groups]))
        alone = [combine([x[b : b + 1]], table, groups=groups[b].reshape(1, 1, 1)) for b in range(6)]
        assert torch.equal(by_group, torch.cat(alone))


@pytest.mark.parametrize("variant", FAST)
@pytest.mark.parametrize("of_groups", [(3, 1), (1, 20_001), (3, 20_001)])
def test_threads_do_not_change_a_bit(variant, of_groups):
    x = torch.randn(3, 20_001)
    table, groups = torch.randn(30, 2, dtype=torch.float64), torch.randint(30, of_groups)
    before, results = torch.get_num_threads(), []
    for count in (1, 2):
        torch.set_num_threads(count)
        with using(variant):
            key = {"noise": Noise(3, Draw(1, 0)), "scale": table[:, 1]}
            results.append(combine([x], table[:, :1], groups=groups, **key))
    torch.set_num_threads(before)
    assert torch.equal(*results)


@pytest.mark.parametrize("variant", FAST)
def test_prepare_and_status(variant):
    x, v, out = torch.ones(2, 3, 2), torch.full((2, 3, 2), 2.0), torch.empty(2, 3, 2)
    table = torch.tensor([[1.0, 0.5], [0.0, 1.0]], dtype=torch.float64)
    groups = torch.tensor([[[0], [1], [0]]])
    with using(variant):
        step = prepare([x, None], table, out, groups=groups)
        assert step(v) == 0
        assert out[1, :, 0].tolist() == [2.0, 2.0, 2.0]
        v[1, 1, 1] = torch.inf
        assert step(v) == 1
        status = torch.zeros(1, dtype=torch.int32)
        combine([x, v], table, groups=groups, status=status)
        assert status.item() == 1


@pytest.mark.parametrize("name", ["reference", *["native"] * any("native" in name for name in VARIANTS)])
def test_gradients_of_both_orders(name):
    inputs = [torch.randn(2, 3, 2, dtype=torch.float64, requires_grad=True) for _ in range(5)]
    table, groups = torch.randn(4, 2, 5, dtype=torch.float64), torch.tensor([[[0], [3], [3]], [[1], [2], [0]]])

    def function(*tensors):
        return combine(tensors, table, groups=groups, noise=Noise(0, Draw(1, 2)), scale=[0.5, 1.0])

    with backend(name):
        assert torch.autograd.gradcheck(function, inputs)
        assert torch.autograd.gradgradcheck(function, inputs)
        (gradient,) = torch.autograd.grad(function(*inputs)[1].sum(), inputs[2])
    torch.testing.assert_close(gradient, table[:, 1, 2][groups].expand(2, 3, 2))


def test_gradients_where_only_the_noise_has_groups():
    x, table = torch.randn(2, 3, requires_grad=True), torch.randn(3, dtype=torch.float64)
    noisy = combine([x], [2.0], noise=Noise(0, Draw(1, 2)), scale=table, groups=torch.tensor([[0, 1, 2]]))
    (gradient,) = torch.autograd.grad(noisy.sum(), x)
    assert (gradient == 2).all()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiles_without_a_graph_break():
    table, groups = torch.randn(3, 2, dtype=torch.float64), torch.tensor([[0, 2, 1]])

    def step(x, v):
        return combine([x, v], table, groups=groups, noise=Noise(3, Draw(1, 2)), scale=0.5) + 1

    x, v = torch.randn(2, 3, requires_grad=True), torch.randn(2, 3)
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, v), step(x, v))
    (expected,) = torch.autograd.grad(step(x, v).sum(), x)
    (gradient,) = torch.autograd.grad(compiled(x, v).sum(), x)
    torch.testing.assert_close(gradient, expected)


x = torch.zeros(2, 3)
table = torch.ones(4, 1, dtype=torch.float64)
key = Noise(0, Draw(1, 0))


@pytest.mark.parametrize(
    ("error", "argument", "call"),
    [
        (DtypeError, "groups: got torch.int32", lambda: combine([x], table, groups=torch.zeros(2, 1).int())),
        (DeviceError, "groups: got meta", lambda: combine([x], table, groups=torch.zeros(2, 1).long().to("meta"))),
        (ShapeError, r"groups: got \[2\]", lambda: combine([x], table, groups=torch.zeros(2).long())),
        (ShapeError, r"groups: got \[3, 1\]", lambda: combine([x], table, groups=torch.zeros(3, 1).long())),
        (ArgumentError, "groups: got 0 to 4", lambda: combine([x], table, groups=torch.tensor([[4], [0]]))),
        (ArgumentError, "groups: got -1 to 0", lambda: combine([x], table, groups=torch.tensor([[-1], [0]]))),
        (ArgumentError, "groups: got a tensor", lambda: combine([x], [1.0], groups=torch.zeros(2, 1).long())),
        (ArgumentError, "groups: got 0 to 9", lambda: prepare([x], table, x.clone(), groups=torch.tensor([[0], [9]]))),
        (DeviceError, "weights: got meta", lambda: combine([x], torch.ones(2, 1, device="meta").double())),
        (
            ShapeError,
            "scale: got",
            lambda: combine([x], table, noise=key, scale=table[:3, 0], groups=torch.zeros(2, 1).long()),
        ),
    ],
)
def test_named_error(error, argument, call):
    with pytest.raises(error, match=argument):
        call()


def test_the_operator_checks_the_range_again():
    call = torch.ops.pushforward.combine.default
    with pytest.raises(ArgumentError, match="groups"):
        call([x], 1, [], table[:, :, None], [], [], [], None, None, torch.full((2, 1), 4))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["cuda", "triton"])
@pytest.mark.parametrize("on_device", [False, True])
def test_on_a_device(name, on_device):
    generator = torch.Generator().manual_seed(0)
    for shape, of_groups in SHAPES[1:]:
        inputs = tensors(3, shape, torch.float32, False, generator)
        groups = torch.randint(9, of_groups, generator=generator)
        weights = torch.randn(9, 2, 3, generator=generator, dtype=torch.float64)
        noise = {"noise": Noise(1, Draw(1, 0)), "scale": [0.5, 1.0]}
        expected = combine(inputs, weights, groups=groups, **noise)
        with backend(name):
            moved = weights.cuda() if on_device else weights
            results = combine([v.cuda() for v in inputs], moved, groups=groups.cuda(), **noise)
        assert all(torch.equal(a.cpu(), b) for a, b in zip(results, expected, strict=True))
