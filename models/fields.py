"""A model as a field of state and time, where every sample may have a time of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .. import kernels
from ..errors import ShapeError, UnknownNameError
from .bound import Bound, Index
from .branch_weights import CONDITIONAL, BranchWeights
from .guidance import Guidance
from .interpolants import SLACK
from .predictions import QUANTITIES
from .row_times import RowTimes, row_times

if TYPE_CHECKING:
    from .adapter import Model
    from .two_heads import BoundHeads, TwoSidedModel, TwoSidedPrediction


class Terms(NamedTuple):
    """The field at R times: ``state * x + sum_j outputs[j] * o_j(scale * x)``, each number a column [R]."""

    scale: NDArray[np.float64]
    state: NDArray[np.float64]
    outputs: dict[str, NDArray[np.float64]]


@dataclass
class Counts:
    """What a field and those made of its rows have cost so far."""

    calls: int = 0
    nfe: int = 0
    passes: int = 0


class ModelField:
    r"""``field(x, t)``: a quantity of a model, for solvers that choose their own times, sample by sample.

    .. math:: f(x, t) = a(t)\, x + \sum_j w_j(t)\, o_j(c(t)\, x, t)

    with the prediction's two numbers, its input scale c and the weights of the guidance branches, in float64 on the
    host, once for each time that occurs, and applied as columns: one call of the network, and one pass over memory if
    its output is not the field already. Where all times agree the network is called as a fixed grid calls it.

    The network must take a time for each row (``time_shape="batch"``) unless all times agree. A guidance weight is
    that of the evaluation's own time; where the weights of some rows need both branches, all rows pay for both.

    Args:
        model: A :class:`Model`, or one of a two-sided path.
        condition, null: Keyword arguments of the network for the two branches, as in :meth:`Model.bind`.
        guidance: Weight of classifier-free guidance, or a :class:`Guidance`.
        quantity: "velocity", "denoised", "noise" or "score".

    Attributes:
        model, guidance, quantity: As given.

    Raises:
        UnknownNameError: No such quantity.
        ArgumentError: What :meth:`Model.bind` refuses: guidance without a null condition, for one.

    Example:
        >>> from pushforward.models import GaussianOracle
        >>> field = ModelField(GaussianOracle([0.7], [[0.09]]).model("noise"))
        >>> x = torch.tensor([[0.5], [1.0]], dtype=torch.float64)
        >>> field(x, [0.25, 0.5]).shape, field.rows([1])(x[1:], [0.5]).shape, field.calls, field.nfe
        (torch.Size([2, 1]), torch.Size([1, 1]), 2, 3)
    """

    def __init__(
        self,
        model: Model | TwoSidedModel,
        condition: Mapping[str, Any] | None = None,
        null: Mapping[str, Any] | None = None,
        guidance: float | BranchWeights = 1.0,
        quantity: str = "velocity",
    ) -> None:
        if quantity not in QUANTITIES:
            raise UnknownNameError("quantity", got=repr(quantity), expected="one of " + ", ".join(QUANTITIES))
        self.model, self.quantity = model, quantity
        self.guidance = guidance if isinstance(guidance, BranchWeights) else Guidance(guidance)
        self._bound: Bound | BoundHeads = model.bind(condition, null, None if guidance == 1 else guidance)
        self._counts = Counts()

    @property
    def calls(self) -> int:
        """Calls of the network so far, those of :meth:`rows` included; branches that share a call are one."""
        return self._counts.calls

    @property
    def nfe(self) -> int:
        """Evaluations so far, summed over samples; a guided pair counts as one."""
        return self._counts.nfe

    @property
    def forward_passes(self) -> int:
        """Rows that the network has seen so far; a guided pair counts as two."""
        return self._counts.passes

    def rows(self, index: Index) -> ModelField:
        """The field of samples ``index`` alone, with their conditions; it adds to the same counts.

        Args:
            index: int64 [R], rows of the batch that this field is for.

        Raises:
            ArgumentError: A row that a condition does not have.
        """
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other._bound = self._bound.select(index)
        return other

    def __call__(self, x: Tensor, times: float | RowTimes) -> Tensor:
        """The quantity at ``(x, times)``, in the shape and dtype of x.

        Args:
            x: State, [B, *D]; not written to.
            times: In [0, 1] on the host: a number, or one for each row, [B], as NumPy array, list or CPU tensor.

        Returns:
            A tensor [B, *D], differentiable in x and the network's parameters; where the output is the field itself
            (a velocity network), what the network returned.

        Raises:
            SingularTimeError: The network does not determine the quantity at one of the times.
            ArgumentError: A time outside [0, 1] or on a device; times that differ for a network of one time.
            ShapeError: Not one time a row; an output that is not like the state.
        """
        told = np.full(x.shape[0], float(times)) if isinstance(times, int | float) else row_times(times, x.shape[0])
        # A sum of steps may end an ulp past an end of the path, which is that end.
        told = np.where((told < 0) & (told >= -SLACK), 0.0, np.where((told > 1) & (told <= 1 + SLACK), 1.0, told))
        distinct, which = np.unique(told, return_inverse=True)
        scale, state, outputs = self.terms(distinct)
        source = x if (scale == 1).all() else weighted([x], scale[:, None], which)
        found = self._outputs(source, told, tuple(outputs))
        if len(found) == 1 and not state.any() and (next(iter(outputs.values())) == 1).all():
            aliased = found[0].data_ptr() == x.data_ptr() and x.numel() > 0  # a network that returns its input
            return found[0].clone() if aliased else found[0]
        inputs, columns = [x, *found], [state, *outputs.values()]
        if not state.any():
            del inputs[0], columns[0]
        return weighted(inputs, np.stack(columns, axis=1), which)

    def terms(self, times: NDArray[np.float64]) -> Terms:
        """The numbers of the field at each of the times, a column each.

        Raises:
            SingularTimeError: The network does not determine the quantity at one of the times.
        """
        prediction = self.model.prediction
        ones = np.ones(len(times))
        if prediction.heads:
            read = cast("TwoSidedPrediction", prediction)
            table = np.array([read.quantity(self.quantity, t).outputs for t in times.tolist()])
            columns = dict(zip(read.heads, table.reshape(-1, len(read.heads)).T, strict=True))
            needed = {head: column for head, column in columns.items() if column.any()}
            return Terms(ones, 0 * ones, needed or columns)
        state, output = prediction.columns(self.quantity, times)
        shares = self.guidance.columns_at(times, self.model.interpolant) or {CONDITIONAL: ones}
        return Terms(
            prediction.input_scales(times), state, {branch: share * output for branch, share in shares.items()}
        )

    def _outputs(self, source: Tensor, times: NDArray[np.float64], branches: tuple[str, ...]) -> tuple[Tensor, ...]:
        """The network at the rows' times, counted and checked."""
        before = self._bound.calls
        outputs = self._bound.evaluate_rows(source, times, branches)
        self._counts.calls += self._bound.calls - before
        self._counts.nfe += source.shape[0]
        self._counts.passes += source.shape[0] * len(branches)
        for output in outputs:
            if output.shape != source.shape or output.dtype != source.dtype or output.device != source.device:
                got, expected = (f"{o.dtype} {list(o.shape)} on {o.device}" for o in (output, source))
                hint = getattr(self.model, "output_hint", None)
                raise ShapeError("network output", got=got, expected=f"{expected}, as its input", hint=hint)
        return outputs


def weighted(inputs: list[Tensor], table: NDArray[np.float64], which: NDArray[np.int64]) -> Tensor:
    """``sum_k table[which[b], k] * inputs[k][b]``: rows of one table, a number each if it has a single row."""
    weights = table[0].tolist() if len(table) == 1 else torch.from_numpy(table[which])
    return cast(Tensor, kernels.combine(inputs, weights))
