"""What a region-adaptive run remembers, and one pass of the network that reads and renews it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from ...errors import ArgumentError, ShapeError
from ..bound import Branches

Site = tuple[str, int]
"""A submodule, and which call of the network within one evaluation."""


@dataclass(frozen=True, slots=True)
class Memory:
    """The state after one evaluation.

    Attributes:
        branches, index: Of that evaluation.
        rows: Samples B of a branch.
        outputs: Of each call of the network, [R, N, C]; R is B times the branches of the call, branch after branch.
        keys: Keys and values of each site, [R, N, width]; written to in place, active rows only.
        change: Last observed change of each token for an evaluation that it took, [B, N].
        age: Evaluations since it was active, [B, N].
        active: Tokens of the evaluation, int64 [B, n]; None for all.
        before: The state that it started from, of which ``keys`` are the same: what replaces this evaluation, with the
            same active tokens, starts there too.
    """

    branches: Branches
    index: int
    rows: int
    outputs: tuple[Tensor, ...]
    keys: dict[Site, Tensor]
    change: Tensor
    age: Tensor
    active: Tensor | None
    before: Memory | None

    @property
    def tokens(self) -> int:
        """How many there are."""
        return self.age.shape[1]

    def stacked(self, rows: int) -> Tensor:
        """The outputs as [branches, B, N, C]."""
        return torch.cat([output.unflatten(0, (-1, rows)) for output in self.outputs])

    def of_branches(self, branches: Branches) -> Memory | None:
        """The part of some branches, in any order; None if this is of others, or of several calls."""
        if len(self.outputs) != 1 or not set(branches) <= set(self.branches):
            return None
        places = [self.branches.index(branch) for branch in branches]

        def part(rows: Tensor) -> Tensor:
            each = rows.unflatten(0, (len(self.branches), self.rows))
            return torch.cat([each[place] for place in places])

        before = None if self.before is None else dataclasses.replace(self.before, before=None).of_branches(branches)
        keys = {site: part(value) for site, value in self.keys.items()}
        return dataclasses.replace(self, branches=branches, outputs=(part(self.outputs[0]),), keys=keys, before=before)


class TokenPass:
    """One evaluation: what the sites of the network do with the tokens that come by.

    Args:
        rows: Samples B.
        active: Tokens to let in, int64 [B, n]; None for all.
        base: The state to go on from; None if there is none.
        memory: Whose keys and values serve a partial pass.
    """

    def __init__(self, rows: int, active: Tensor | None, base: Memory | None, memory: Memory | None) -> None:
        self.rows, self.active, self.base = rows, active, base
        self.keys: dict[Site, Tensor] = dict(memory.keys) if memory is not None and active is not None else {}
        self.outputs: list[Tensor] = []
        self.changes: list[Tensor] = []
        self.calls = 0
        self._where: tuple[tuple[int, int], Tensor] | None = None

    def enter(self, embedded: Tensor) -> Tensor:
        """The active of the embedded tokens [R, N, C]."""
        self.calls += 1
        if embedded.ndim != 3 or embedded.shape[0] % self.rows:
            expected = f"[R, N, C] with a multiple of {self.rows} rows"
            raise ShapeError("tokens at the entry", got=list(embedded.shape), expected=expected)
        if self.active is None:
            return embedded
        if self.base is None or self.calls > len(self.base.outputs):
            raise ArgumentError("network", got="more calls than at the evaluation before", expected="as many")
        return self._gather(embedded)

    def attend(self, name: str, new: Tensor) -> Tensor:
        """What a projection to keys or values returns: those of all tokens."""
        site = (name, self.calls)
        if self.active is not None:
            kept = self.keys[site]
            shared = torch.is_grad_enabled() or kept.is_inference() != torch.is_inference_mode_enabled()
            new = self._scatter(kept, new, in_place=not shared)
        self.keys[site] = new = new.contiguous()
        return new

    def leave(self, new: Tensor) -> Tensor:
        """Outputs of all tokens, of which the kept ones are remembered; a new tensor, since solvers keep outputs."""
        old = None if self.base is None else self.base.outputs[self.calls - 1]
        if self.active is None:
            full = new
            fits = old is not None and old.shape == new.shape
        else:
            kept, fits = cast(Tensor, old), True  # enter() has looked
            full, old = self._scatter(kept, new), self._gather(kept)
        if fits and old is not None:
            wide = torch.promote_types(new.dtype, torch.float32)
            squares = (new.detach().to(wide) - old.detach()).square().sum(dim=-1)
            self.changes.append(squares.unflatten(0, (-1, self.rows)).sum(dim=0))
        full = full.contiguous()
        self.outputs.append(full)
        return full

    def remember(self, branches: Branches, index: int) -> Memory | None:
        """The state after the pass; None if the network was not called."""
        if not self.outputs:
            return None
        base, like = self.base, self.outputs[0]
        wide = torch.promote_types(like.dtype, torch.float32)
        age = torch.zeros(self.rows, like.shape[1], dtype=wide, device=like.device) if base is None else base.age
        change = torch.ones_like(age) if base is None else base.change
        if len(self.changes) == len(self.outputs):
            seen = torch.stack(self.changes).sum(dim=0).sqrt()
            where = self.active
            waited = age if where is None else age.gather(1, where)
            change = seen / (waited + 1) if where is None else change.scatter(1, where, seen / (waited + 1))
        age = torch.zeros_like(age) if self.active is None else (age + 1).scatter(1, self.active, 0.0)
        start = None if base is None else dataclasses.replace(base, before=None, keys={})
        return Memory(branches, index, self.rows, tuple(self.outputs), self.keys, change, age, self.active, start)

    def _gather(self, tokens: Tensor) -> Tensor:
        """The active ones [R, n, C] of tokens [R, N, C]; whole rows, seven times as fast as ``gather`` of elements."""
        rows, _, width = tokens.shape
        return tokens.flatten(0, 1).index_select(0, self._places(tokens)).view(rows, -1, width)

    def _scatter(self, tokens: Tensor, new: Tensor, *, in_place: bool = False) -> Tensor:
        """Tokens [R, N, C] with the active ones [R, n, C] put in."""
        target = tokens.flatten(0, 1)  # a view: what is kept is contiguous
        copy = target.index_copy_ if in_place else target.index_copy
        return copy(0, self._places(tokens), new.flatten(0, 1)).view(tokens.shape)

    def _places(self, tokens: Tensor) -> Tensor:
        """Where the active tokens are in [R N, C]."""
        rows, count, _ = tokens.shape
        if self._where is None or self._where[0] != (rows, count):
            index = cast(Tensor, self.active).repeat(rows // self.rows, 1)
            first = torch.arange(0, rows * count, count, device=index.device)
            self._where = (rows, count), (index + first[:, None]).flatten()
        return self._where[1]
