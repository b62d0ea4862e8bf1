"""What the digit networks accept, checked in one place."""

import torch
from torch import Tensor

from ...errors import ArgumentError, DtypeError, ShapeError


def check_digits(x: Tensor, t: Tensor, label: Tensor, weight: Tensor, classes: int, tokens: int = 0) -> None:
    """Refuse what a digit network of these weights cannot take, in words.

    Args:
        x: States, [B, 1, 28, 28], in the dtype of the weights.
        t: Times, [B], any floating dtype; [B, tokens] too if the network takes a time for each token.
        label: Classes, [B], int64, 0..classes. The values are checked for CPU tensors only: on a device that would
            cost a host read at every call.
        weight: One of the network's.
        classes: The largest label.
        tokens: How many tokens may have times of their own; 0: none.

    Raises:
        ShapeError: x is not [B, 1, 28, 28], t not [B] (or [B, tokens]), or label not [B].
        DtypeError: x differs from the weights in dtype, t is not floating, or label is not int64.
        ArgumentError: A label on the CPU is outside 0..classes.
    """
    if x.ndim != 4 or tuple(x.shape[1:]) != (1, 28, 28):
        hint = "Try x[:, None]." if tuple(x.shape[-2:]) == (28, 28) and x.ndim == 3 else "Images lie in [-1, 1]."
        raise ShapeError("x", got=describe(x), expected="[B, 1, 28, 28]", hint=hint)
    rows = x.shape[0]
    for name, value in (("t", t), ("label", label)):
        if tuple(value.shape) != (rows,) and not (name == "t" and tokens and tuple(value.shape) == (rows, tokens)):
            expected = f"[{rows}], one value a sample"
            expected += f", or [{rows}, {tokens}], one a token" if name == "t" and tokens else ""
            raise ShapeError(name, got=describe(value), expected=expected)
    if x.dtype != weight.dtype and not torch.is_autocast_enabled(x.device.type):
        raise DtypeError("x", got=str(x.dtype), expected=f"{weight.dtype}, the dtype of the weights")
    if not t.is_floating_point():
        raise DtypeError("t", got=str(t.dtype), expected="a floating dtype, 0 = noise and 1 = data")
    if label.dtype != torch.int64:
        raise DtypeError("label", got=str(label.dtype), expected="torch.int64")
    if label.device.type == "cpu" and label.numel() and not torch.compiler.is_compiling():
        low, high = (int(v) for v in label.aminmax())
        if low < 0 or high > classes:
            got = low if low < 0 else high
            raise ArgumentError("label", got=got, expected=f"0..{classes} ({classes} = unconditional)")


def describe(x: Tensor) -> str:
    """Dtype and shape, for messages."""
    return f"{str(x.dtype).removeprefix('torch.')} {list(x.shape)}"
