"""State and log-determinant side by side, as one field for the adaptive loop."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..adaptive.field import Field, Times
from ..adaptive.tolerance import NORMS, Norm
from .divergence import Trace, constant_field


@dataclass(frozen=True)
class LikelihoodField:
    r"""Slopes of :math:`z = (x, \ell)`, samples as rows [b, d + channels].

    .. math:: \dot x = v(x, t), \qquad \dot \ell = \mathrm{tr} \frac{\partial v}{\partial x}(x, t)

    Works where gradients are off: it turns them on for itself. Where they are on, slopes have gradients in z and in
    whatever v depends on.

    Attributes:
        field: v.
        trace: Of its Jacobian; its estimates are the channels.
        event: Shape of a sample.

    """

    field: Field
    trace: Trace
    event: tuple[int, ...]

    def __call__(self, x: Tensor, times: Times) -> Tensor:
        """Both slopes, for rows x = z."""
        recorded = torch.is_grad_enabled()
        rows, size = x.shape[0], x.shape[1] - channels(self.trace)
        with torch.enable_grad():
            state = x[:, :size].reshape(rows, *self.event).contiguous()
            if not (recorded and state.requires_grad):
                state = state.detach().requires_grad_()
            slope = self.field(state, times)
            if not slope.requires_grad:
                raise constant_field()
            both = torch.cat([slope.reshape(rows, size), self.trace(slope, state, recorded)], dim=1)
        return both if recorded else both.detach()

    def rows(self, index: Tensor) -> LikelihoodField:
        """The field of some of the samples."""
        return LikelihoodField(self.field.rows(index), self.trace.rows(index), self.event)


def channels(trace: Trace) -> int:
    """Columns of the log-determinant: the mean and what it is the mean of."""
    return 1 + trace.members


@dataclass(frozen=True)
class LikelihoodNorm:
    """The larger of the error of the state and that of the log-determinant.

    In a root mean square over all columns the log-determinant would be one among d. What it is the mean of is not
    controlled.

    Attributes:
        norm: Of the state.
        event: Shape of a sample.
        size: Its elements.

    """

    norm: str | Norm
    event: tuple[int, ...]
    size: int

    def __call__(self, quotient: Tensor) -> Tensor:
        """A number for each sample, [b]."""
        own = NORMS[self.norm] if isinstance(self.norm, str) else self.norm
        of_state = own(quotient[:, : self.size].reshape(quotient.shape[0], *self.event))
        return torch.maximum(of_state, quotient[:, self.size].abs().to(of_state.dtype))
