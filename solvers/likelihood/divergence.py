"""Traces of a field's Jacobian, from products of vectors with it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import torch
from torch import Tensor

from ...errors import ArgumentError, UnknownNameError
from ...kernels import PURPOSE_PROBE, Draw, normal, uniform

Divergence = Literal["exact", "hutchinson", "hutch++"]
ProbeLaw = Literal["rademacher", "gaussian"]


class Trace(Protocol):
    """An estimator of the trace of dv/dx, with whatever is random in it fixed along the way of each sample."""

    @property
    def products(self) -> int:
        """Products of a vector with the Jacobian that an evaluation takes."""
        ...

    @property
    def members(self) -> int:
        """How many independent estimates it is the mean of, where they tell its error; otherwise 0."""
        ...

    def rows(self, index: Tensor) -> Trace:
        """That of some of the samples (int64)."""
        ...

    def __call__(self, slope: Tensor, x: Tensor, keep: bool) -> Tensor:
        """Estimates [b, 1 + members] from slopes and the states that they depend on; the first is their mean.

        With ``keep`` it has gradients itself.
        """
        ...


@dataclass(frozen=True)
class ExactTrace:
    r""":math:`\sum_i e_i^T J e_i`, for states of any shape; one product for each of the d elements of a sample.

    Attributes:
        size: d.
        chunk: Products in one backward pass.

    """

    size: int
    chunk: int
    members = 0

    @property
    def products(self) -> int:
        """As many as a sample has elements, d."""
        return self.size

    def rows(self, index: Tensor) -> ExactTrace:
        """Itself: nothing of it belongs to a sample."""
        return self

    def __call__(self, slope: Tensor, x: Tensor, keep: bool) -> Tensor:
        """Traces, [b, 1]."""
        total = x.new_zeros(x.shape[0])
        for first in range(0, self.size, self.chunk):
            index = torch.arange(first, min(first + self.chunk, self.size), device=x.device)
            place = torch.arange(len(index), device=x.device)
            basis = x.new_zeros(len(index), self.size)
            basis[place, index] = 1.0
            vectors = basis[:, None].expand(-1, x.shape[0], -1).reshape(len(index), *x.shape)
            rows = pulled(slope, x, vectors, keep, self.chunk).reshape(len(index), x.shape[0], self.size)
            total = total + rows[place, :, index].sum(0)
        return total[:, None]


@dataclass(frozen=True)
class Hutchinson:
    r""":math:`\frac1n \sum_i u_i^T J u_i` with :math:`E[u u^T] = I`, one product for each of the n probes.

    Unbiased. The variance with one probe is :math:`2 (\|S\|_F^2 - \sum_i S_{ii}^2)` for signs and
    :math:`2 \|S\|_F^2` for normals, S the symmetric part of J.

    Attributes:
        probes: u, [n, b, *D].
        chunk: Products in one backward pass.

    Source: Hutchinson 1989; Grathwohl et al. 2019 (FFJORD), one probe for all of a trajectory.

    """

    probes: Tensor
    chunk: int

    @property
    def products(self) -> int:
        """As many as there are probes, n."""
        return self.probes.shape[0]

    @property
    def members(self) -> int:
        """n; 0 for a single probe, which says nothing of its error."""
        return self.products if self.products > 1 else 0

    def rows(self, index: Tensor) -> Hutchinson:
        """With the probes of some of the samples."""
        return replace(self, probes=self.probes.index_select(1, index.to(self.probes.device)))

    def __call__(self, slope: Tensor, x: Tensor, keep: bool) -> Tensor:
        """The mean and the estimates, [b, 1 + members]."""
        return with_mean(inner(self.probes, pulled(slope, x, self.probes, keep, self.chunk)))


@dataclass(frozen=True)
class HutchPlusPlus:
    r"""The trace on the range of a sketch exactly, the rest by Hutchinson's estimator.

    .. math:: Q = \mathrm{orth}(K^T S), \quad \mathrm{tr}\, J \approx c\, d + \mathrm{tr}(Q^T K Q) +
        \frac1k \sum_{i=1}^k g_i^T (I - Q Q^T) K (I - Q Q^T) g_i, \quad K = J - c I, \quad
        c = \frac{\langle S, J^T S \rangle}{\langle S, S \rangle}

    with k columns of S and k vectors g, 3k products. Unbiased, as c and Q depend on S alone; the variance falls like
    :math:`1/k^2` where the singular values of K do fall, and with :math:`k \ge d` the trace is exact. The multiple of
    the identity is ours: a flow contracts all directions in which data has no spread at the same rate, about
    :math:`\sigma'/\sigma`, and without it the sketch sees little else. Gradients hold c and Q fixed, and are unbiased
    too.

    Attributes:
        sketch, probes: S and g, [k, b, *D] each.
        chunk: Products in one backward pass.

    Source: Meyer, Musco, Musco & Woodruff 2021, Hutch++: optimal stochastic trace estimation, algorithm 1.

    """

    sketch: Tensor
    probes: Tensor
    chunk: int

    @property
    def products(self) -> int:
        """3k, less where a sketch of more than d columns has a range of d."""
        k, size = self.probes.shape[0], self.probes[0, 0].numel() if self.probes.shape[1] else 0
        return 2 * k + min(k, size)

    @property
    def members(self) -> int:
        """k; 0 for k = 1."""
        return self.probes.shape[0] if self.probes.shape[0] > 1 else 0

    def rows(self, index: Tensor) -> HutchPlusPlus:
        """With the vectors of some of the samples."""
        place = index.to(self.probes.device)
        return replace(self, sketch=self.sketch.index_select(1, place), probes=self.probes.index_select(1, place))

    def __call__(self, slope: Tensor, x: Tensor, keep: bool) -> Tensor:
        """The mean and the estimates, [b, 1 + members]."""
        k, batch = self.probes.shape[:2]
        size = math.prod(x.shape[1:])
        range_ = pulled(slope, x, self.sketch, False, self.chunk).reshape(k, batch, size)
        with torch.no_grad():
            sketch = self.sketch.reshape(k, batch, size)
            shift = (sketch * range_).sum((0, 2)) / sketch.square().sum((0, 2))
            range_ = range_ - shift[:, None] * sketch
            basis = torch.linalg.qr(range_.permute(1, 2, 0)).Q  # [b, d, min(k, d)]
            probes = self.probes.reshape(k, batch, size).permute(1, 2, 0)
            rest = probes - basis @ (basis.mT @ probes)
            columns = torch.cat([basis, rest], dim=2).permute(2, 0, 1).reshape(-1, *x.shape)
        of_identity = shift * inner(columns, columns)
        values = inner(columns, pulled(slope, x, columns, keep, self.chunk)) - of_identity
        exact = basis.shape[2]
        return with_mean(size * shift + values[:exact].sum(0) + values[exact:])


def inner(first: Tensor, second: Tensor) -> Tensor:
    """Inner products of [n, b, *D], sample by sample: [n, b]."""
    return (first * second).reshape(*first.shape[:2], math.prod(first.shape[2:])).sum(2)


def with_mean(estimates: Tensor) -> Tensor:
    """Estimates [n, b] with their mean in front, [b, 1 + n]; one estimate alone."""
    each = estimates.T
    return each if each.shape[1] == 1 else torch.cat([each.mean(1, keepdim=True), each], dim=1)


def pulled(slope: Tensor, x: Tensor, vectors: Tensor, keep: bool, chunk: int) -> Tensor:
    """Products of vectors [n, b, *D] with the Jacobian of each sample, from the left: [n, b, *D].

    Raises:
        ArgumentError: The slope has no gradient with respect to x; a backward pass that cannot be batched.

    """

    def pull(vector: Tensor) -> Tensor:
        (product,) = torch.autograd.grad(slope, x, vector, retain_graph=True, create_graph=keep, allow_unused=True)
        if product is None:
            raise constant_field()
        return product

    if chunk == 1 or len(vectors) == 1:
        return torch.stack([pull(vector) for vector in vectors])
    try:
        return torch.cat([torch.func.vmap(pull)(some) for some in vectors.split(chunk)])
    except RuntimeError as error:
        if not any(word in str(error) for word in ("vmap", "atching rule")):
            raise
        expected = f"1: the field's backward pass cannot be batched ({error})"
        raise ArgumentError("trace_chunk", got=chunk, expected=expected) from error


def constant_field() -> ArgumentError:
    """The error of a slope without a gradient with respect to the state."""
    return ArgumentError(
        "field",
        got="a slope without a gradient with respect to x",
        expected="one that autograd can follow: no detach(), no no_grad() within",
        hint="If it does not depend on x, return v + 0 * x",
    )


def exact(x: Tensor, probes: int | None, law: ProbeLaw, chunk: int, seed: int, samples: Tensor | None) -> Trace:
    """The exact trace.

    Raises:
        ArgumentError: Probes, which it has none of.

    """
    if probes is not None:
        raise ArgumentError("probes", got=f"{probes}, with divergence='exact'", expected="None: it takes no probes")
    return ExactTrace(math.prod(x.shape[1:]), chunk)


def hutchinson(x: Tensor, probes: int | None, law: ProbeLaw, chunk: int, seed: int, samples: Tensor | None) -> Trace:
    """Hutchinson's estimator; one probe unless told otherwise.

    Raises:
        ArgumentError: Not a positive number of probes.

    """
    count = 1 if probes is None else probes
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ArgumentError("probes", got=probes, expected="an integer of at least 1")
    return Hutchinson(draws(x, range(count), law, seed, samples), chunk)


def hutch_plus_plus(
    x: Tensor, probes: int | None, law: ProbeLaw, chunk: int, seed: int, samples: Tensor | None
) -> Trace:
    """Hutch++; six products unless told otherwise.

    Raises:
        ArgumentError: Not a positive multiple of three.

    """
    count = 6 if probes is None else probes
    if isinstance(count, bool) or not isinstance(count, int) or count < 3 or count % 3:
        expected = "a multiple of 3: a third each for the sketch, its range and the rest"
        raise ArgumentError("probes", got=probes, expected=expected)
    k = count // 3
    sketch, rest = (draws(x, range(first, first + k), law, seed, samples) for first in (0, k))
    return HutchPlusPlus(sketch, rest, chunk)


TRACES: dict[str, Callable[[Tensor, int | None, ProbeLaw, int, int, Tensor | None], Trace]] = {
    "exact": exact,
    "hutchinson": hutchinson,
    "hutch++": hutch_plus_plus,
}


def trace(
    divergence: Divergence,
    x: Tensor,
    probes: int | None = None,
    law: ProbeLaw = "rademacher",
    chunk: int = 32,
    seed: int = 0,
    samples: Tensor | None = None,
) -> Trace:
    """An estimator for states like x; see :func:`pushforward.log_density`.

    Raises:
        UnknownNameError: No estimator, or no law, has that name.
        ArgumentError: A number of probes or a chunk that makes no sense.

    """
    if divergence not in TRACES:
        raise UnknownNameError("divergence", got=repr(divergence), expected=", ".join(map(repr, TRACES)))
    if law not in ("rademacher", "gaussian"):
        raise UnknownNameError("probe_law", got=repr(law), expected="'rademacher' or 'gaussian'")
    if isinstance(chunk, bool) or not isinstance(chunk, int) or chunk < 1:
        raise ArgumentError("trace_chunk", got=chunk, expected="an integer of at least 1")
    return TRACES[divergence](x, probes, law, chunk, seed, samples)


def draws(x: Tensor, numbers: range, law: ProbeLaw, seed: int, samples: Tensor | None) -> Tensor:
    """Probes like x, [n, B, *D], keyed by seed and sample: the same whatever the batch."""
    make, found = normal if law == "gaussian" else uniform, []
    for number in numbers:
        drawn = make(
            x.shape, seed=seed, draw=Draw(PURPOSE_PROBE, number), samples=samples, dtype=x.dtype, device=x.device
        )
        found.append(drawn if law == "gaussian" else torch.where(drawn < 0.5, -1.0, 1.0).to(x.dtype))
    return torch.stack(found)
