"""What a tap does: remember, answer from memory, extrapolate, or pass some of the tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ... import kernels
from ...errors import ArgumentError, ShapeError
from .newton import newton_weights
from .outputs import map_tensors, tensors
from .state import Kept, RunState
from .taps import Call


@dataclass(frozen=True)
class Record:
    """Run the module and remember its output, whatever tree of tensors that is.

    Args:
        state: Where.
        copy: Remember a copy, for networks that write to the output later (an in-place activation behind the module).
    """

    state: RunState
    copy: bool = False

    def __call__(self, call: Call) -> Any:
        """The module's own output."""
        output = call.run(*call.args, **call.kwargs)
        lent = {leaf.data_ptr() for leaf in tensors((call.args, call.kwargs))}  # a run writes to its buffers again
        keep = map_tensors(lambda leaf: leaf.clone() if self.copy or leaf.data_ptr() in lent else leaf, output)
        self.state.put(call, keep)
        return output


@dataclass(frozen=True)
class Hold:
    r"""Skip the module and return what :class:`Record` remembered.

    .. math:: f(t) \approx f_0 + f[0, 1] (u - u_0) + f[0, 1, 2] (u - u_0)(u - u_1) + \ldots

    With ``order`` 0 that is the last output; above, Newton's interpolation through the last ``order + 1`` outputs in
    their divided differences, at the state's ``variable``: exact for polynomials of that degree, on any grid. (Taylor
    sums with factorials, which some caches use on the same differences, are exact to degree 1 only.) Evaluations
    whose variable is infinite, as the half log-SNR at pure noise, count for order 0 alone. Where the state says that
    an evaluation has several copies of the rows, they are rows (branch, copy, sample) of the call.

    Args:
        state: Where outputs were remembered, with ``keep`` of at least ``order + 1``.
        order: Degree of the extrapolation.
    """

    state: RunState
    order: int = 0

    def __call__(self, call: Call) -> Any:
        """The remembered output."""
        kept, places = self.state.get(call), self.state.places
        if self.order:
            finite = [entry for entry in kept if math.isfinite(entry.variable)][-self.order - 1 :]
            kept = finite or kept
        if len(kept) == 1 or not self.order:
            values = [kept[-1].value] * len(places)
        else:
            values = [self._extrapolated(kept, place) for place in places]
        if len(places) == 1:
            return values[0]
        rows = kept[-1].rows or 1
        return map_tensors(lambda *leaves: _interleave(leaves, rows, rows // (self.state.rows or rows)), *values)

    def _extrapolated(self, kept: list[Kept], place: float) -> Any:
        """Newton's polynomial through what is remembered, at a place."""
        weights = newton_weights([entry.variable for entry in kept], place)
        leaves = (entry.value for entry in kept)
        return map_tensors(lambda *x: kernels.combine(x, weights) if x[0].is_floating_point() else x[-1], *leaves)


def _interleave(leaves: tuple[Tensor, ...], rows: int, branches: int) -> Tensor:
    """Evaluations of rows (branch, sample) as rows (branch, evaluation, sample); what has no rows serves all."""
    first = leaves[0]
    if first.ndim == 0 or first.shape[0] != rows:
        return first
    if all(leaf is first for leaf in leaves):
        parts = first.unflatten(0, (branches, 1, rows // branches))
        return parts.expand(branches, len(leaves), *parts.shape[2:]).flatten(0, 2)
    return torch.stack([leaf.unflatten(0, (branches, rows // branches)) for leaf in leaves], 1).flatten(0, 2)


@dataclass(frozen=True)
class RecordResidual:
    """Run the module and remember its output minus its input.

    The input is the tensor that the module was called with that is like the output: for a single output the first of
    its shape, for several the only one each.

    Args:
        state: Where.

    Raises:
        ArgumentError: No input, or several, of an output's shape.
    """

    state: RunState

    def __call__(self, call: Call) -> Any:
        """The module's own output."""
        output = call.run(*call.args, **call.kwargs)
        given, where = list(tensors((call.args, call.kwargs))), stream(call, output)
        self.state.put(call, (where, map_tensors(lambda leaf, i: leaf - given[i], output, where)))
        return output


@dataclass(frozen=True)
class AddResidual:
    """Skip the module and return its input plus what :class:`RecordResidual` remembered.

    Args:
        state: Where.
    """

    state: RunState

    def __call__(self, call: Call) -> Any:
        """Input plus residual."""
        given = list(tensors((call.args, call.kwargs)))
        where, residual = self.state.get(call)[-1].value
        return map_tensors(lambda leaf, i: given[i] + leaf, residual, where)


@dataclass(frozen=True)
class Gather:
    """Run the module and keep some rows of its tokens.

    Args:
        index: Tokens to keep, int64 [B, n]; calls with more rows repeat it, branch by branch. None: all of them.
        dim: Dimension of the tokens in the output.
    """

    index: Tensor | None
    dim: int = 1

    def __call__(self, call: Call) -> Any:
        """The output with ``n`` tokens."""
        output = call.run(*call.args, **call.kwargs)
        index = self.index
        if index is None:
            return output
        return map_tensors(lambda leaf: leaf.gather(self.dim, token_index(index, leaf, self.dim)), output)


@dataclass(frozen=True)
class Scatter:
    """Run the module on some tokens, and return the outputs of all: the remembered ones with these put in.

    Args:
        state: Where the outputs of all tokens are remembered.
        index: Tokens that the module is called with, int64 [B, n]; None: all of them, to begin with.
        dim: Dimension of the tokens in the output.
    """

    state: RunState
    index: Tensor | None
    dim: int = 1

    def __call__(self, call: Call) -> Any:
        """The outputs of all tokens."""
        output = call.run(*call.args, **call.kwargs)
        if self.index is not None:
            index = self.index
            full = self.state.get(call)[-1].value
            output = map_tensors(
                lambda new, old: old.scatter(self.dim, token_index(index, new, self.dim), new), output, full
            )
        self.state.put(call, output)
        return output


def token_index(index: Tensor, leaf: Tensor, dim: int) -> Tensor:
    """``index`` [B, n] as ``gather`` wants it for ``leaf``, repeated where the leaf has several branches of B rows.

    Raises:
        ShapeError: The rows of the leaf are no multiple of B.

    Example:
        >>> token_index(torch.tensor([[2, 0]]), torch.zeros(2, 3, 4), 1).shape
        torch.Size([2, 2, 4])
    """
    rows, count = index.shape
    if leaf.ndim <= dim or leaf.shape[0] % rows:
        raise ShapeError("index", got=list(index.shape), expected=f"rows that divide those of {list(leaf.shape)}")
    shape = [leaf.shape[0]] + [1] * (leaf.ndim - 1)
    shape[dim] = count
    into = list(leaf.shape)
    into[dim] = count
    return index.repeat(leaf.shape[0] // rows, 1).view(shape).expand(into)


def stream(call: Call, output: Any) -> Any:
    """The tree of ``output`` with, for each tensor, the number of the tensor that the module was called with.

    Raises:
        ArgumentError: No input, or several, of an output's shape.
    """
    given = list(tensors((call.args, call.kwargs)))

    def find(leaf: Tensor) -> int:
        like = [i for i, x in enumerate(given) if x.shape == leaf.shape and x.dtype == leaf.dtype]
        if not like or (len(like) > 1 and not isinstance(output, Tensor)):
            raise ArgumentError(
                f"tap {call.name!r}",
                got=f"{len(like)} inputs like the output {list(leaf.shape)}",
                expected="one, to which a residual can be added",
            )
        return like[0]

    return map_tensors(find, output)
