"""A model bound to the conditions of one run: the part that holds tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import ArgumentError, ShapeError
from .guidance import CONDITIONAL, UNCONDITIONAL
from .row_times import RowTimes, row_times
from .trees import root, stack_rows, stackable, tree_map

if TYPE_CHECKING:
    from .adapter import Model

Branches = tuple[str, ...]
Index: TypeAlias = Tensor | NDArray[np.int64] | Sequence[int]

KEPT_TIMES = 4096  # adaptive solvers never come back to a time: forget them all before they add up


class BoundModel:
    """What a run evaluates: a model, its conditions, and the tensors that need not be made at every step.

    Times are made once for each (time, rows), conditions are expanded, cast, moved and stacked once for each batch
    size, and the doubled input of guided steps has one buffer. So an instance belongs to one run, and one thread.

    Attributes:
        model: Where it came from.
        calls, rows: How often the network was called so far, and on how many rows in all.
    """

    def __init__(self, model: Model, condition: dict[str, Any], null: dict[str, Any] | None) -> None:
        self.model = model
        self.calls = self.rows = 0
        self._conditions: Mapping[str, dict[str, Any] | None] = {CONDITIONAL: condition, UNCONDITIONAL: null}
        self._prepared: dict[tuple[Branches, int, torch.device], dict[str, Any] | None] = {}
        self._stack: dict[Branches, bool] = {}
        self._times: dict[tuple[float, int, torch.device, torch.dtype], Tensor] = {}
        self._double: Tensor | None = None

    @property
    def conditions(self) -> Mapping[str, dict[str, Any] | None]:
        """What each branch is bound to; None where there is no such branch."""
        return self._conditions

    def evaluate(self, x: Tensor, t: float, branches: Branches = (CONDITIONAL,)) -> tuple[Tensor, ...]:
        """One raw output for each branch, cast back to the dtype of x if the network has its own.

        Args:
            x: The network's input, already scaled, shape [B, *D]. Not written to.
            t: Solver time in [0, 1].
            branches: "cond", "null" or both.

        Returns:
            One tensor a branch; halves of one output where both were rows of one call.

        Raises:
            ArgumentError: The branch "null" without a null condition; a time that the network's dtype cannot hold.
            ShapeError: A condition whose batch is neither 1 nor that of x; names it.
        """
        return self._evaluate(x, t, branches)

    def evaluate_rows(self, x: Tensor, times: RowTimes, branches: Branches = (CONDITIONAL,)) -> tuple[Tensor, ...]:
        """As :meth:`evaluate`, for rows with times of their own: one call, and the network is told [B] times.

        Args:
            x: The network's input, already scaled row by row, shape [B, *D]. Not written to.
            times: Solver times in [0, 1], [B], on the host: a list, a NumPy array or a CPU tensor.
            branches: "cond", "null" or both.

        Raises:
            ArgumentError: As :meth:`evaluate`; times that differ, for a network that takes one time for all rows.
            ShapeError: As :meth:`evaluate`; not one time a row.
        """
        told = row_times(times, x.shape[0])
        same = told.size > 0 and bool((told == told[0]).all())
        return self._evaluate(x, float(told[0]) if same else told, branches)

    def select(self, index: Index) -> BoundModel:
        """The model bound to rows ``index`` of the conditions, in that order and as often as they occur.

        Conditions of one row, numbers and shared tensors serve every row and stay as they are.

        Args:
            index: int64 [R], each in [0, B). On a GPU the range is not checked.

        Raises:
            ArgumentError: A row that a condition does not have; names the condition.
        """
        chosen = torch.as_tensor(index, dtype=torch.int64)
        last = int(chosen.max()) if chosen.is_cpu and chosen.numel() else 0
        if chosen.is_cpu and chosen.numel() and int(chosen.min()) < 0:
            raise ArgumentError("index", got=int(chosen.min()), expected="rows, counted from 0")

        def gather(path: str, leaf: Any) -> Any:
            if not isinstance(leaf, Tensor) or leaf.ndim == 0 or root(path) in self.model.shared or leaf.shape[0] == 1:
                return leaf
            if last >= leaf.shape[0]:
                raise ArgumentError(
                    "index", got=last, expected=f"rows of condition {path!r}, which has {leaf.shape[0]}"
                )
            return leaf.index_select(0, chosen.to(leaf.device))

        trees = [None if tree is None else tree_map(gather, tree) for tree in self._conditions.values()]
        other = BoundModel(self.model, trees[0] or {}, trees[1])
        other._stack = self._stack  # what fits into one call does so for any rows, and comparing may read from a device
        return other

    def check_rows(self, rows: int) -> None:
        """Refuse conditions that belong to neither ``rows`` rows nor to all.

        Raises:
            ShapeError: A condition whose batch is neither 1 nor ``rows``; names it.
        """
        for branch, tree in self._conditions.items():
            tree_map(lambda path, leaf, branch=branch: self._check_leaf(branch, path, leaf, rows), tree or {})

    def _check_leaf(self, branch: str, path: str, leaf: Any, rows: int) -> None:
        batched = isinstance(leaf, Tensor) and leaf.ndim > 0 and root(path) not in self.model.shared
        if batched and leaf.shape[0] not in (1, rows):
            hint = f"Name it in shared= if it has no batch dimension (shape {list(leaf.shape)})"
            got, expected = f"a batch of {leaf.shape[0]}", f"{rows} rows, as the state, or 1"
            raise ShapeError(f"condition {path!r} of branch {branch!r}", got=got, expected=expected, hint=hint)

    def _evaluate(self, x: Tensor, t: float | NDArray[np.float64], branches: Branches) -> tuple[Tensor, ...]:
        rows = x.shape[0]
        if len(branches) == 1:
            return (self._call(x, t, self._condition(branches, rows, x.device)),)
        joint = None if self.model.sequential else self._condition(branches, rows, x.device)
        if joint is None:
            return tuple(self._call(x, t, self._condition((b,), rows, x.device)) for b in branches)
        repeated = np.tile(t, len(branches)) if isinstance(t, np.ndarray) else t
        output = self._call(self._repeated(x, len(branches)), repeated, joint)
        if output.ndim == 0 or output.shape[0] != rows * len(branches):
            expected = f"{rows * len(branches)} rows, {rows} for each of {branches}"
            raise ShapeError("network output", got=list(output.shape), expected=expected)
        return tuple(output.narrow(0, i * rows, rows) for i in range(len(branches)))

    # --- the call ----------------------------------------------------------------------------------------------

    def _call(self, x: Tensor, t: float | NDArray[np.float64], condition: Any) -> Tensor:
        model, rows = self.model, x.shape[0]
        if isinstance(t, np.ndarray):
            time = self._time_per_row(t, x)
        else:
            key = (t, rows, x.device, x.dtype)
            time = self._times.get(key)
            if time is None:
                if len(self._times) >= KEPT_TIMES:
                    self._times.clear()
                time = self._times[key] = self._time(t, x)
        self.calls += 1
        self.rows += rows
        source = x if model.dtype is None else x.to(model.dtype)
        output = model.call(model.network, source, time, condition)
        if not isinstance(output, Tensor):
            hint = "Pass call=, a function of (network, x, time, condition) that returns the tensor"
            raise ArgumentError("network output", got=type(output).__name__, expected="a tensor", hint=hint)
        if model.split_variance:
            output = self._mean(output, x)
        return output if model.dtype is None else output.to(x.dtype)

    def _mean(self, output: Tensor, x: Tensor) -> Tensor:
        """The first C of 2C channels."""
        if output.ndim != x.ndim or output.shape[1] != 2 * x.shape[1]:
            expected = f"{2 * x.shape[1]} channels for the state {list(x.shape)}: a mean and a variance"
            hint = "Adapt the network with split_variance=False if it returns the mean alone"
            raise ShapeError("network output", got=list(output.shape), expected=expected, hint=hint)
        return output.narrow(1, 0, x.shape[1])

    def _time(self, t: float, x: Tensor) -> Tensor:
        """The network's time, computed in float64 and rounded once; checks x, as it sees every new batch size."""
        check_state(self.model, x)
        dtype = self._time_dtype(x)
        time = self.model.prediction.time(t)
        if not dtype.is_floating_point and time != round(time):
            raise not_whole(time, t, dtype)
        shape = {"batch": (x.shape[0],), "one": (1,), "scalar": ()}[self.model.time_shape]
        return torch.full(shape, time if dtype.is_floating_point else round(time), dtype=dtype, device=x.device)

    def _time_per_row(self, times: NDArray[np.float64], x: Tensor) -> Tensor:
        """The network's time of each row, [B]; computed in float64 once for each time that occurs, rounded once."""
        check_state(self.model, x)
        if self.model.time_shape != "batch":
            raise ArgumentError(
                "times",
                got="rows with times of their own",
                expected=f"one time for all: the network's time has the shape {self.model.time_shape!r}",
                hint="Adapt it with time_shape='batch' if it can take a time for each row",
            )
        dtype = self._time_dtype(x)
        distinct, which = np.unique(times, return_inverse=True)
        told = self.model.prediction.times(distinct)
        if not dtype.is_floating_point and (told != np.round(told)).any():
            worst = int(np.argmax(told != np.round(told)))
            raise not_whole(float(told[worst]), float(distinct[worst]), dtype)
        return torch.from_numpy(told[which]).to(dtype).to(x.device)

    def _time_dtype(self, x: Tensor) -> torch.dtype:
        return self.model.time_dtype or (torch.float64 if x.dtype == torch.float64 else torch.float32)

    def _repeated(self, x: Tensor, times: int) -> Tensor:
        """Rows of x, ``times`` over, in a buffer that the next step reuses unless a graph may need this one."""
        if torch.is_grad_enabled():
            return torch.cat([x] * times)
        double, shape = self._double, (times * x.shape[0], *x.shape[1:])
        fits = double is not None and double.shape == shape and double.dtype == x.dtype and double.device == x.device
        if double is None or not fits or double.is_inference() != torch.is_inference_mode_enabled():
            double = self._double = x.new_empty(shape)
        double.view(times, *x.shape).copy_(x)
        return double

    # --- conditions --------------------------------------------------------------------------------------------

    def _condition(self, branches: Branches, rows: int, device: torch.device) -> dict[str, Any] | None:
        """Arguments for the branches' rows; None if the branches do not fit into one call."""
        key = (branches, rows, device)
        if key not in self._prepared:
            self._prepared[key] = self._prepare(branches, rows, device)
        return self._prepared[key]

    def _prepare(self, branches: Branches, rows: int, device: torch.device) -> dict[str, Any] | None:
        if len(branches) == 1:
            return self._rows(branches[0], rows, device)
        first, *others = (self._condition((branch,), rows, device) for branch in branches)
        shared = self.model.shared
        if branches not in self._stack:
            self._stack[branches] = all(stackable(first, other, shared) for other in others)
        if not self._stack[branches]:
            return None
        for other in others:
            first = stack_rows(first, other, shared)
        return first

    def _rows(self, branch: str, rows: int, device: torch.device) -> dict[str, Any]:
        """The condition of one branch with its tensors on the device, in the network's dtype, and of ``rows`` rows."""
        if branch not in self._conditions:
            raise ArgumentError("branch", got=repr(branch), expected="one of " + ", ".join(self._conditions))
        tree, model = self._conditions[branch], self.model
        if tree is None:
            raise missing_null()

        def place(path: str, leaf: Any) -> Any:
            if not isinstance(leaf, Tensor):
                return leaf
            if leaf.ndim == 0 or root(path) in model.shared:  # position ids: 257 is 256 in bfloat16, so no cast
                return leaf.to(device=device)
            dtype = model.dtype if leaf.is_floating_point() and model.dtype is not None else leaf.dtype
            self._check_leaf(branch, path, leaf, rows)
            leaf = leaf.to(device=device, dtype=dtype)
            return leaf.expand(rows, *leaf.shape[1:])

        return tree_map(place, tree)


def missing_null(weight: object = None) -> ArgumentError:
    """The error of guidance without an unconditional branch."""
    said = "guidance" if weight is None or callable(weight) else f"guidance weight {weight}"
    hint = "Pass null= (this adapter cannot derive one) or use weight 1"
    return ArgumentError(f"{said} needs an unconditional prediction", hint=hint)


def not_whole(time: float, t: float, dtype: torch.dtype) -> ArgumentError:
    """The error of a time that an integer dtype cannot hold."""
    hint = "Put the grid on the trained levels, or use IndexClock(quantise=True)"
    return ArgumentError("network time", got=f"{time} at t = {t}", expected=f"an integer, for {dtype}", hint=hint)


def check_state(model: Model, x: Tensor) -> None:
    """Refuse a state that the network cannot take, in words.

    Raises:
        ShapeError: Dimension 1 is not the model's number of channels.
    """
    if model.channels is not None and (x.ndim < 2 or x.shape[1] != model.channels):
        expected = f"[B, {model.channels}, ...] (the network was adapted with channels={model.channels})"
        hint = "Try x[None]" if x.ndim >= 1 and x.shape[0] == model.channels else None
        raise ShapeError("x", got=f"{x.dtype} {list(x.shape)}", expected=expected, hint=hint)
