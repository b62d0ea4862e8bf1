"""`normal` and `uniform`: the random numbers of a key as a tensor, the same on every backend."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import DtypeError, ShapeError
from . import arguments, catalogue, operators, reference
from .dispatch import device_type, implementation, short_way
from .noise import MAX_ELEMENTS, Draw, Noise, pack_noise, unpack_noise

_is_compiling = torch.compiler.is_compiling
_modes = torch._C._len_torch_dispatch_stack
_transforms = torch._C._are_functorch_transforms_active
_EAGER = {"normal": "normal_eager", "uniform": "uniform_eager"}


def normal(
    shape: Sequence[int],
    *,
    seed: int,
    draw: Draw,
    samples: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Standard normals of shape [B, *D], the ones that `combine` adds for the same key.

    Args:
        shape: [B, *D]; at most 2**34 elements a sample.
        seed: Integer in [0, 2**64).
        draw: Which draw; see `Draw`.
        samples: Sample ids, int64 [B]; row ``b`` gets the numbers of ``samples[b]``. Default 0, ..., B - 1.
        dtype: float32, float64 (the same numbers), bfloat16 or float16 (rounded).
        device: Where to make them. The numbers do not depend on it.

    Raises:
        ArgumentError, ShapeError, DtypeError: As `Noise` and `combine` do.

    Source:
        Box and Muller 1958, A note on the generation of random normal deviates.

    Example:
        >>> draw = Draw(purpose=0, step=0)
        >>> batch = normal((3, 2), seed=1, draw=draw)
        >>> torch.equal(normal((1, 2), seed=1, draw=draw, samples=torch.tensor([2])), batch[2:])
        True
    """
    return _fill("normal", shape, seed, draw, samples, dtype, device)


def uniform(
    shape: Sequence[int],
    *,
    seed: int,
    draw: Draw,
    samples: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Uniform numbers in the open interval (0, 1), of shape [B, *D].

    Midpoints of 2**23 cells (float32, a word of Philox each) or 2**52 cells (float64, two words each), without
    rounding: 0 and 1 never come out, and ``log(u)`` and ``log1p(-u)`` are finite.

    Args:
        shape: [B, *D]; at most 2**34 elements a sample, 2**33 in float64.
        seed: Integer in [0, 2**64).
        draw: Which draw; see `Draw`. A draw is for one use: `normal` of the same key is made of the same words.
        samples: Sample ids, int64 [B]; row ``b`` gets the numbers of ``samples[b]``. Default 0, ..., B - 1.
        dtype: float32 or float64; 16 bits would round to 0 and 1.
        device: Where to make them. The numbers do not depend on it.

    Raises:
        DtypeError: Another dtype.
        ArgumentError, ShapeError: As `Noise` and `combine` do.

    Example:
        >>> draw = Draw(purpose=5, step=0)
        >>> batch = uniform((3, 2), seed=1, draw=draw)
        >>> bool(((0 < batch) & (batch < 1)).all())
        True
        >>> torch.equal(uniform((1, 2), seed=1, draw=draw, samples=torch.tensor([2])), batch[2:])
        True
    """
    return _fill("uniform", shape, seed, draw, samples, dtype, device)


def _fill(op, shape, seed, draw, samples, dtype, device) -> Tensor:
    tracing = _is_compiling() or _modes() > 0  # operators.tracing(), of which a call is a twentieth of a small tensor
    if not tracing and (short := short_way(_EAGER[op])):
        result = short(shape, seed, draw, samples, dtype, device)
        if result is not None:
            return result
    shape, noise, device = tuple(shape), Noise(seed, draw, samples), torch.device(device)
    _check(op, shape, noise, dtype)
    if tracing:
        return _operators[op](list(shape), pack_noise(noise), samples, dtype, device)
    out = torch.empty(shape, dtype=dtype, device=device)
    if _transforms():  # within vmap, jvp ...: tensors have no addresses
        getattr(reference, op)(out, noise)
    else:
        implementation(op, device_type(out))(out, noise)
    return out


def _check(op, shape, noise, dtype) -> None:
    if op == "normal" and dtype not in arguments.DTYPES:
        raise DtypeError("dtype", got=dtype, expected="float32, float64, bfloat16 or float16")
    if op == "uniform" and dtype not in (torch.float32, torch.float64):
        raise DtypeError("dtype", got=dtype, expected="float32 or float64: fewer bits would round to 0 or 1")
    if len(shape) == 0:
        raise ShapeError("shape", got="no dimensions", expected="[B, *D]: random numbers belong to samples")
    words = 2 if op == "uniform" and dtype == torch.float64 else 1
    elements = 1
    for size in shape[1:]:
        elements *= size
    if elements * words > MAX_ELEMENTS:
        expected = f"at most 2**{34 - (words == 2)} elements a sample: the counter ends there"
        raise ShapeError("shape", got=list(shape), expected=expected)
    if noise.samples is not None and noise.samples.shape[0] != shape[0]:
        raise ShapeError("samples", got=list(noise.samples.shape), expected=f"[{shape[0]}], one id for each row")


def _operator(op: str):
    def run(shape, draw, samples, dtype, device):
        out = torch.empty(shape, dtype=dtype, device=device)
        implementation(op, device_type(out))(out, unpack_noise(draw, samples))
        return out

    def fake(shape, draw, samples, dtype, device):
        return torch.empty(shape, dtype=dtype, device=device)

    schema = f"{op}(SymInt[] shape, int[] draw, Tensor? samples, ScalarType dtype, Device device) -> Tensor"
    return operators.operator(schema, run, fake)


_operators = {op: _operator(op) for op in ("normal", "uniform")}

catalogue.describe(
    "normal",
    formula="z[b, e] = Box-Muller of Philox words (seed, samples[b], draw, e)",
    moved="n s written, n elements",
    benchmark="combine.py",
    rows=("normal 2^24",),
)
catalogue.describe(
    "uniform",
    formula="u[b, e] = (Philox word (seed, samples[b], draw, e) + 1/2) / 2^23 cells (2^52 in float64)",
    moved="n s written, n elements",
    benchmark="combine.py",
    rows=("uniform 2^24",),
)
