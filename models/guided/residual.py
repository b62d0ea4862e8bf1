"""Residual guidance: away from a clean image that is known instead of from a branch that is evaluated."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import ShapeError, SingularTimeError
from ..adapter import Model
from ..bound import Bound, Branches, Index, Times
from ..branch_weights import CONDITIONAL, UNCONDITIONAL, BranchWeights, finite
from ..capabilities import Remembers
from ..guidance import Guidance
from ..spaces import Scalar, combined, on_device, read_as
from ..wrapping import WrappedModel
from .own_weight import BoundToOwnWeight, check_no_other_weight


@dataclass(frozen=True, eq=False)
class ResidualGuidance(WrappedModel):
    """A model guided away from a clean image; made by :func:`residual`.

    Attributes:
        weight, delta, negative: As in :func:`residual`.
    """

    weight: float = dataclasses.field(default=1.4, kw_only=True)
    delta: float = dataclasses.field(default=1.0, kw_only=True)
    negative: Tensor | None = dataclasses.field(default=None, kw_only=True)

    def bind(
        self,
        condition: Mapping[str, Any] | None = None,
        null: Mapping[str, Any] | None = None,
        guidance: BranchWeights | float | None = None,
    ) -> Bound:
        """See :meth:`Model.bind`.

        Raises:
            ArgumentError: Guidance beside the model's own; no null condition for the one unconditional row.
        """
        check_no_other_weight(guidance)
        needed = Guidance(self.weight) if self.negative is None else None
        return self.wrap(self.inner.bind(condition, null, needed))

    @property
    def own_memory(self) -> Remembers:
        """The clean estimates that the run began with, unless z is given."""
        return Remembers.ROWS if self.negative is None else Remembers.NOTHING

    def wrap(self, bound: Bound) -> Bound:
        """See :meth:`WrappedModel.wrap`."""
        return BoundResidual(self, bound, self.negative, None)


def residual(model: Model, weight: float, negative: Tensor | None = None, *, delta: float = 1.0) -> ResidualGuidance:
    r"""Guidance by a negative prediction that is computed, not evaluated.

    It pretends that the negative branch estimates the clean image z at all times, so that its noise is
    :math:`n_z = (x - \alpha z) / \sigma`:

    .. math:: n = \delta n_z + w (n_c - \delta n_z), \quad \delta = 1:\; D = z + w (D_c - z)

    Self-negative: z is the image that an edit started from, and no row is added. One-time negative (``negative=None``):
    z is the unconditional estimate of the run's first evaluation, one row in all. Where sigma is 0, the conditional
    output is returned, as the clean estimate is decided there.

    Args:
        model: The model; needs a null condition if ``negative`` is None.
        weight: w; 1 with delta = 1 is no guidance. 1.2 to 1.4 are in use.
        negative: z, [B or 1, *D].
        delta: Share of the negative noise. Below 1 the weights do not sum to one: the formula is for noise.

    Raises:
        ArgumentError: A weight or delta that is not finite.
        SingularTimeError: When called where alpha is 0, with a delta other than 1.

    Source:
        Kodaira et al. 2023, StreamDiffusion (residual classifier-free guidance).

    Example:
        >>> from pushforward.models import GaussianOracle
        >>> model = residual(GaussianOracle([0.0], 0.25).model("denoised"), 2.0, torch.tensor([[1.0]]))
        >>> model.evaluate(torch.zeros(2, 1), 0.5)[0]  # D_c = 0, and twice as far from 1
        tensor([[-1.],
                [-1.]])
    """
    finite(weight, "weight")
    finite(delta, "delta")
    return ResidualGuidance.around(model, weight=float(weight), negative=negative, delta=float(delta))


class BoundResidual(BoundToOwnWeight):
    """What a run evaluates of a :class:`ResidualGuidance`: with z of its rows, and when it was found."""

    def __init__(self, model: ResidualGuidance, inner: Bound, clean: Tensor | None, found: Times | None) -> None:
        super().__init__(model, inner)
        self.residual, self.clean, self.found = model, clean, found

    def select(self, index: Index) -> Bound:
        """See :meth:`Bound.select`."""
        clean, found = self.clean, self.found
        chosen = torch.as_tensor(index, dtype=torch.int64)
        if clean is not None and len(clean) > 1:
            clean = clean.index_select(0, chosen.to(clean.device))
        if isinstance(found, np.ndarray):
            found = found[chosen.cpu().numpy()]
        return BoundResidual(self.residual, self.inner.select(index), clean, found)

    def check_rows(self, rows: int) -> None:
        """See :meth:`Bound.check_rows`.

        Raises:
            ShapeError: A negative image of another number of rows.
        """
        if self.clean is not None and len(self.clean) not in (1, rows):
            raise ShapeError("negative", got=f"{len(self.clean)} rows", expected=f"{rows}, as the state, or 1")
        self.inner.check_rows(rows)

    def answer(self, x: Tensor, t: Times, branches: Branches) -> tuple[Tensor, ...]:
        """The output, moved away from that of z."""
        self.check_branches(branches, "residual guidance")
        if self.clean is None or (self.residual.negative is None and self._again(t)):
            output, other = self.inner.answer(x, t, (CONDITIONAL, UNCONDITIONAL))
            self.clean, self.found = read_as(self.residual.prediction, "denoised", t, x, other), t
        else:
            output = self.inner.answer(x, t, branches)[0]
        row = self._coefficients(t, x)
        if row is None:
            return (output,)
        clean = self.clean.to(x).expand_as(x)
        return combined([x, output, clean], [row])

    def _again(self, t: Times) -> bool:
        """Whether the run is at its first time once more."""
        return self.found is not None and bool(np.all(np.asarray(t) == self.found))

    def _coefficients(self, t: Times, x: Tensor) -> list[Scalar] | None:
        r"""Of input, output and z; None where sigma is 0.

        With :math:`o = p D + q n`: :math:`o_z = (q / \sigma) x + (p - \alpha q / \sigma) z` for delta = 1.
        """
        if not isinstance(t, np.ndarray):
            row = self._at(t)
            return None if row == (0.0, 1.0, 0.0) else list(row)
        rows = [self._at(time) for time in t.tolist()]
        return [on_device(np.array(column), x.device) for column in zip(*rows, strict=True)]

    def _at(self, t: float) -> tuple[float, float, float]:
        model, prediction = self.residual, self.residual.prediction
        a, s, _, _ = prediction.interpolant(t)
        if s == 0:
            return 0.0, 1.0, 0.0
        p, q = prediction.target(t)
        excess, share = model.weight - 1.0, model.delta
        if share != 1 and p != 0 and a == 0:
            because = "with delta other than 1 the noise is no longer x / sigma where alpha = 0"
            raise SingularTimeError("t", got=t, because=because, hint="Start the grid later, or use delta=1")
        lost = (1 - share) * p / a if share != 1 and p != 0 else 0.0
        state = -excess * (lost + share * q / s)
        return state / prediction.input_scale(t), model.weight, excess * share * (a * q / s - p)
