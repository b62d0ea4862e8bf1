"""What an adaptive run returns."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ...errors import ArgumentError, IntegrationError, NotFiniteError


class Status(enum.IntEnum):
    """How the way of a sample ended."""

    SUCCESS = 0
    EVENT = 1  # stopped by a terminal event
    STEP_TOO_SMALL = 2
    NOT_FINITE = 3
    TOO_MANY_STEPS = 4


WORDS = {
    Status.STEP_TOO_SMALL: "the step size fell below {least:.3g}",
    Status.NOT_FINITE: "the field or the state was not finite, however small the step",
    Status.TOO_MANY_STEPS: "{steps} attempts were not enough",
}
HINTS = {
    Status.STEP_TOO_SMALL: "The problem may be singular there, or stiff: try method='esdirk43', or larger tolerances",
    Status.NOT_FINITE: "Look at the field there: its time and state are on this exception as .t and .x",
    Status.TOO_MANY_STEPS: "Raise max_steps or the tolerances; for stiff problems try method='esdirk43'",
}


@dataclass
class EventRecord:
    """Occurrences of one event, in the order of the steps in which they were found.

    Attributes:
        samples: Which sample, int64 [n].
        t: When, float64 [n].
        x: The states there, [n, *D].
        time: The times as a tensor, [n], with a gradient; None unless the run records gradients.

    """

    samples: np.ndarray
    t: np.ndarray
    x: Tensor
    time: Tensor | None = None


@dataclass
class DenseOutput:
    """The solution as a function of time, piece by piece.

    Attributes:
        x0, t0: Where the samples started.
        pieces: Of each step (samples, t, h, place, interpolate): whose, from where, how far, their rows, and the
            function of (rows, theta) that gives the states and the evaluations spent.

    """

    x0: Tensor
    t0: np.ndarray
    pieces: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, Callable]] = field(default_factory=list)

    def __call__(self, t: float | Sequence[float] | np.ndarray | Tensor) -> Tensor:
        """States at time t, one for all samples or [B]; shape [B, *D].

        Raises:
            ArgumentError: A time that the run of a sample did not pass.

        """
        asked = t.detach().cpu().numpy() if isinstance(t, Tensor) else t
        asked = np.broadcast_to(np.asarray(asked, dtype=np.float64), self.t0.shape)
        result, found = self.x0.clone(), asked == self.t0
        for samples, start, h, place, interpolate in self.pieces:
            with np.errstate(invalid="ignore"):
                theta = (asked[samples] - start) / h
            inside = (theta > 0) & (theta <= 1 + 1e-12) & ~found[samples]
            if inside.any():
                states, _ = interpolate(torch.from_numpy(place[inside]), np.minimum(theta[inside], 1.0))
                result[torch.from_numpy(samples[inside]).to(result.device)] = states
                found[samples[inside]] = True
        if not found.all():
            first = int(np.flatnonzero(~found)[0])
            raise ArgumentError("t", got=float(asked[first]), expected=f"a time that sample {first} passed")
        return result


class JointDense(DenseOutput):
    """The dense output of samples that were integrated as one."""

    def __init__(self, whole: DenseOutput) -> None:
        super().__init__(whole.x0, whole.t0, whole.pieces)

    def __call__(self, t: float | Sequence[float] | np.ndarray | Tensor) -> Tensor:
        """States at time t, [B, *D]."""
        return super().__call__(t)[0]


@dataclass
class Solution:
    """States at the requested times, and how every sample fared.

    Attributes:
        times: The requested times, float64 [T], or [B, T] if samples have their own.
        x: States there, [T, B, *D]; NaN where a sample did not arrive.
        final, t: The last state of each sample, [B, *D], and its time, float64 [B]: the end, the time of the terminal
            event, or where it got stuck.
        status: A `Status` for each sample, int64 [B].
        nfe, accepted, rejected: Evaluations and steps of each sample, int64 [B].
        calls: How often the field was called; host_reads: how often the host waited for the device.
        events: A record for each event.
        dense: The solution as a function of time, if asked for.
        jacobians, products: Of implicit methods, for each sample: Jacobians that were formed, and products of Jacobian
            and vector by forward differentiation. A Jacobian takes an evaluation, which ``nfe`` counts, and a backward
            pass for each element of a sample; a product takes about two evaluations, which ``nfe`` does not count.

    """

    times: np.ndarray
    x: Tensor
    final: Tensor
    t: np.ndarray
    status: np.ndarray
    nfe: np.ndarray
    accepted: np.ndarray
    rejected: np.ndarray
    calls: int = 0
    host_reads: int = 0
    events: list[EventRecord] = field(default_factory=list)
    dense: DenseOutput | None = None
    jacobians: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    products: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    @property
    def success(self) -> np.ndarray:
        """Which samples arrived, or were stopped by an event."""
        return self.status <= Status.EVENT

    def of_samples(self, count: int) -> Solution:
        """The solution of ``count`` samples that were integrated as one."""
        self.x, self.final = self.x[:, 0], self.final[0]
        for name in ("t", "status", "nfe", "accepted", "rejected", "jacobians", "products"):
            setattr(self, name, np.repeat(getattr(self, name), count))
        if self.dense is not None:
            self.dense = JointDense(self.dense)
        return self

    def failure(self, least: float, steps: int) -> IntegrationError | NotFiniteError | None:
        """The exception for the first failed sample; None if there is none."""
        failed = np.flatnonzero(~self.success)
        if not len(failed):
            return None
        first = int(failed[0])
        status = Status(int(self.status[first]))
        said = WORDS[status].format(least=least, steps=steps)
        shown = ", ".join(map(str, failed[:8])) + (", ..." if len(failed) > 8 else "")
        message = f"sample {first} at t = {self.t[first]:.6g}, step {self.accepted[first] + 1}"
        hint = f"{len(failed)} of {len(self.status)} samples failed ({shown}). {HINTS[status]}"
        kind = NotFiniteError if status == Status.NOT_FINITE else IntegrationError
        error = kind(message, got=said, hint=hint)
        error.step, error.t, error.x = int(self.accepted[first]) + 1, float(self.t[first]), self.final[first]
        error.solution = self
        return error
