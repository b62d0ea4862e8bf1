"""Hooks: what is called at the end of every step of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(slots=True)
class StepState:
    """What a hook sees at the end of a step.

    Attributes:
        step, steps: The step that ended, from 0, and how many there are.
        time: Its end time.
        state: The sample at ``time``. A buffer of the run: clone what you keep.
        denoised: The step's latest estimate of the clean sample, or None where the network does not determine it.

    """

    step: int
    steps: int
    time: float
    state: Tensor
    denoised: Tensor | None


class Hook(Protocol):
    """Called at the end of every step; may return a new state, of the same shape, dtype and device.

    A hook that never does should say so with ``replaces_state = False``: then steps may be fused across it.
    """

    def __call__(self, state: StepState) -> Tensor | None:
        """Look, and return None or the new state."""
        ...


def replaces_state(hooks: Sequence[Hook]) -> bool:
    """Whether any of the hooks may write a new state."""
    return any(getattr(hook, "replaces_state", True) for hook in hooks)


class Trajectory:
    """A hook that keeps every state of a run, and the clean estimates.

    Attributes:
        times: End times of the steps so far.
        states, denoised: A copy of the state, and of the clean estimate (None where there is none), for each.

    Example:
        >>> import pushforward as pf
        >>> path = pf.Trajectory()
        >>> x = pf.sample(pf.models.GaussianOracle([0.0], [[1.0]]).model(), (4, 1), steps=3, hooks=[path])
        >>> len(path.states), bool((path.states[-1] == x).all())
        (3, True)

    """

    replaces_state = False

    def __init__(self) -> None:
        self.times: list[float] = []
        self.states: list[Tensor] = []
        self.denoised: list[Tensor | None] = []

    def __call__(self, state: StepState) -> None:
        """Copy what the step shows."""
        self.times.append(state.time)
        self.states.append(state.state.clone())
        self.denoised.append(None if state.denoised is None else state.denoised.clone())
