"""What a compiled graph says about its inputs, and rows for graphs of one batch size."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...errors import ArgumentError
from ..trees import tree_map

STATES = ("x", "sample", "hidden_states", "latent_sample", "latent", "latents")
TIMES = ("t", "time", "timestep", "timesteps", "sigma", "noise_labels")


@dataclass(frozen=True)
class Input:
    """An input of a graph.

    Attributes:
        name: Of the argument.
        shape: A number, or a symbol, for each dimension.
        dtype: Of its elements.
    """

    name: str
    shape: tuple[int | str, ...]
    dtype: torch.dtype


@dataclass(frozen=True)
class Signature:
    """Which inputs are the state and the time, and which are conditions.

    Attributes:
        state: The state.
        time: The time; None if the graph takes none.
        conditions: The other inputs by name.
    """

    state: Input
    time: Input | None
    conditions: Mapping[str, Input]

    @classmethod
    def read(cls, inputs: Sequence[Input], x: str | None, time: str | None) -> Signature:
        """The signature of a graph whose state is named ``x`` and whose time is ``time``; None: one of the usual names.

        Raises:
            ArgumentError: No such input, or none or several of the usual names; lists those that there are.
        """
        named = {one.name: one for one in inputs}

        def find(argument: str, name: str | None, usual: tuple[str, ...]) -> Input:
            found = [one for one in ((name,) if name is not None else usual) if one in named]
            if len(found) != 1:
                got = repr(name) if name is not None else f"{len(found)} of its inputs among {', '.join(usual)}"
                raise ArgumentError(argument, got=got, expected="the name of one input: " + ", ".join(named))
            return named[found[0]]

        state = find("x", x, STATES)
        said = find("time", time, TIMES) if time is not None or len(named) > 1 else None
        if len(state.shape) < 1:
            raise ArgumentError("x", got=f"{state.name!r} without dimensions", expected="an input [B, *D]")
        own = {state.name} | ({said.name} if said else set())
        return cls(state, said, {name: one for name, one in named.items() if name not in own})

    @property
    def batch(self) -> int | None:
        """The one batch size the graph takes; None for any."""
        return self.state.shape[0] if isinstance(self.state.shape[0], int) else None

    @property
    def time_shape(self) -> str:
        """Of the network, "scalar", "one" or "batch"; see :class:`Model`."""
        if self.time is None or not self.time.shape:
            return "scalar"
        return "one" if self.time.shape[0] == 1 and self.batch != 1 else "batch"

    @property
    def channels(self) -> int | None:
        """Size of dimension 1 of the state, if it is fixed."""
        return next((size for size in self.state.shape[1:2] if isinstance(size, int)), None)

    def told(self, time: Tensor) -> Tensor:
        """The time in as many dimensions as the graph wants it."""
        wanted = 0 if self.time is None else len(self.time.shape)
        return time.reshape(-1, *[1] * (wanted - 1)) if wanted > 1 else time

    def check(self, condition: Mapping[str, Any]) -> None:
        """Refuse conditions that the graph does not take, and a lack of those that it does.

        Raises:
            ArgumentError: Names them.
        """
        if condition.keys() != self.conditions.keys():
            expected = ", ".join(self.conditions) or "none"
            raise ArgumentError("condition", got=", ".join(condition) or "none", expected=expected)

    def options(self) -> dict[str, Any]:
        """What :func:`adapt` is told: the dtypes, and the shape of the time."""
        time_dtype = self.time.dtype if self.time is not None else None
        return {
            "dtype": self.state.dtype,
            "time_dtype": time_dtype,
            "time_shape": self.time_shape,
            "channels": self.channels,
            "shared": tuple(name for name, one in self.conditions.items() if not self.has_rows(one)),
        }

    def has_rows(self, one: Input) -> bool:
        """Whether an input has the dimension of the batch: the same size or symbol as that of the state, first."""
        return bool(one.shape) and one.shape[0] == self.state.shape[0]


def in_batches(
    call: Callable[[Tensor, Tensor, dict[str, Any]], Tensor],
    signature: Signature,
    x: Tensor,
    time: Tensor,
    condition: dict[str, Any],
) -> Tensor:
    """``call`` on as many rows at a time as the graph takes; the last call is filled up with its last row.

    Args:
        call: ``call(x, time, condition)`` returns a tensor of as many rows as x.
        signature: Says the batch size, and which inputs have rows.
        x: [B, *D].
        time: [B], [1] or [].
        condition: Tensors of B rows, and others.

    Returns:
        Rows in order, [B, ...]; a batch of no rows is returned as it is.
    """
    rows, batch = x.shape[0], signature.batch
    if batch is None or rows == batch or rows == 0:
        return x.clone() if rows == 0 else call(x, time, condition)
    timed = signature.time_shape == "batch"
    rowwise = {name for name, one in signature.conditions.items() if signature.has_rows(one)}
    parts = []
    for start in range(0, rows, batch):
        chosen = torch.arange(start, start + batch, device=x.device).clamp_(max=rows - 1)

        def take(path: str, leaf: Any, chosen: Tensor = chosen) -> Any:
            del path
            return leaf.index_select(0, chosen.to(leaf.device)) if isinstance(leaf, Tensor) and leaf.ndim else leaf

        given = {name: tree_map(take, leaf) if name in rowwise else leaf for name, leaf in condition.items()}
        part = call(take("", x), take("", time) if timed else time, given)
        parts.append(part[: rows - start])
    return torch.cat(parts)
