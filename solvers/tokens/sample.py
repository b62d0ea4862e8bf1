"""One call from a model to samples whose tokens have grids of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...models import BranchWeights, Model
from ...models.guidance import as_guidance
from ..solver import FixedGridSolver, solver
from .executor import TokenExecutor
from .times import TokenGrid


def sample_tokens(
    model: Model,
    start: Tensor,
    grid: TokenGrid,
    tokens: Tensor,
    *,
    method: str | FixedGridSolver = "euler",
    guidance: float | BranchWeights = 1.0,
    condition: Mapping[str, Any] | None = None,
    null: Mapping[str, Any] | None = None,
    extrapolate: bool = True,
) -> Tensor:
    """Move the tokens of samples along the model's flow, each over a grid of its own.

    Args:
        model: A network that takes times of tokens: adapted with ``time_shape="token"``, unless all agree at all times.
        start: State at the first times, [B, *D].
        grid, tokens, extrapolate: See :class:`TokenExecutor`.
        method: A solver, by name or as an object.
        guidance, condition, null: As in :func:`pushforward.sample`.

    Returns:
        The state at the last times, [B, *D].

    Raises:
        ArgumentError: A network that takes one time for all tokens; region-adaptive sampling is for those.
        PlanError: See :class:`TokenExecutor`.

    Example:
        >>> import pushforward as pf
        >>> from pushforward.solvers.tokens import patch_tokens
        >>> model = pf.models.load("digits28-dit")
        >>> x0 = torch.randn(1, 1, 28, 28, generator=torch.Generator().manual_seed(0))
        >>> rows = [k // 7 for k in range(49)]  # from the top to the bottom, a row of tokens after the other
        >>> given = {"condition": {"label": torch.tensor([3])}}
        >>> sample_tokens(model, x0, TokenGrid.wave(4, rows), patch_tokens(x0.shape, 4), **given).shape
        torch.Size([1, 1, 28, 28])
    """
    weights = as_guidance(guidance)
    network = model.bind(condition, null, weights)
    with torch.no_grad():
        run = TokenExecutor(solver(method), grid, start, tokens, model.prediction, weights, extrapolate=extrapolate)
        return run.run(network.evaluate_tokens)
