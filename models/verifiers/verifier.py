"""Verifier: what scores finished samples; and the one place where what it returns is checked."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor

from ...errors import ArgumentError, DtypeError, NotFiniteError, PushforwardError, ShapeError
from .context import check_context, take_rows
from .describe import describe

Where: TypeAlias = str | Callable[[int | None], str]


class Verifier(Protocol):
    """A reward: one number a sample, the higher the better. Any function of this signature is one.

    It is called as ``reward(x, context)``: clean samples x [B, *D] (finished ones, or estimates D of them), and a tree
    of whatever else it needs, or None. Entries of the context with a batch have the rows of x, or one row for all
    (:func:`check_context`). It returns B real numbers, on any device: a tensor [B], a NumPy array or a list. A row's
    number must depend on that row alone, and -inf forbids a sample. x is not to be written to.

    A verifier may carry these attributes; a plain function without them is taken for the default:

    - ``differentiable``: True if gradients flow from x to the result, False if not, None (default) if nobody knows.
    - ``name``: How tables and logs call it; by default the function's name or the object's ``repr``.
    - ``rowwise`` (True): False if a row's number depends on the other rows, as ranks do.
    - ``higher_is_better`` (True): False marks a loss, which :func:`evaluate` refuses until :func:`lower_is_better`
      turns it round.
    """

    def __call__(self, x: Tensor, context: Any, /) -> Any:
        """Scores [B] of samples x [B, *D]."""
        ...


def name_of(reward: Any) -> str:
    """The verifier's ``name``, or its function's name, or its ``repr``.

    Example:
        >>> name_of(len)
        'len'
    """
    name = getattr(reward, "name", None)
    return name if isinstance(name, str) else describe(reward)


def is_differentiable(*rewards: Any) -> bool | None:
    """What is known of a sum of these: False if one is not, True if all are, else None."""
    known = [getattr(reward, "differentiable", None) for reward in rewards]
    if False in known:
        return False
    return None if None in known else True


def is_rowwise(*rewards: Any) -> bool:
    """Whether every one of these scores a row by that row alone."""
    return all(getattr(reward, "rowwise", True) for reward in rewards)


def evaluate(reward: Verifier, x: Tensor, context: Any = None, *, where: Where = "") -> Tensor:
    """The rewards of a batch, checked, without a graph.

    Args:
        reward: A verifier. Not called for a batch of no rows.
        x: Clean samples, [B, *D].
        context: For the reward; entries with a batch have B rows or 1.
        where: What errors begin with: "step 7", or a function that names a row, ``where(3) == "request 1, slot 0"``;
            it is asked about None where all rows are meant.

    Returns:
        float64 [B] on the CPU: finite, or -inf for a sample that the reward forbids. One device read.

    Raises:
        ShapeError: The reward returned another shape than [B]; a context of other rows.
        DtypeError: It returned complex numbers or something that is no number.
        NotFiniteError: It returned NaN or +inf: names the row and says how many there are.
        ArgumentError: It is not callable, or says that lower is better.

    Example:
        >>> evaluate(lambda x, context: -x.square().sum(1), torch.tensor([[1.0, 2.0], [0.0, 3.0]]))
        tensor([-5., -9.], dtype=torch.float64)
    """
    check_call(reward, x, context)
    if x.shape[0] == 0:
        return torch.empty(0, dtype=torch.float64)
    with torch.no_grad():
        values = as_rows(reward, reward(x, context), x.shape[0], where)
    return check_values(reward, values.detach().to("cpu", torch.float64), x, context, where)


def evaluate_with_graph(reward: Verifier, x: Tensor, context: Any = None, *, where: Where = "") -> Tensor:
    """As :func:`evaluate`, for gradients: rewards with the graph that leads back to x.

    The graph is recorded whatever the mode of the caller.

    Args:
        reward: A differentiable verifier.
        x: Clean samples [B, *D] that require a gradient.
        context: For the reward.
        where: What errors begin with.

    Returns:
        [B] on the device of x, in the reward's dtype, or float32 if that is shorter.

    Raises:
        ArgumentError: The reward is not differentiable: it says so, or it returned numbers without a graph; x requires
            no gradient; inference mode.
        ShapeError, DtypeError, NotFiniteError: As :func:`evaluate`.

    Example:
        >>> x = torch.tensor([[1.0, 2.0]], requires_grad=True)
        >>> torch.autograd.grad(evaluate_with_graph(lambda x, context: -x.square().sum(1), x).sum(), x)
        (tensor([[-2., -4.]]),)
    """
    check_call(reward, x, context)
    if torch.is_inference_mode_enabled() or not x.requires_grad:
        got = "inference mode" if torch.is_inference_mode_enabled() else "a tensor that requires no gradient"
        raise ArgumentError("x", got=got, expected="a tensor with requires_grad, outside inference mode")
    if getattr(reward, "differentiable", None) is False:
        raise _no_graph(f"{_at(where)}reward {name_of(reward)} says that it is not differentiable")
    if x.shape[0] == 0:
        return x.flatten(1).sum(1) if x.ndim > 1 else x * 1
    with torch.enable_grad():
        returned = reward(x, context)
        values = as_rows(reward, returned, x.shape[0], where)
        if not values.requires_grad:
            raise _no_graph(f"{_at(where)}reward {name_of(reward)} returned numbers without a graph")
        wide = torch.promote_types(values.dtype, torch.float32)
        values = values.to(x.device, wide)
    check_values(reward, values.detach().to("cpu", torch.float64), x, context, where)
    return values


def scores(reward: Verifier, x: Tensor, context: Any) -> Tensor:
    """What a combinator asks of its parts: float64 [B] on the device of x, with the graph if there is one.

    NaN and infinities pass: :func:`evaluate` sees them in the end, knows their row, and finds the part.

    Raises:
        ShapeError, DtypeError: As :func:`evaluate`, naming the part.
    """
    return as_rows(reward, reward(x, context), x.shape[0], "").to(x.device, torch.float64)


def culprit(reward: Verifier, x: Tensor, context: Any, row: int) -> Verifier:
    """The innermost part that is NaN or +inf at a row, found by asking the parts again."""
    one, its = x[row : row + 1].detach(), take_rows(context, [row], x.shape[0])
    with torch.no_grad():
        for part in getattr(reward, "parts", ()):
            value = as_rows(part, part(one, its), 1, "").double()
            if bool(value.isnan() | (value == math.inf)):
                return culprit(part, one, its, 0)
    return reward


def check_reward(reward: Any, argument: str = "reward") -> None:
    """Refuse what is no reward.

    Raises:
        ArgumentError: It is not callable, or says that lower is better.
    """
    if not callable(reward):
        raise ArgumentError(argument, got=type(reward).__name__, expected="a function of (x, context)")
    if getattr(reward, "higher_is_better", True) is False:
        hint = "Wrap it: lower_is_better(reward)"
        raise ArgumentError(
            f"{argument} {name_of(reward)}", got="lower is better", expected="higher is better", hint=hint
        )


def check_call(reward: Any, x: Any, context: Any) -> None:
    """Refuse what cannot be scored.

    Raises:
        ArgumentError: The reward is not callable or a loss; x is no tensor.
        ShapeError: x has no batch; the context has other rows.
    """
    check_reward(reward)
    if not isinstance(x, Tensor):
        raise ArgumentError("x", got=type(x).__name__, expected="a tensor [B, *D]")
    if x.ndim == 0:
        raise ShapeError("x", got="a tensor without dimensions", expected="[B, *D]")
    check_context(context, x.shape[0])


def as_rows(reward: Any, returned: Any, rows: int, where: Where) -> Tensor:
    """What a reward returned as a real tensor [rows], where it is, with its graph."""
    if isinstance(returned, list | tuple):
        returned = _listed(reward, returned, where)
    if isinstance(returned, np.ndarray):
        if returned.dtype.kind not in "fiub":
            raise _not_numbers(reward, f"NumPy {returned.dtype}", where)
        returned = torch.from_numpy(np.ascontiguousarray(returned, dtype=np.float64))
    if not isinstance(returned, Tensor):
        raise _not_numbers(reward, type(returned).__name__, where)
    if returned.is_complex():
        raise _not_numbers(reward, str(returned.dtype), where)
    if tuple(returned.shape) != (rows,):
        said = f"reward returned shape {list(returned.shape)} for {rows} rows; expected one float per row"
        hint = f"The reward is {name_of(reward)}"
        if returned.numel() == rows and rows:
            hint += "; flatten its result"
        raise ShapeError(_at(where) + said, hint=hint)
    return returned


def check_values(reward: Any, values: Tensor, x: Tensor, context: Any, where: Where) -> Tensor:
    """The values, float64 [B] on the CPU, if none is NaN or +inf."""
    if not float(values.amax()) < math.inf:  # one pass; NaN comes through
        bad = values.isnan() | (values == math.inf)
        row, count = int(bad.nonzero()[0]), int(bad.sum())
        kind = "NaN" if bool(values[row].isnan()) else "+inf"
        others = f" ({count} rows are NaN or +inf)" if count > 1 else ""
        part = culprit(reward, x, context, row)
        raise NotFiniteError(
            f"{_at(where, row)}reward {name_of(reward)}",
            got=f"{kind} in row {row} of {len(values)}{others}",
            expected="finite numbers, or -inf for a forbidden sample",
            hint=None if part is reward else f"It comes from {name_of(part)}",
        )
    return values


def _listed(reward: Any, returned: list[Any] | tuple[Any, ...], where: Where) -> Tensor:
    if any(isinstance(value, Tensor) for value in returned):
        if not all(isinstance(value, Tensor) and value.ndim == 0 for value in returned):
            raise _not_numbers(reward, "a list that mixes tensors with other things, or tensors of several", where)
        return torch.stack(list(returned))
    for value in returned:
        if not isinstance(value, numbers.Real):
            raise _not_numbers(reward, f"a list with {type(value).__name__}", where)
    return torch.tensor([float(value) for value in returned], dtype=torch.float64)


def _not_numbers(reward: Any, got: str, where: Where) -> PushforwardError:
    expected = "real numbers: a tensor [B], a NumPy array or a list"
    return DtypeError(f"{_at(where)}reward {name_of(reward)}", got=got, expected=expected)


def _no_graph(said: str) -> ArgumentError:
    return ArgumentError(said, hint="TDS needs a differentiable reward; use SMC with potentials")


def _at(where: Where, row: int | None = None) -> str:
    """How a message begins: "step 7: "."""
    said = where if isinstance(where, str) else where(row)
    return f"{said}: " if said else ""
