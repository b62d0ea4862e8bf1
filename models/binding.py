"""A model bound to the conditions of one run: the part that holds tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import ArgumentError, ShapeError
from .bound import Bound, Branches, Index, Times, no_token_times, no_variance
from .guidance import CONDITIONAL, UNCONDITIONAL
from .trees import root, stack_rows, stackable, tree_map

if TYPE_CHECKING:
    from .adapter import Model

KEPT_TIMES = 4096  # adaptive solvers never come back to a time: forget them all before they add up


class BoundModel(Bound):
    """A network and its conditions, and the tensors that need not be made at every step.

    Times are made once for each (time, rows), conditions are expanded, cast, moved and stacked once for each batch
    size, and the doubled input of guided steps has one buffer. So an instance belongs to one run, and one thread.

    Args:
        model: Where it came from.
        conditions: The network's keyword arguments for each branch; None for one that has none.
    """

    def __init__(self, model: Model, conditions: Mapping[str, dict[str, Any] | None]) -> None:
        self._model = model
        self._calls = self._rows_seen = 0
        self._conditions = conditions
        self._prepared: dict[tuple[Branches, int, torch.device], dict[str, Any] | None] = {}
        self._stack: dict[Branches, bool] = {}
        self._times: dict[tuple[float, int, torch.device, torch.dtype], Tensor] = {}
        self._double: Tensor | None = None

    @property
    def model(self) -> Model:
        """Where it came from."""
        return self._model

    @property
    def calls(self) -> int:
        """How often the network was called so far."""
        return self._calls

    @property
    def rows(self) -> int:
        """On how many rows in all."""
        return self._rows_seen

    @property
    def conditions(self) -> Mapping[str, dict[str, Any] | None]:
        """What each branch is bound to; None where there is no such branch."""
        return self._conditions

    def select(self, index: Index) -> BoundModel:
        """See :meth:`Bound.select`. Conditions of one row, numbers and shared tensors serve every row and stay."""
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

        trees = {branch: None if tree is None else tree_map(gather, tree) for branch, tree in self._conditions.items()}
        other = BoundModel(self.model, trees)
        other._stack = self._stack  # what fits into one call does so for any rows, and comparing may read from a device
        return other

    def check_rows(self, rows: int) -> None:
        """See :meth:`Bound.check_rows`."""
        for branch, tree in self._conditions.items():
            tree_map(lambda path, leaf, branch=branch: self._check_leaf(branch, path, leaf, rows), tree or {})

    def _check_leaf(self, branch: str, path: str, leaf: Any, rows: int) -> None:
        batched = isinstance(leaf, Tensor) and leaf.ndim > 0 and root(path) not in self.model.shared
        if batched and leaf.shape[0] not in (1, rows):
            hint = f"Name it in shared= if it has no batch dimension (shape {list(leaf.shape)})"
            got, expected = f"a batch of {leaf.shape[0]}", f"{rows} rows, as the state, or 1"
            raise ShapeError(f"condition {path!r} of branch {branch!r}", got=got, expected=expected, hint=hint)

    def answer(self, x: Tensor, t: Times, branches: Branches) -> tuple[Tensor, ...]:
        """One output a branch: rows of one call where the conditions allow it."""
        return self._means(self._outputs(x, t, branches), x)

    def answer_variance(self, x: Tensor, t: Times, branches: Branches) -> tuple[Tensor, ...]:
        """As :meth:`answer`, and the other half of the output: of the conditional branch where that is asked."""
        if not self.model.split_variance:
            raise no_variance("a network of one output")
        outputs = self._outputs(x, t, branches)
        of = outputs[branches.index(CONDITIONAL) if CONDITIONAL in branches else 0]
        return (*self._means(outputs, x), of.narrow(1, x.shape[1], x.shape[1]))

    def _outputs(self, x: Tensor, t: Times, branches: Branches) -> tuple[Tensor, ...]:
        """What the network returns for each branch, a variance included."""
        rows = x.shape[0]
        if len(branches) == 1:
            return (self._call(x, t, self._condition(branches, rows, x.device)),)
        joint = None if self.model.sequential else self._condition(branches, rows, x.device)
        if joint is None:
            return tuple(self._call(x, t, self._condition((b,), rows, x.device)) for b in branches)
        return self._joint(x, t, branches, joint)

    def answer_with(
        self, x: Tensor, t: Times, branches: Branches, fresh: Mapping[str, Sequence[Tensor]]
    ) -> tuple[Tensor, ...]:
        """As :meth:`answer`, with further arguments of the network that belong to this evaluation alone.

        Args:
            x, t, branches: As there.
            fresh: For each key one tensor a branch, with the rows of x.
        """
        rows = x.shape[0]
        cast = {key: [self._cast(value) for value in values] for key, values in fresh.items()}
        if len(branches) > 1 and not self.model.sequential:
            joint = self._condition(branches, rows, x.device)
            if joint is not None:
                stacked = {key: torch.cat(values) for key, values in cast.items()}
                return self._means(self._joint(x, t, branches, {**joint, **stacked}), x)
        own = [self._condition((branch,), rows, x.device) or {} for branch in branches]
        given = [{**condition, **{key: cast[key][i] for key in cast}} for i, condition in enumerate(own)]
        return self._means(tuple(self._call(x, t, condition) for condition in given), x)

    def answer_tokens(self, x: Tensor, t: NDArray[np.float64], branches: Branches) -> tuple[Tensor, ...]:
        """As :meth:`answer`, at times [B, N]."""
        if self.model.time_shape != "token":
            raise no_token_times(f"a network adapted with time_shape={self.model.time_shape!r}")
        return self.answer(x, t, branches)

    # --- the call ----------------------------------------------------------------------------------------------

    def _joint(self, x: Tensor, t: Times, branches: Branches, joint: Any) -> tuple[Tensor, ...]:
        """One call with the rows of all branches."""
        rows = x.shape[0]
        repeated = np.concatenate([t] * len(branches)) if isinstance(t, np.ndarray) else t
        output = self._call(self._repeated(x, len(branches)), repeated, joint)
        if output.ndim == 0 or output.shape[0] != rows * len(branches):
            expected = f"{rows * len(branches)} rows, {rows} for each of {branches}"
            raise ShapeError("network output", got=list(output.shape), expected=expected)
        return tuple(output.narrow(0, i * rows, rows) for i in range(len(branches)))

    def _call(self, x: Tensor, t: Times, condition: Any) -> Tensor:
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
        self._calls += 1
        self._rows_seen += rows
        source = x if model.dtype is None else x.to(model.dtype)
        output = model.call(model.network, source, time, condition)
        if not isinstance(output, Tensor):
            hint = "Pass call=, a function of (network, x, time, condition) that returns the tensor"
            raise ArgumentError("network output", got=type(output).__name__, expected="a tensor", hint=hint)
        return output if model.dtype is None else output.to(x.dtype)

    def _cast(self, value: Tensor) -> Tensor:
        """To the network's dtype, as conditions are."""
        dtype = self.model.dtype if value.is_floating_point() else None
        return value if dtype is None else value.to(dtype)

    def _means(self, outputs: tuple[Tensor, ...], x: Tensor) -> tuple[Tensor, ...]:
        """The outputs without a variance."""
        return tuple(self._mean(output, x) for output in outputs) if self.model.split_variance else outputs

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
        shape = {"one": (1,), "scalar": ()}.get(self.model.time_shape, (x.shape[0],))
        return torch.full(shape, time if dtype.is_floating_point else round(time), dtype=dtype, device=x.device)

    def _time_per_row(self, times: NDArray[np.float64], x: Tensor) -> Tensor:
        """The network's times of rows [B] or tokens [B, N]: in float64 once for each time that occurs, rounded once."""
        check_state(self.model, x)
        if self.model.time_shape not in ("batch", "token"):
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
        return torch.from_numpy(told[which].reshape(times.shape)).to(dtype).to(x.device)

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
            raise missing_branch(branch)

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


def missing_branch(branch: str, weight: object = None) -> ArgumentError:
    """The error of a branch that has no condition."""
    if branch == UNCONDITIONAL:
        return missing_null(weight)
    hint = "Model.with_branches(name={...}) adds one, composed(model, name=other) another network"
    return ArgumentError("branch", got=repr(branch), expected="one that the model has", hint=hint)


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
