"""Who owns a random number: `Draw` and `Noise`, the key of one tensor of normals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import ArgumentError, DtypeError, ShapeError

PURPOSE_INITIAL = 0  #: noise a run starts from
PURPOSE_DIFFUSION = 1  #: noise of a stochastic step
PURPOSE_RESAMPLING = 2  #: uniforms of a resampling scheme
PURPOSE_RENOISING = 3  #: forward noising back to an earlier time
PURPOSE_NEIGHBOUR = 4  #: directions of a search over noise
PURPOSE_CATEGORICAL = 5  #: categorical choices
PURPOSE_ACCEPTANCE = 6  #: accept or reject decisions
PURPOSE_USER = 7  #: free for the caller
PURPOSE_BROWNIAN = 8  #: nodes of a Brownian path
PURPOSE_PROBE = 9  #: directions in which a trace is estimated
PURPOSE_NOISING = 10  #: noise put on data to see how well it is removed

MAX_ELEMENTS = 2**34  #: elements of one sample that a 32-bit counter of four-element blocks can number


class Draw(NamedTuple):
    """Which draw of a sample: equal draws give equal numbers, any difference an independent stream.

    Args:
        purpose: What the numbers are for, one of the ``PURPOSE_`` constants.
        step: Step of the run.
        stage: Stage within the step, for methods that draw more than once a step.
        attempt: Candidate of a search, or repeated attempt of an adaptive step.

    All four are integers in [0, 2**32).

    Example:
        >>> Draw(PURPOSE_DIFFUSION, step=3)
        Draw(purpose=1, step=3, stage=0, attempt=0)
    """

    purpose: int
    step: int
    stage: int = 0
    attempt: int = 0


@dataclass(frozen=True, eq=False)
class Noise:
    """A tensor of standard normals that exists only as its key.

    Element ``e`` (row-major within the sample) of row ``b`` depends on ``(seed, samples[b], draw, e)`` and on nothing
    else: not on the batch, its order, strides, the device, the backend or the number of threads.

    Args:
        seed: Integer in [0, 2**64).
        draw: Which draw; see `Draw`.
        samples: Sample ids, int64, shape [B], each >= 0; ``None`` means 0, 1, ..., B - 1.

    Raises:
        ArgumentError: A number outside its range (ids are checked where they are on the CPU).
        DtypeError, ShapeError: ``samples`` is not int64 or not one-dimensional.

    Source:
        Salmon et al. 2011, Parallel random numbers: as easy as 1, 2, 3 (Philox4x32-10), keyed in two levels.

    Example:
        >>> Noise(seed=0, draw=Draw(PURPOSE_INITIAL, step=0)).draw.step
        0
    """

    seed: int
    draw: Draw
    samples: Tensor | None = None

    def __post_init__(self) -> None:
        if not (isinstance(self.seed, int) and 0 <= self.seed < 2**64):
            raise ArgumentError("seed", got=repr(self.seed), expected="an integer in [0, 2**64)")
        purpose, step, stage, attempt = self.draw
        for name, value in (("purpose", purpose), ("step", step), ("stage", stage), ("attempt", attempt)):
            if not (isinstance(value, int) and 0 <= value < 2**32):
                raise ArgumentError(f"draw.{name}", got=repr(value), expected="an integer in [0, 2**32)")
        if self.samples is not None:
            check_samples(self.samples)

    def at(self, draw: Draw) -> Noise:
        """The same samples of the same seed at another draw; the ids are not looked at again.

        Example:
            >>> key = Noise(7, Draw(PURPOSE_DIFFUSION, 0))
            >>> key.at(Draw(PURPOSE_DIFFUSION, 1)).draw.step
            1
        """
        other = object.__new__(Noise)
        for name, value in (("seed", self.seed), ("draw", draw), ("samples", self.samples)):
            object.__setattr__(other, name, value)
        return other


def check_samples(samples: Tensor) -> None:
    """Raise unless ``samples`` is a one-dimensional int64 tensor without negative ids."""
    if samples.dtype != torch.int64:
        raise DtypeError("samples", got=samples.dtype, expected="torch.int64")
    if samples.ndim != 1:
        raise ShapeError("samples", got=list(samples.shape), expected="one id for each row, shape [B]")
    if type(samples) is Tensor and samples.is_cpu and samples.numel() and int(samples.min()) < 0:
        raise ArgumentError("samples", got=int(samples.min()), expected="ids >= 0")


def pack_noise(noise: Noise) -> list[int]:
    """Five integers for an operator: the seed as a signed 64-bit number, purpose, step, stage, attempt."""
    return [noise.seed - (noise.seed >> 63 << 64), *noise.draw]


def unpack_noise(numbers: Sequence[int], samples: Tensor | None) -> Noise:
    """The key of five such integers and the samples' ids."""
    return Noise(numbers[0] % 2**64, Draw(*numbers[1:]), samples)
