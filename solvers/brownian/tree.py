"""`BrownianTree`: a Brownian path for each sample, defined on an interval and computed where it is asked for."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from ...errors import ArgumentError, DtypeError, GridError, ShapeError
from ...kernels import brownian
from ...kernels.noise import check_samples

Times: TypeAlias = "float | Tensor | np.ndarray | Sequence[float]"
OUTSIDE = 1e-6  #: part of the interval by which a time may lie outside: schedules miss their ends by roundings
BLOCK = 16  #: increments of a path that are made in one call: a call begins at the root of the tree again


class Increment(NamedTuple):
    """Increment and space-time area of a Brownian path over a step.

    Args:
        w: :math:`W_u - W_s`, of the shape of the state.
        h: :math:`H_{s,u}`, or None where areas are not kept.
    """

    w: Tensor
    h: Tensor | None


class BrownianTree:
    r"""A virtual Brownian tree: any interval, in any order, bit for bit the same whenever it is asked for.

    .. math:: W_{s,u} = W_u - W_s \sim N(0, u - s), \qquad H_{s,u} =
        \frac1{u-s} \int_s^u \Big( W_{s,r} - \frac{r-s}{u-s} W_{s,u} \Big) dr \sim N\Big(0, \frac{u-s}{12}\Big)

    Sample i has the path of its id whatever the batch, the device and the backend; the operation is
    :func:`pushforward.kernels.brownian`. In float64 increments are multiples of one small number, so that
    ``W(s, u) + W(u, v) == W(s, v)`` exactly; in other dtypes each of them is that number, rounded once. Areas obey
    :math:`h H = h_1 H_1 + h_2 H_2 + (h_2 W_1 - h_1 W_2) / 2` to rounding.

    Args:
        shape: [B, *D], of the state.
        t0, t1: Ends of the interval, in either order. Times outside are an error, but for 1e-6 of the interval's
            length, by which schedules miss their ends: there the path stands still.
        seed, samples: Key of the noise, as in :func:`pushforward.sample`.
        tolerance: Length of the tree's smallest interval; two times within one are joined by a smooth curve instead of
            a Brownian path. So at most the shortest step; halving it costs one more pair of normals a query.
            Default: 2**-20 of the interval.
        area: Whether H is kept. Without it, increments cost half; the path is another one.
        stream: Number of an independent path of the same seed and sample.
        dtype, device: Of the increments.

    Attributes:
        levels: Depth of the tree.

    Raises:
        ArgumentError, DtypeError, ShapeError: An empty interval, a tolerance that is not positive or asks for more
            than 30 levels, a dtype that is not floating point, ids that are not one for each row.

    Source:
        Li, Wong, Chen & Duvenaud 2020, arXiv:2001.01328 (the tree); Jelincic, Foster & Kidger 2024, arXiv:2405.06464
        (space-time areas).

    Example:
        >>> tree = BrownianTree((2, 3), 0.0, 1.0, seed=1, dtype=torch.float64)
        >>> whole, parts = tree.increment(0.1, 0.7), [tree.increment(0.25, 0.7), tree.increment(0.1, 0.25)]
        >>> torch.equal(parts[0].w + parts[1].w, whole.w)
        True
        >>> own = tree.increment([0.1, 0.3], [0.7, 0.4])  # samples with steps of their own
        >>> torch.equal(own.w[0], whole.w[0])
        True
    """

    def __init__(
        self,
        shape: Sequence[int],
        t0: float,
        t1: float,
        *,
        seed: int = 0,
        samples: Tensor | None = None,
        tolerance: float | None = None,
        area: bool = True,
        stream: int = 0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        t0, t1 = float(t0), float(t1)
        self.low, self.span = min(t0, t1), abs(t1 - t0)
        if not (math.isfinite(t0) and math.isfinite(t1) and self.span > 0):
            raise ArgumentError("t0, t1", got=f"{t0}, {t1}", expected="two different finite times")
        tolerance = self.span * 2.0**-20 if tolerance is None else float(tolerance)
        if not tolerance > 0:
            raise ArgumentError("tolerance", got=tolerance, expected="a length above 0")
        self.levels = max(0, math.ceil(math.log2(self.span / tolerance)))
        if self.levels > 30:
            expected = f"at least {self.span * 2.0**-30:.3g}, 2**-30 of the interval"
            raise ArgumentError("tolerance", got=tolerance, expected=expected)
        if not dtype.is_floating_point:
            raise DtypeError("dtype", got=dtype, expected="a floating-point dtype")
        if samples is not None:
            check_samples(samples)
            if samples.shape[0] != shape[0]:
                raise ShapeError("samples", got=list(samples.shape), expected=f"[{shape[0]}], one id for each row")
        self.shape, self.seed, self.samples = tuple(shape), seed, samples
        self.area, self.stream, self.dtype, self.device = area, stream, dtype, torch.device(device)

    def __repr__(self) -> str:
        ends = f"{self.low:g}, {self.low + self.span:g}"
        return f"BrownianTree({list(self.shape)}, {ends}, seed={self.seed}, levels={self.levels})"

    def rows(self, index: Tensor) -> BrownianTree:
        """The paths of some rows of the batch, in that order: for what is left when other samples have finished.

        Example:
            >>> tree = BrownianTree((3, 2), 0.0, 1.0)
            >>> some = tree.rows(torch.tensor([2, 0]))
            >>> torch.equal(some.increment(0.0, 0.5).w, tree.increment(0.0, 0.5).w[[2, 0]])
            True
        """
        other = object.__new__(BrownianTree)
        other.__dict__.update(self.__dict__)
        index = index.cpu()
        samples = torch.arange(self.shape[0]) if self.samples is None else self.samples.cpu()
        other.shape, other.samples = (len(index), *self.shape[1:]), samples[index]
        return other

    def increment(self, s: Times, u: Times) -> Increment:
        """W and H from s to u; with s > u the path runs backwards, and W changes its sign, but H does not.

        Args:
            s, u: Times, or one for each sample, [B].

        Raises:
            ArgumentError: A time outside the interval, or not a number.
            ShapeError: Neither one time nor one for each sample.
        """
        s, u = self._fractions("s", s), self._fractions("u", u)
        backwards = s > u
        times = np.stack([np.minimum(s, u), np.maximum(s, u)])
        w, h = self._brownian(times)
        if backwards.any():
            w = self._with_sign(w, backwards)
        return Increment(w[0], None if h is None else h[0])

    def __call__(self, s: Times, u: Times) -> Tensor:
        """W from s to u."""
        return self.increment(s, u).w

    def steps(self, times: Sequence[float]) -> Iterator[Increment]:
        """Increments between consecutive times, the same as one by one, in less time: most of the tree is walked once.

        Args:
            times: Strictly monotone.

        Raises:
            GridError: Times that are not, or fewer than two.
            ArgumentError: A time outside the interval.

        Example:
            >>> tree = BrownianTree((1, 2), 0.0, 1.0)
            >>> [torch.equal(step.w, tree(a, b)) for step, a, b in zip(tree.steps([0, 0.3, 1]), [0, 0.3], [0.3, 1])]
            [True, True]
        """
        given = np.asarray(times, dtype=np.float64)
        differences = np.diff(given)
        if given.ndim != 1 or len(given) < 2 or not ((differences > 0).all() or (differences < 0).all()):
            raise GridError("times", got=list(times), expected="at least two strictly monotone times")
        backwards = bool(differences[0] < 0)
        fractions = self._fractions("times", given, one=False)
        for first in range(0, len(given) - 1, BLOCK):
            block = fractions[first : first + BLOCK + 1]
            w, h = self._brownian(block[::-1].copy() if backwards else block)
            order = range(len(w))
            for i in reversed(order) if backwards else order:
                yield Increment(-w[i] if backwards else w[i], None if h is None else h[i])

    def _fractions(self, name: str, times: Times, *, one: bool = True) -> np.ndarray:
        """Times as fractions of the interval."""
        if isinstance(times, Tensor):
            times = times.detach().cpu().numpy()
        numbers = np.asarray(times, dtype=np.float64)
        if one and numbers.ndim > 0 and numbers.shape != (self.shape[0],):
            raise ShapeError(name, got=list(numbers.shape), expected=f"a number, or [{self.shape[0]}], one a sample")
        fractions = (numbers - self.low) / self.span
        if not ((fractions >= -OUTSIDE) & (fractions <= 1 + OUTSIDE)).all():
            wrong = numbers[~((fractions >= -OUTSIDE) & (fractions <= 1 + OUTSIDE))].flat[0]
            expected = f"times in [{self.low:g}, {self.low + self.span:g}], where this path is defined"
            raise ArgumentError(name, got=float(wrong), expected=expected)
        return np.clip(fractions, 0.0, 1.0)

    def _brownian(self, fractions: np.ndarray) -> tuple[Tensor, Tensor | None]:
        narrow = self.dtype not in (torch.float32, torch.float64)
        w, h = brownian(
            self.shape,
            torch.from_numpy(fractions),
            seed=self.seed,
            samples=self.samples,
            span=self.span,
            levels=self.levels,
            area=self.area,
            stream=self.stream,
            dtype=torch.float32 if narrow else self.dtype,
            device=self.device,
        )
        return (w.to(self.dtype), None if h is None else h.to(self.dtype)) if narrow else (w, h)

    def _with_sign(self, w: Tensor, backwards: np.ndarray) -> Tensor:
        if backwards.all():
            return -w
        sign = torch.from_numpy(np.where(backwards, -1.0, 1.0)).to(device=w.device, dtype=w.dtype)
        return w * sign.reshape(-1, *[1] * (len(self.shape) - 1))
