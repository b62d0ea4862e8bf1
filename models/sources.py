"""Where a flow starts: noise, or another modality that was encoded into the shape of the state."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import ArgumentError, ShapeError
from ..kernels import PURPOSE_INITIAL, Draw, normal

Encoder = Callable[..., tuple[Tensor, Tensor]]


class Source(ABC):
    """A distribution of x_0, the state at t = 0, which may depend on the condition of the run.

    Attributes:
        is_noise: Whether x_0 is a standard normal independent of everything.
    """

    is_noise: ClassVar[bool] = False

    @abstractmethod
    def sample(self, seed: int, samples: Tensor | None = None, condition: Mapping[str, Any] | None = None) -> Tensor:
        """States at t = 0, [B, *D].

        Args:
            seed: In [0, 2**64).
            samples: Sample ids, int64 [B]: a sample is the same in any batch. By default 0 .. B - 1, where the
                condition says what B is.
            condition: Of the run.
        """

    def left(self, condition: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
        """What of the condition is for the network: all of it, unless the source takes some."""
        return condition


@dataclass(frozen=True)
class GaussianSource(Source):
    """Standard normal noise: what a run starts from where it is given a shape.

    Args:
        shape: Of one sample.
        dtype, device: Of the noise.

    Example:
        >>> GaussianSource((3,)).sample(0, torch.arange(2)).shape
        torch.Size([2, 3])
    """

    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    device: torch.device | str = "cpu"

    is_noise: ClassVar[bool] = True

    def sample(self, seed: int, samples: Tensor | None = None, condition: Mapping[str, Any] | None = None) -> Tensor:
        """See :meth:`Source.sample`.

        Raises:
            ArgumentError: No ids, so that nothing says how many.
        """
        if samples is None:
            raise ArgumentError("samples", got=None, expected="ids, int64 [B], one a state")
        size, draw = (len(samples), *self.shape), Draw(PURPOSE_INITIAL, 0)
        return normal(size, seed=seed, draw=draw, samples=samples, dtype=self.dtype, device=self.device)


@dataclass(frozen=True)
class EncodedSource(Source):
    r"""Another modality as the start of a flow, through a variational encoder.

    .. math:: x_0 = \mu(c) + e^{\ell(c) / 2} \epsilon, \quad \epsilon \sim N(0, I)

    The network of such a flow is not told c: the state holds it. Adapt it with ``source_is_noise=False``, and runs
    that would take x_0 for noise are refused.

    Args:
        encoder: ``encoder(**arguments) -> (mu, log-variance)``, both [B, *D], the shape of the states.
        arguments: The keys of the run's condition that it takes; the network receives the others.
        deterministic: Leave out epsilon.

    Raises:
        ArgumentError: An encoder that cannot be called, no arguments.

    Source:
        Liu et al. 2024, Flowing from Words to Pixels (CrossFlow), section 3.2.

    Example:
        >>> table = torch.eye(3)
        >>> source = EncodedSource(lambda label: (table[label], torch.full((len(label), 3), -4.0)), ("label",))
        >>> source.sample(0, condition={"label": torch.tensor([2, 0])}).shape
        torch.Size([2, 3])
    """

    encoder: Encoder
    arguments: tuple[str, ...]
    deterministic: bool = False

    def __post_init__(self) -> None:
        if not callable(self.encoder):
            raise ArgumentError("encoder", got=type(self.encoder).__name__, expected="a function")
        object.__setattr__(self, "arguments", tuple(self.arguments))
        if not self.arguments:
            raise ArgumentError("arguments", got="none", expected="keys of the condition that the encoder takes")

    def moments(self, condition: Mapping[str, Any] | None) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of x_0, [B, *D] each.

        Raises:
            ArgumentError: A key that the condition lacks.
            ShapeError: Two tensors that are not alike.
        """
        missing = [key for key in self.arguments if key not in (condition or {})]
        if missing:
            raise ArgumentError("condition", got=sorted(condition or {}), expected=f"{missing}, for the encoder too")
        mean, log_variance = self.encoder(**{key: (condition or {})[key] for key in self.arguments})
        if mean.shape != log_variance.shape or mean.ndim < 1:
            got = f"mean {list(mean.shape)}, log-variance {list(log_variance.shape)}"
            raise ShapeError("encoder", got=got, expected="two tensors [B, *D] of one shape, that of the states")
        return mean, log_variance

    def sample(self, seed: int, samples: Tensor | None = None, condition: Mapping[str, Any] | None = None) -> Tensor:
        """See :meth:`Source.sample`. Keeps the graph to the encoder, where one is recorded.

        Raises:
            ShapeError: Neither one row nor one a sample.
        """
        mean, log_variance = self.moments(condition)
        rows = len(mean) if samples is None else len(samples)
        if len(mean) not in (1, rows):
            raise ShapeError("encoder", got=f"{len(mean)} rows", expected=f"{rows}, one a sample, or 1")
        size = (rows, *mean.shape[1:])
        if self.deterministic:
            return mean.expand(size).clone()
        draw = Draw(PURPOSE_INITIAL, 0)
        noise = normal(size, seed=seed, draw=draw, samples=samples, dtype=mean.dtype, device=mean.device)
        return mean + (log_variance / 2).exp() * noise

    def left(self, condition: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
        """The other keys."""
        return {key: value for key, value in (condition or {}).items() if key not in self.arguments}
