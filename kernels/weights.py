"""`reweigh`: log-weights of particles, updated and normalised in one call."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import DtypeError, NotFiniteError, ShapeError
from . import operators
from .dispatch import device_type, implementation, implements, native_module


class Reweighed(NamedTuple):
    """What `reweigh` returns.

    Args:
        log_weights: Normalised, float64 [S, N].
        log_sum: Logarithm of the sum of the weights before they were normalised, float64 [S].
        ess: Effective sample size in [1, N], float64 [S].
    """

    log_weights: Tensor
    log_sum: Tensor
    ess: Tensor


def reweigh(log_weights: Tensor, level: Tensor, before: Tensor, correction: Tensor | None = None) -> Reweighed:
    r"""Multiply weights by :math:`e^{L - L'}`, with L' the level that they contained before and L the new one.

    .. math:: l = \log w + (L - L') + c, \quad \log w' = l - \log \sum_i e^{l_i}, \quad
        \mathrm{ESS} = \Big(\sum_i w_i'^2\Big)^{-1}

    A particle with L' = -inf is dead, and stays so whatever L is. Sums are the same for any number of threads.

    Args:
        log_weights, level, before, correction: float64 [S, N]; no correction counts as 0.

    Returns:
        `Reweighed`. Not differentiable.

    Raises:
        NotFiniteError: Some l is NaN or +inf, or all particles of a population are dead; names the row.
        ShapeError, DtypeError: Arguments that do not fit.

    Source:
        Del Moral, Doucet and Jasra 2006, Sequential Monte Carlo samplers, section 3.

    Example:
        >>> zero = torch.zeros(1, 2, dtype=torch.float64)
        >>> result = reweigh(zero - 0.5, torch.tensor([[0.5, -torch.inf]], dtype=torch.float64), zero)
        >>> result.log_weights.tolist(), result.log_sum.item(), result.ess.item()
        ([[0.0, -inf]], 0.0, 1.0)
    """
    for name, x in (("log_weights", log_weights), ("level", level), ("before", before), ("correction", correction)):
        if x is None:
            continue
        if x.dtype != torch.float64:
            raise DtypeError(name, got=x.dtype, expected="torch.float64")
        if x.ndim != 2 or x.shape != log_weights.shape or x.shape[1] == 0:
            expected = "[S, N] with N >= 1, the same for all"
            raise ShapeError(name, got=list(x.shape), expected=expected)
    given = [x for x in (log_weights, level, before, correction) if x is not None]
    run = reference if operators.needs_operator(*given) else implementation("weight_update", device_type(log_weights))
    out, highest, total, squares = run(log_weights, level, before, correction)
    bad = ~highest.isfinite()
    if not operators.tracing() and bool(bad.any()):
        row = int(bad.nonzero()[0])
        got = "only dead particles (-inf)" if highest[row] == -torch.inf else "NaN or +inf"
        raise NotFiniteError("log_weights", got=f"{got} in row {row} of {len(bad)}", expected="finite weights or -inf")
    return Reweighed(out, total.log() + highest, total.square() / squares)


@implements("weight_update", "cuda")
@implements("weight_update", "triton")
@implements("weight_update", "reference")
def reference(
    log_weights: Tensor, level: Tensor, before: Tensor, correction: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Run the definition: normalised log-weights, the largest before, and sums of exp(l - largest) and its square."""
    wide = torch.where(before == -torch.inf, before, log_weights + (level - before))
    wide = wide if correction is None else wide + correction
    highest = wide.amax(1)
    weights = (wide - highest[:, None]).exp()
    total = weights.sum(1)
    return wide - (highest + total.log())[:, None], highest, total, weights.square().sum(1)


@implements("weight_update", "native")
def native(
    log_weights: Tensor, level: Tensor, before: Tensor, correction: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Three passes over the weights, on all threads."""
    same = log_weights.stride(1) == 0  # uniform weights, expanded from one a row
    log_weights = log_weights[:, 0].contiguous() if same else log_weights.contiguous()
    level, before = level.contiguous(), before.contiguous()
    correction = None if correction is None else correction.contiguous()
    out, sums = torch.empty_like(level), torch.empty((3, len(log_weights)), dtype=torch.float64)
    native_module.reweigh(
        log_weights.data_ptr(),
        same,
        before.data_ptr(),
        level.data_ptr(),
        0 if correction is None else correction.data_ptr(),
        out.data_ptr(),
        sums.data_ptr(),
        *level.shape,
    )
    highest, total, squares = sums.unbind(0)
    return out, highest, total, squares
