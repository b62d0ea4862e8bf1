"""A reward that remembers: the same sample in the same context is scored once."""

from __future__ import annotations

import hashlib
import math
import numbers
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import ArgumentError
from .batched import check_rowwise
from .combined import Combined
from .context import check_context, is_column, map_context, take_rows
from .verifier import Verifier, check_reward, scores


@dataclass(repr=False, eq=False)
class Cached(Combined):
    """A reward whose values are kept by content: resampled copies, pivots and incumbents cost nothing again.

    A row's key is a hash (BLAKE2b, 128 bits) of its dtype, shape and bytes and of its row of the context. Only rows
    that are not known are scored, in one call, duplicates once; the ``entries`` values used last are kept. Values are
    the reward's, but for rounding where its arithmetic depends on the batch. -0.0 and 0.0 are different bytes. Keys are
    made on the CPU: worth it for rewards that cost more than copying the samples there.

    A call that needs a graph, one with ``x.requires_grad`` while gradients are recorded, goes past the cache: neither
    counted nor remembered. May be shared by threads.

    Args:
        reward: Deterministic, and scores rows one by one.
        entries: How many values are kept, at least 1; one takes about 200 bytes.

    Attributes:
        hits, misses: Rows served from the cache or from their own batch, and rows scored.

    Raises:
        ArgumentError: ``entries`` below 1; a reward whose rows depend on each other; when called, a context with
            entries other than tensors, arrays, strings, numbers and None.

    Example:
        >>> reward = Cached(lambda x, context: x[:, 0])
        >>> reward(torch.tensor([[1.0], [2.0], [1.0]])), reward(torch.tensor([[2.0]])), reward.hits, reward.misses
        (tensor([1., 2., 1.], dtype=torch.float64), tensor([2.], dtype=torch.float64), 2, 2)
    """

    reward: Verifier
    entries: int = 65536
    hits: int = field(default=0, init=False, repr=False)
    misses: int = field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        check_reward(self.reward)
        check_rowwise(self.reward)
        if not isinstance(self.entries, int) or self.entries < 1:
            raise ArgumentError("entries", got=repr(self.entries), expected="an integer >= 1")
        self._kept: OrderedDict[bytes, float] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Number of values kept now."""
        return len(self._kept)

    def __call__(self, x: Tensor, context: Any = None) -> Tensor:
        """Rewards [B], float64."""
        if torch.is_grad_enabled() and x.requires_grad:
            return scores(self.reward, x, context)
        keys = row_keys(x, context)
        with self._lock:
            known = {key: self._kept[key] for key in keys if key in self._kept}
        missing: dict[bytes, int] = {}
        for row, key in enumerate(keys):
            if key not in known:
                missing.setdefault(key, row)
        if missing:
            rows = list(missing.values())
            everything = len(rows) == len(keys)
            some = x if everything else x[rows]
            its = context if everything else take_rows(context, rows, len(keys))
            known.update(zip(missing, scores(self.reward, some, its).tolist(), strict=True))
        with self._lock:
            for key in keys:
                if not math.isnan(known[key]):  # an error soon, and perhaps not the next time
                    self._kept[key] = known[key]
                    self._kept.move_to_end(key)
            while len(self._kept) > self.entries:
                self._kept.popitem(last=False)
            self.misses += len(missing)
            self.hits += len(keys) - len(missing)
        return torch.tensor([known[key] for key in keys], dtype=torch.float64, device=x.device)

    def clear(self) -> None:
        """Forgets all values and counts from 0 again, for instance after the reward's network has changed."""
        with self._lock:
            self._kept.clear()
            self.hits = self.misses = 0


def row_keys(x: Tensor, context: Any) -> list[bytes]:
    """One key a row: equal for equal rows in equal contexts, whatever batch they come in.

    Raises:
        ArgumentError: An entry of the context that has no content to hash; names it.
        ShapeError: An entry of other rows.
    """
    rows = x.shape[0]
    check_context(context, rows)
    columns: dict[str, list[bytes]] = {}

    def visit(path: str, leaf: Any) -> None:
        columns[path] = _column(path, leaf)

    map_context(visit, context)
    # Lengths go before contents, so that no two different rows are the same string of bytes.
    head = hashlib.blake2b(digest_size=16)
    for path in sorted(columns):
        _feed(head, path.encode())
    head.update(_kind(x, x.shape[1:]))
    ordered = [columns[path] for path in sorted(columns)]
    keys = []
    for row, content in enumerate(_bytes(x)):
        key = head.copy()
        key.update(content)
        for column in ordered:
            _feed(key, column[row if len(column) > 1 else 0])
        keys.append(key.digest())
    return keys


def _column(path: str, leaf: Any) -> list[bytes]:
    """Content of an entry, row by row; one item if it is the same for all."""
    if isinstance(leaf, np.ndarray):
        if leaf.dtype.kind not in "biufc":
            return [_plain(path, item) for item in leaf.tolist()] if leaf.ndim == 1 else [_plain(path, leaf)]
        leaf = torch.from_numpy(np.ascontiguousarray(leaf))
    if isinstance(leaf, Tensor):
        table = leaf if leaf.ndim else leaf[None]
        kind = _kind(table, table.shape[1:])
        return [kind + bytes(row) for row in _bytes(table)]
    return [_plain(path, item) for item in leaf] if is_column(leaf) else [_plain(path, leaf)]


def _plain(path: str, item: Any) -> bytes:
    if item is None or isinstance(item, str | bytes | numbers.Number | np.generic):
        return f"{type(item).__name__}:{item!r}".encode()
    expected = "tensors, arrays, strings, numbers and None"
    raise ArgumentError(path, got=type(item).__name__, expected=expected, hint="A cache knows samples by content")


def _kind(x: Tensor, shape: torch.Size) -> bytes:
    return f"{x.dtype}{list(shape)}".encode()


def _bytes(x: Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The rows of x as bytes, [B, n]."""
    flat = x.detach().cpu().contiguous().reshape(x.shape[0], math.prod(x.shape[1:]))
    return flat.view(torch.uint8).numpy()


def _feed(key: Any, content: bytes) -> None:
    key.update(len(content).to_bytes(8, "little"))
    key.update(content)
