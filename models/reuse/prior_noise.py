"""Prior noise injection: a little of the initial noise, added again before the steps near the data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ...errors import ArgumentError


class PriorNoise:
    r"""A hook of a run: :math:`x \leftarrow x + a\,x_0` before every step that starts at ``after`` or later.

    It restores texture that reused features lose, and biases the law: the same x_0 is added each time, so that n steps
    add n a x_0. Give ``times`` to keep that sum when their number changes.

    Args:
        noise: x_0, the state at the start of the run.
        amount: a; 0.003 in the paper, for about 25 injected steps of 50.
        after: Time in (0, 1) from which on steps are prepared so; the paper's index below 500 of 1000.
        times: The run's grid; a is then ``amount * 25 / n`` for the n steps that it injects into.

    Raises:
        ArgumentError: ``after`` outside (0, 1); a grid no step of which is injected into.

    Source:
        Li et al. 2023, Faster Diffusion, Section 3.4; the rescaling is ours.

    Example:
        >>> import torch
        >>> PriorNoise(torch.zeros(1, 2), times=[i / 100 for i in range(101)]).amount
        0.0015
    """

    replaces_state = True
    injected_in_paper = 25

    def __init__(
        self, noise: Tensor, amount: float = 0.003, *, after: float = 0.5, times: Sequence[float] | None = None
    ) -> None:
        if not 0 < after < 1:
            raise ArgumentError("after", got=after, expected="a time in (0, 1)")
        if times is not None:
            count = sum(after <= t for t in list(times)[1:-1])
            if not count:
                raise ArgumentError("times", got="no step that is injected into", expected=f"steps from t = {after} on")
            amount *= self.injected_in_paper / count
        self.noise, self.amount, self.after = noise, amount, after

    def __call__(self, state: Any) -> Tensor | None:
        """The state before the next step; None at the end of the run and before ``after``."""
        if state.step + 1 >= state.steps or state.time < self.after:
            return None
        return state.state.add(self.noise, alpha=self.amount)
