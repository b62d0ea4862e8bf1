"""What may accompany an adaptive run: somebody who takes down its steps, and jumps of single samples' states."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from torch import Tensor

from .method import Attempt, Live


class Recorder(Protocol):
    """Is told what the loop accepts."""

    def step(self, live: Live, attempt: Attempt, accept: np.ndarray, h: np.ndarray, after: np.ndarray) -> None:
        """Steps of the samples in ``accept``, from ``live.t``; ``after`` is where they end, which an event may cut."""
        ...

    def renew(self, live: Live, fresh: np.ndarray) -> Tensor | None:
        """The next steps of the samples in ``fresh`` begin with a new slope; theirs, if it evaluates them itself."""
        ...


class Jumps(Protocol):
    """Times at which a sample's step ends and its state changes, each sample its own."""

    def ahead(self, samples: np.ndarray) -> np.ndarray:
        """The next such time of each sample, float64; beyond its last requested time if there is none."""
        ...

    def apply(self, live: Live, reached: np.ndarray) -> np.ndarray:
        """Change ``live.x`` of samples that are at such a time; ``reached`` are those at their target. Which it was."""
        ...
