"""`gram`: inner products and sums of a few tensors, sample by sample, in one read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import ArgumentError, ShapeError
from . import arguments, catalogue, operators
from .dispatch import device_type, implementation, implements, native_module
from .native import CODES
from .ordered_sum import ordered_sum

MAX_TENSORS = 20  # a state, a target and the outputs of eighteen steps


class Gram(NamedTuple):
    """What `gram` returns.

    Args:
        products: Inner products of each sample's R tensors, float64, [B, R, R], symmetric.
        sums: The sum of each sample's elements, float64, [B, R].
    """

    products: Tensor
    sums: Tensor


def gram(tensors: Sequence[Tensor]) -> Gram:
    r"""Gram matrices of up to 20 tensors, and their sums: each tensor is read once for all of them.

    .. math:: G_{bij} = \sum_d x^i_{bd} x^j_{bd}, \quad S_{bi} = \sum_d x^i_{bd}

    Norms, angles, projections, means and standard deviations of a sample follow from these few numbers, and so
    everything that guidance rescaling, CFG-Zero*, APG and tangential guidance need. Elements are widened to float64
    before they are multiplied (which is then exact but for float64), and added in the order of `ordered_sum`: the
    result of a sample does not depend on the batch, strides, threads or backend, and is not finite only if that sample
    has an element that is not (or, in float64, is too large).

    Args:
        tensors: 1 to 20 tensors [B, *D] of one shape, device and dtype: float32, float64, bfloat16 or float16.
            Tensors that are not contiguous are copied first.

    Returns:
        Products and sums, see `Gram`; differentiable in the tensors.

    Raises:
        ShapeError, DtypeError, DeviceError: Tensors that differ; says which and how.
        ArgumentError: None or more than 20.

    Example:
        >>> x, y = torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0, 2.0]])
        >>> products, sums = gram([x, y])
        >>> products
        tensor([[[25., 11.],
                 [11.,  5.]]], dtype=torch.float64)
        >>> sums
        tensor([[7., 3.]], dtype=torch.float64)
    """
    tensors = tuple(tensors)
    if not 1 <= len(tensors) <= MAX_TENSORS:
        raise ArgumentError("tensors", got=f"{len(tensors)} of them", expected=f"1 to {MAX_TENSORS}")
    like = tensors[0]
    arguments.check_dtype("tensors[0]", like)
    if like.ndim == 0:
        raise ShapeError("tensors[0]", got="a tensor without dimensions", expected="[B, *D]: one matrix a sample")
    arguments.check_same("tensors", tensors, like, "tensors[0]")
    return Gram(*(_operator if operators.needs_operator(*tensors) else _run)(tensors))


def _run(tensors):
    outs = _fake(tensors)
    implementation("gram", device_type(tensors[0]))(tensors, *outs)
    return outs


def _fake(tensors):
    like, count = tensors[0], len(tensors)
    shapes = [(like.shape[0], count, count), (like.shape[0], count)]
    return tuple([torch.empty(shape, dtype=torch.float64, device=like.device) for shape in shapes])


@implements("gram", "reference")
def _reference(tensors, products, sums) -> None:
    rows = [x[..., None].flatten(1).to(torch.float64) for x in tensors]
    for i, x in enumerate(rows):
        sums[:, i] = ordered_sum(x)
        for j, y in enumerate(rows[i:], start=i):
            products[:, i, j] = products[:, j, i] = ordered_sum(x * y)


@implements("gram", "native")
def _native(tensors, products, sums) -> None:
    tensors = [x.contiguous() for x in tensors]
    batch = tensors[0].shape[0]
    native_module.gram(
        CODES[tensors[0].dtype],
        batch,
        tensors[0].numel() // batch if batch else 0,
        [x.data_ptr() for x in tensors],
        products.data_ptr(),
        sums.data_ptr(),
    )


def _setup(ctx, inputs, output):
    ctx.save_for_backward(*inputs[0])


def _backward(ctx, of_products, of_sums):
    """Torch operations, so that they can be differentiated again."""
    tensors = ctx.saved_tensors
    column = [1] * (tensors[0].ndim - 1)
    both = of_products + of_products.mT
    result = []
    for i, x in enumerate(tensors):
        total = of_sums[:, i].reshape(-1, *column).expand_as(x)
        for j, y in enumerate(tensors):
            total = total + both[:, i, j].reshape(-1, *column) * y.to(torch.float64)
        result.append(total.to(x.dtype))
    return (result,)


_operator = operators.operator(
    "gram(Tensor[] tensors) -> (Tensor, Tensor)", _run, _fake, setup=_setup, backward=_backward
)

catalogue.describe(
    "gram",
    formula="G_ij = sum_d x_i x_j and S_i = sum_d x_i, a sample, R <= 20 tensors",
    moved="R s B D",
    differentiable="the tensors",
    benchmark="runge_kutta.py",
    rows=("gram R=2 16x16384 float32", "gram R=4 64x16384 float32"),
)
