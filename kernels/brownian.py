"""`brownian`: increments and space-time areas of a Brownian path between any times, from a key instead of memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import ArgumentError, DeviceError, DtypeError, ShapeError
from . import catalogue, operators, philox
from .brownian_walk import ROOT, Cut, Step, walk
from .dispatch import device_type, implementation, implements, native_module
from .native import CODES, key_numbers
from .noise import MAX_ELEMENTS, PURPOSE_BROWNIAN, Draw, Noise, pack_noise, unpack_noise

MAX_LEVELS = 30  #: nodes of the tree are numbered by 32 bits


class BrownianIncrements(NamedTuple):
    """What `brownian` returns.

    Args:
        w: Increments, [T - 1, B, *D].
        h: Space-time areas of the same intervals, or None.
    """

    w: Tensor
    h: Tensor | None


def brownian(
    shape: Sequence[int],
    times: Tensor,
    *,
    seed: int,
    samples: Tensor | None = None,
    span: float = 1.0,
    levels: int = 20,
    area: bool = True,
    stream: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> BrownianIncrements:
    r"""Increments of Brownian paths on [0, span] between consecutive times, one path for each element of each sample.

    .. math:: W_{s,t} = W_t - W_s, \qquad
        H_{s,t} = \frac1{t-s} \int_s^t \Big( W_{s,r} - \frac{r-s}{t-s} W_{s,t} \Big) dr

    W is normal of variance t - s and H normal of variance (t - s) / 12, independent of W and of all that belongs to
    other intervals. Nothing is stored: a path is defined by halving the interval ``levels`` times, with the law of both
    halves given the whole and normals keyed by (seed, sample, node, element), and by one more cut within the last
    interval, at the time itself. So what comes out for two times does not depend on other times, samples or calls.

    Increments are whole multiples of a quantum of about ``2**-46 sqrt(span)`` and their sums are formed exactly: in
    float64, :math:`W_{s,t} + W_{t,u}` is :math:`W_{s,u}` to the last bit. float32 rounds each of them once. All
    backends return the same bits.

    Two times within one of the ``2**levels`` smallest intervals are joined by a smooth curve, not by a Brownian path:
    choose levels so that all steps are longer. The path itself changes where ``span`` or ``area`` do, and in details
    shorter than a smallest interval where ``levels`` does.

    Args:
        shape: [B, *D]; at most 2**34 elements a sample.
        times: Fractions of the span in [0, 1], float64 on the CPU, not decreasing: [T], or [T, B] where samples have
            times of their own; T is at least 2.
        seed: Integer in [0, 2**64).
        samples: Sample ids, int64 [B]; row ``b`` gets the path of ``samples[b]``. Default 0, ..., B - 1.
        span: Length of the interval.
        levels: Depth of the tree, 0 to 30. A call costs so many nodes an element for its first time, and fewer for
            each of the others, the closer they are.
        area: Whether H is asked for. Without it, a path of another law for its halves, from half as many normals.
        stream: Another number is an independent path of the same seed and sample, in [0, 2**32).
        dtype: float32 or float64.
        device: Where to make them. The numbers do not depend on it.

    Raises:
        ArgumentError, ShapeError, DtypeError, DeviceError: An argument outside these ranges.

    Source:
        Foster, Lyons & Oberhauser 2020, SIAM J. Numer. Anal. 58(3); Jelincic, Foster & Kidger 2024, arXiv:2405.06464.

    Example:
        >>> times = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)
        >>> w, h = brownian((2, 4), times, seed=7, dtype=torch.float64)
        >>> whole, _ = brownian((2, 4), times[::2], seed=7, dtype=torch.float64)
        >>> torch.equal(w[0] + w[1], whole[0])
        True
    """
    shape, noise, device = (
        tuple(shape),
        Noise(seed, Draw(PURPOSE_BROWNIAN, 0, 0, stream), samples),
        torch.device(device),
    )
    _check(shape, times, noise, span, levels, dtype)
    tree = (float(span), int(levels), bool(area))
    if operators.tracing():
        w, h = _operator(list(shape), times, pack_noise(noise), samples, *tree, dtype, device)
    else:
        w, h = _run(shape, times, noise, *tree, dtype, device)
    return BrownianIncrements(w, h if area else None)


def _check(shape, times, noise: Noise, span, levels, dtype) -> None:
    if dtype not in (torch.float32, torch.float64):
        raise DtypeError("dtype", got=dtype, expected="float32 or float64")
    if len(shape) == 0:
        raise ShapeError("shape", got="no dimensions", expected="[B, *D]: paths belong to samples")
    if math.prod(shape[1:]) > MAX_ELEMENTS:
        raise ShapeError("shape", got=list(shape), expected="at most 2**34 elements a sample: the counter ends there")
    if noise.samples is not None and noise.samples.shape[0] != shape[0]:
        raise ShapeError("samples", got=list(noise.samples.shape), expected=f"[{shape[0]}], one id for each row")
    if not (isinstance(span, float | int) and 0 < span < math.inf):
        raise ArgumentError("span", got=span, expected="a finite number above 0")
    if not (isinstance(levels, int) and 0 <= levels <= MAX_LEVELS):
        raise ArgumentError("levels", got=levels, expected=f"an integer of 0 to {MAX_LEVELS}")
    if times.dtype != torch.float64:
        raise DtypeError("times", got=times.dtype, expected="torch.float64")
    if times.device.type not in ("cpu", "meta"):
        raise DeviceError("times", got=times.device, expected="cpu: the walk through the tree is planned there")
    if times.ndim not in (1, 2) or times.shape[0] < 2 or (times.ndim == 2 and times.shape[1] != shape[0]):
        expected = f"[T] or [T, {shape[0]}], a column for each sample, with T at least 2"
        raise ShapeError("times", got=list(times.shape), expected=expected)


def _run(shape, times, noise: Noise, span, levels, area, dtype, device) -> tuple[Tensor, Tensor]:
    times = times.detach()
    numbers = times.contiguous().numpy()
    if numbers.size and not (numbers.min() >= 0 and numbers.max() <= 1 and (numbers[1:] >= numbers[:-1]).all()):
        raise ArgumentError("times", got=times.tolist(), expected="numbers in [0, 1] that do not decrease")
    w, h = _fake(shape, times, None, None, span, levels, area, dtype, device)
    implementation("brownian", device_type(w))(w, h, times, noise, span, levels)
    return w, h


def _fake(shape, times, draw, samples, span, levels, area, dtype, device) -> tuple[Tensor, Tensor]:
    results = [times.shape[0] - 1, *shape]
    w = torch.empty(results, dtype=dtype, device=device)
    return w, torch.empty(results if area else [0], dtype=dtype, device=device)


def _has_area(w: Tensor, h: Tensor) -> bool:
    return h.shape == w.shape


def quantum(span: float) -> float:
    """What all increments are multiples of: 2^-46 of the power of two above the root of the span."""
    return 2.0 ** (math.frexp(math.sqrt(span))[1] - 46)


@implements("brownian", "native")
def _native(w: Tensor, h: Tensor, times: Tensor, noise: Noise, span: float, levels: int) -> None:
    keep: list[Tensor | None] = []
    times = times.contiguous()
    native_module.brownian(
        CODES[w.dtype],
        w.data_ptr(),
        h.data_ptr() if _has_area(w, h) else 0,
        w.shape[1],
        w.shape[2:].numel(),
        times.data_ptr(),
        times.shape[0],
        times.ndim == 1,
        span,
        1.5 * 2.0**52 * quantum(span),
        levels,
        key_numbers(noise, "cpu", keep),
    )


@implements("brownian", "reference")
def _reference(w: Tensor, h: Tensor, times: Tensor, noise: Noise, span: float, levels: int) -> None:
    rows, area = w.shape[1], _has_area(w, h)
    ids = torch.arange(rows) if noise.samples is None else noise.samples
    columns = times[:, None].expand(-1, rows) if times.ndim == 1 else times
    together: dict[tuple[float, ...], list[int]] = {}
    for row, column in enumerate(columns.T.tolist()):
        together.setdefault(tuple(column), []).append(row)
    for column, members in together.items():
        index = torch.tensor(members, device=w.device)
        tree = _Tree(w.shape[2:].numel(), noise, ids.to(w.device)[index], span, area)
        increments = tree.run(walk(column, levels=levels, span=span, area=area))
        shape = (len(column) - 1, len(members), *w.shape[2:])
        for out, of_all in zip((w, h) if area else (w,), zip(*increments, strict=True), strict=False):
            out[:, index] = torch.stack(of_all).reshape(shape).to(out.dtype)


class _Tree:
    """Runs walks on tensors [rows, elements], float64."""

    def __init__(self, elements: int, noise: Noise, samples: Tensor, span: float, area: bool) -> None:
        self.elements, self.noise, self.samples, self.span, self.area = elements, noise, samples, span, area
        self.shift = 1.5 * 2.0**52 * quantum(span)

    def normals(self, node: int, stage: int) -> Tensor:
        draw = Draw(self.noise.draw.purpose, node, stage, self.noise.draw.attempt)
        z = philox.normals(self.elements, seed=self.noise.seed, draw=draw, samples=self.samples)
        return z.to(torch.float64)

    def to_quanta(self, x: Tensor) -> Tensor:
        """Adding and subtracting 1.5 2^52 quanta rounds to a multiple of one."""
        return (x + self.shift) - self.shift

    def left(self, cut: Cut, w: Tensor, h: Tensor, z: Tensor) -> Tensor:
        from_both = w * cut.theta + h * cut.bend if self.area else w * cut.theta
        return self.to_quanta(from_both + z * cut.spread)

    def run(self, steps: list[Step]) -> list[tuple[Tensor, Tensor]]:
        w = self.to_quanta(self.normals(ROOT, 0) * math.sqrt(self.span))
        h = self.normals(ROOT, 1) * math.sqrt(self.span / 12) if self.area else torch.zeros_like(w)
        zero = torch.zeros_like(w)
        stack, running, before, results = [(w, h)], (zero, zero), (zero, zero), []
        for step in steps:
            if step.walk == "emit":
                results.append(running)
                running = zero, zero
            elif step.walk == "drop":
                stack.pop()
            elif step.walk == "take":
                running = self.joined(step, running, stack.pop())
            else:
                w, h = stack[-1]
                z, n = self.normals(step.node, 0), self.normals(step.node, 1) if self.area else zero
                cut = step.cut
                assert cut is not None
                left = self.left(cut, w, h, z), h * cut.square_left - z * cut.share_left + n * cut.twist_left
                if step.walk == "cut":
                    stack[-1] = w - left[0], h * cut.square_right - z * cut.share_right - n * cut.twist_right
                    stack.append(left)
                    continue
                part = left if step.before == 0 else self.rest(step.before, before, left)
                before = left
                if not step.dropped:
                    running = self.joined(step, running, part)
        return results

    def joined(self, step: Step, running: tuple[Tensor, Tensor], piece: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Two pieces that follow each other: ``H = f H_1 + r H_2 + (r W_1 - f W_2) / 2``, with their shares f, r."""
        if step.first == 0:
            return piece
        (w1, h1), (w2, h2) = running, piece
        area = (h1 * step.first + h2 * step.rest) + (w1 * step.rest - w2 * step.first) * 0.5
        return w1 + w2, area

    def rest(self, share: float, first: tuple[Tensor, Tensor], both: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """The second of two pieces, of which the first has this share of the length."""
        (w1, h1), (w, h), other = first, both, 1 - share
        w2 = w - w1
        return w2, ((h - h1 * share) - (w1 * other - w2 * share) * 0.5) / other


def _operator_run(shape, times, draw, samples, span, levels, area, dtype, device):
    return _run(tuple(shape), times, unpack_noise(draw, samples), span, levels, area, dtype, device)


_operator = operators.operator(
    "brownian(SymInt[] shape, Tensor times, int[] draw, Tensor? samples, float span, int levels, bool area,"
    " ScalarType dtype, Device device) -> (Tensor, Tensor)",
    _operator_run,
    _fake,
)

catalogue.describe(
    "brownian",
    formula="W_t - W_s and mean_r(W_r - chord) of a path keyed by (seed, samples[b], node, e), for any times s < t",
    moved="n s written, twice with areas; nothing is read",
    benchmark="brownian_paths.py",
    rows=("brownian 1x4x64x64 fixed grid", "brownian 16x4x64x64 own times", "brownian 256x2 own times"),
)
