"""What a run evaluates: a model together with the conditions and the state of that one run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..errors import ArgumentError
from .row_times import RowTimes, TokenTimes, row_times, token_times

if TYPE_CHECKING:
    from .adapter import Model

VARIANCE = "variance"
"""Asked for after the branches, it is answered with what the network says of the variance beside its prediction."""

Branches = tuple[str, ...]
Index: TypeAlias = Tensor | NDArray[np.int64] | Sequence[int]
Times: TypeAlias = float | NDArray[np.float64]
"""One time for all rows, or [B] of them in float64."""


class Bound(ABC):
    """A model bound to one run; what it remembers is dropped with it, and no two runs share it.

    A kind of model says how it answers in :meth:`answer`; fixed grids, adaptive solvers and searches all come there.
    """

    @property
    @abstractmethod
    def model(self) -> Model:
        """Where it came from."""

    @property
    @abstractmethod
    def calls(self) -> int:
        """How often a network was called so far."""

    @property
    @abstractmethod
    def rows(self) -> int:
        """On how many rows in all."""

    @property
    @abstractmethod
    def conditions(self) -> Mapping[str, dict[str, Any] | None]:
        """What each branch is bound to; None where there is no such branch."""

    @abstractmethod
    def answer(self, x: Tensor, t: Times, branches: Branches) -> tuple[Tensor, ...]:
        """One raw output for each branch; see :meth:`evaluate` and :meth:`evaluate_rows`."""

    @abstractmethod
    def select(self, index: Index) -> Bound:
        """The model bound to rows ``index`` of the conditions, in that order and as often as they occur.

        Args:
            index: int64 [R], each in [0, B). On a GPU the range is not checked.

        Raises:
            ArgumentError: A row that a condition does not have; names the condition.
        """

    @abstractmethod
    def check_rows(self, rows: int) -> None:
        """Refuse conditions that belong to neither ``rows`` rows nor to all.

        Raises:
            ShapeError: A condition whose batch is neither 1 nor ``rows``; names it.
        """

    def refine(self, x: Tensor, t: float, branches: Branches, base: Tensor) -> tuple[Tensor, ...]:
        """How the velocity ``base`` has changed, for each branch of a refiner; see :class:`RefinedModel`.

        Raises:
            ArgumentError: The model has none.
        """
        del x, base
        got, hint = f"{branches[0]!r} at t = {t:.4g}", "Wrap it: RefinedModel.around(model, refiner=...)"
        raise ArgumentError("branch", got=got, expected="a branch of the model, which has no refiner", hint=hint)

    def evaluate(
        self, x: Tensor, t: float, branches: Branches = ("cond",), base: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """One raw output for each branch, cast back to the dtype of x if the network has its own.

        Args:
            x: The network's input, already scaled, shape [B, *D]. Not written to.
            t: Solver time in [0, 1].
            branches: Names of guidance branches: "cond", "null", and those that the model was given; last, if at all,
                "variance", for the half of a ``split_variance`` network's output that is otherwise dropped.
            base: An earlier velocity, shape of x, whose change the branches "refiner" and "refiner.null" say.

        Returns:
            One tensor a branch; parts of one output where several were rows of one call.

        Raises:
            ArgumentError: A branch that has no condition; a time that the network's dtype cannot hold; a variance of
                what has none.
            ShapeError: A condition whose batch is neither 1 nor that of x; names it.
        """
        if base is not None:
            return self.refine(x, t, branches, base)
        if branches[-1:] == (VARIANCE,):
            return self.answer_variance(x, t, branches[:-1])
        return self.answer(x, t, branches)

    def evaluate_rows(self, x: Tensor, times: RowTimes, branches: Branches = ("cond",)) -> tuple[Tensor, ...]:
        """As :meth:`evaluate`, for rows with times of their own: one call, and the network is told [B] times.

        Args:
            x: The network's input, already scaled row by row, shape [B, *D]. Not written to.
            times: Solver times in [0, 1], [B], on the host: a list, a NumPy array or a CPU tensor.
            branches: As in :meth:`evaluate`.

        Raises:
            ArgumentError: As :meth:`evaluate`; times that differ, for a network that takes one time for all rows.
            ShapeError: As :meth:`evaluate`; not one time a row.
        """
        told = row_times(times, x.shape[0])
        same = told.size > 0 and bool((told == told[0]).all())
        return self.answer(x, float(told[0]) if same else told, branches)

    def evaluate_tokens(self, x: Tensor, times: TokenTimes, branches: Branches = ("cond",)) -> tuple[Tensor, ...]:
        """As :meth:`evaluate`, for tokens with times of their own: the network is told [B, N] times.

        Args:
            x: The network's input, already scaled token by token, shape [B, *D]. Not written to.
            times: Solver times in [0, 1] on the host, [N] for all rows or [B, N]; which part of the state a token is
                is the network's to say.
            branches: As in :meth:`evaluate`.

        Raises:
            ArgumentError: As :meth:`evaluate`; a network, or a wrapper, that takes one time for all tokens.
            ShapeError: As :meth:`evaluate`; times of another shape.
        """
        told = token_times(times, x.shape[0])
        same = told.size > 0 and bool((told == told[0, 0]).all())
        if same:
            return self.answer(x, float(told[0, 0]), branches)
        return self.answer_tokens(x, told, branches)

    def answer_variance(self, x: Tensor, t: Times, branches: Branches) -> tuple[Tensor, ...]:
        """One raw output for each branch, and a variance; only bound networks have it, as a wrapper would change it."""
        del x, t, branches
        raise no_variance(type(self.model).__name__)

    def answer_tokens(self, x: Tensor, t: NDArray[np.float64], branches: Branches) -> tuple[Tensor, ...]:
        """One raw output for each branch at times [B, N]; only bound networks have it."""
        del x, t, branches
        raise no_token_times(type(self.model).__name__)


def no_variance(what: str) -> ArgumentError:
    """The error of what says nothing of the variance."""
    return ArgumentError(
        "variance",
        got=f"a solver that asks {what} for it",
        expected="a network that returns 2C channels, adapted with split_variance=True, and nothing around it",
        hint="Use one of the fixed variances: pf.solver('ddpm', variance='fixed_small')",
    )


def no_token_times(what: str) -> ArgumentError:
    """The error of what takes one time for all tokens."""
    return ArgumentError(
        "times",
        got="tokens with times of their own",
        expected=f"one time for all of them, which is what {what} takes",
        hint="time_shape='token' if the network can take [B, N]; models.regional.RegionAdaptive needs one time only",
    )
