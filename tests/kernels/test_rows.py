"""Rows by index: every backend moves the same bytes, in place too, whatever the graph of ancestors looks like."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_variants import using, variants

from pushforward import errors
from pushforward.kernels import gather_rows, gather_tokens, keep_in_place, scatter_tokens

# The native functions are compiled once: instruction sets make no difference.
VARIANTS = ["reference", *[name for name in variants("gather_rows") if name in ("native generic", "triton")]]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool]


def numbers(shape, dtype, seed, offset=0):
    """Different from row to row; ``offset`` elements into their memory."""
    generator = torch.Generator().manual_seed(seed)
    size = torch.Size(shape).numel() + offset
    values = torch.randint(0, 2 if dtype == torch.bool else 251, (size,), generator=generator)
    return values.to(dtype)[offset:].reshape(shape)


def indices(batch, count, below, seed):
    return torch.randint(max(below, 1), (batch, count if below else 0), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("variant", VARIANTS)
@given(
    batch=st.integers(0, 3),
    rows=st.integers(1, 9),
    count=st.integers(0, 12),
    row=st.sampled_from([(), (0,), (1,), (3,), (2, 5), (16,), (1031,)]),
    dtype=st.sampled_from(DTYPES),
    offset=st.integers(0, 3),
    transposed=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=40)
def test_gather_and_scatter(variant, batch, rows, count, row, dtype, offset, transposed, seed):
    x = numbers((batch, rows, *row), dtype, seed, offset)
    if transposed:
        x = x.transpose(0, 1).contiguous().transpose(0, 1)
    index, values = indices(batch, count, rows, seed), numbers((batch, count, *row), dtype, seed + 1)
    expected, scattered = torch.empty_like(values), x.clone()
    for b, j in itertools.product(range(batch), range(count)):
        expected[b, j] = x[b, index[b, j]]
        scattered[b, index[b, j]] = values[b, j]
    with using(variant):
        assert torch.equal(gather_rows(x, index), expected)
        assert torch.equal(gather_tokens(x, index), expected)
        before = x.clone()
        assert torch.equal(scatter_tokens(x, index, values), scattered)
        assert torch.equal(x, before)
        other = torch.empty_like(x)
        assert scatter_tokens(x, index, values, out=other) is other
        assert torch.equal(other, scattered)
        assert scatter_tokens(x, index, values, out=x) is x
    assert torch.equal(x, scattered)


@pytest.mark.parametrize("variant", VARIANTS)
@given(
    ancestors=st.integers(1, 12).flatmap(lambda n: st.lists(st.integers(0, n - 1), min_size=n, max_size=n)),
    row=st.sampled_from([(), (1,), (3,), (4, 4)]),
)
@settings(max_examples=60)
def test_in_place_for_any_ancestors(variant, ancestors, row):
    index = torch.tensor(ancestors)
    x, y = numbers((len(index), *row), torch.float32, 1), numbers((len(index), 2), torch.int64, 2)
    expected = x[index], y[index]
    with using(variant):
        moved = gather_rows([x, y], index, in_place=True)
    assert moved[0] is x
    assert moved[1] is y
    assert torch.equal(x, expected[0])
    assert torch.equal(y, expected[1])


@pytest.mark.parametrize("variant", ["native generic"] if "native generic" in VARIANTS else [])
def test_every_map_of_five_slots_in_place(variant):
    """All 3125 functional graphs: chains, trees, cycles, fixed points, and trees that hang on cycles."""
    index = torch.tensor(list(itertools.product(range(5), repeat=5)))
    x = torch.arange(5).repeat(len(index), 1)
    with using(variant):
        gather_rows(x, index, in_place=True)
    assert torch.equal(x, index)


@pytest.mark.parametrize("variant", ["native generic"] if "native generic" in VARIANTS else [])
@pytest.mark.parametrize("shape", [(1, 40, 70_001), (7, 40, 9_001), (1, 200_000, 3)])
def test_large_rows_and_threads(variant, shape):
    x, index = numbers(shape, torch.float32, 3), indices(*shape[:2], shape[1], 4)
    expected = torch.stack([x[b, index[b]] for b in range(shape[0])])
    threads = torch.get_num_threads()
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            with using(variant):
                assert torch.equal(gather_rows(x, index), expected)
                assert torch.equal(gather_rows(x.clone(), index, in_place=True), expected)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("variant", VARIANTS)
def test_survivors_of_many_populations_are_the_same_on_every_backend(variant):
    for shape in ((0, 5), (3, 0), (1, 1), (5, 1), (40, 33), (2, 100_003)):
        ancestors = indices(*shape, shape[1], 5)
        with using(variant):
            kept = keep_in_place(ancestors)
            assert torch.equal(keep_in_place(ancestors.t().contiguous().t()), kept)
        with using("reference"):
            assert torch.equal(kept, keep_in_place(ancestors))
            assert torch.equal(keep_in_place(ancestors[0]) if shape[0] else kept, kept[0] if shape[0] else kept)


@pytest.mark.parametrize("variant", VARIANTS)
@given(ancestors=st.integers(1, 12).flatmap(lambda n: st.lists(st.integers(0, n - 1), min_size=n, max_size=n)))
def test_survivors_keep_their_slots(variant, ancestors):
    with using(variant):
        check_survivors(ancestors)


def check_survivors(ancestors):
    given_ones = torch.tensor(ancestors)
    kept = keep_in_place(given_ones)
    assert torch.equal(kept.sort().values, given_ones.sort().values)
    survivors = torch.unique(given_ones)
    assert torch.equal(kept[survivors], survivors)
    moved = kept[kept != torch.arange(len(kept))]
    assert len(moved) == len(kept) - len(survivors), "only surplus children move"
    assert torch.equal(moved, moved.sort().values)
    assert torch.equal(keep_in_place(given_ones.flip(0)), kept)
    assert torch.equal(keep_in_place(torch.stack([given_ones, kept])), torch.stack([kept, kept]))


def test_last_of_equal_indices_counts():
    base, index = torch.zeros(1, 3), torch.tensor([[1, 1, 1, 0]])
    for variant in VARIANTS:
        with using(variant):
            assert scatter_tokens(base, index, torch.tensor([[1.0, 2, 3, 4]])).tolist() == [[4, 3, 0]]


@pytest.mark.parametrize("variant", VARIANTS)
def test_operators(variant):
    x, index = torch.randn(2, 4, 3, requires_grad=True), torch.tensor([[1, 1, 3], [0, 2, 0]])
    values = torch.randn(2, 3, 3, requires_grad=True)
    with using(variant):
        torch.library.opcheck(torch.ops.pushforward.gather_rows.default, (x, index))
        torch.library.opcheck(torch.ops.pushforward.scatter_tokens.default, (x, index, values))
        x, values = x.detach().double().requires_grad_(), values.detach().double().requires_grad_()
        for function, inputs in (
            (lambda x: gather_rows(x, index), (x,)),
            (lambda x, v: scatter_tokens(x, index, v), (x, values)),
        ):
            assert torch.autograd.gradcheck(function, inputs)
            assert torch.autograd.gradgradcheck(function, inputs)


def test_compiles_without_a_graph_break():
    def function(x, index):
        kept = keep_in_place(index)
        state = gather_rows(x.clone(), kept, in_place=True)
        few = gather_tokens(state, index[:, :2])
        return scatter_tokens(state, index[:, :2], 2 * few) + 1

    x, index = torch.randn(2, 4, 3), torch.tensor([[1, 1, 3, 3], [0, 2, 0, 1]])
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x, index), function(x, index))


def test_wrong_arguments():
    x, index = torch.zeros(2, 4, 3), torch.zeros(2, 5, dtype=torch.int64)
    with pytest.raises(errors.ArgumentError, match=r"ancestors: got 4, expected numbers in \[0, 4\)"):
        gather_rows(x, index + 4)
    with pytest.raises(errors.ArgumentError, match="index: got -1"):
        gather_tokens(x, index - 1)
    with pytest.raises(errors.DtypeError, match="ancestors"):
        gather_rows(x, index.int())
    with pytest.raises(errors.ShapeError, match=r"tensors\[1\]"):
        gather_rows([x, x[:1]], index)
    with pytest.raises(errors.ShapeError, match="5 ancestors"):
        gather_rows(x, index, in_place=True)
    with pytest.raises(errors.ArgumentError, match="in_place"):
        gather_rows(x.requires_grad_(), index[:, :4], in_place=True)
    x = x.detach()
    with pytest.raises(errors.ShapeError, match="values"):
        scatter_tokens(x, index, x)
    with pytest.raises(errors.DtypeError, match="values"):
        scatter_tokens(x, index, torch.zeros(2, 5, 3).double())
    with pytest.raises(errors.ShapeError, match="out"):
        scatter_tokens(x, index, torch.zeros(2, 5, 3), out=x[:1])
    with pytest.raises(errors.ShapeError, match="ancestors"):
        keep_in_place(torch.zeros(1, 1, 1, dtype=torch.int64))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu_backends_move_the_same_bytes():
    x, index = numbers((3, 50, 1000), torch.bfloat16, 5), indices(3, 50, 50, 6)
    values = numbers((3, 50, 1000), torch.bfloat16, 7)
    expected = gather_rows(x, index)
    assert torch.equal(gather_rows(x.cuda(), index.cuda()).cpu(), expected)
    assert torch.equal(gather_rows(x.cuda(), index.cuda(), in_place=True).cpu(), expected)
    scattered = scatter_tokens(x.cuda(), index.cuda(), values.cuda())
    assert torch.equal(scattered.cpu(), scatter_tokens(x, index, values))
