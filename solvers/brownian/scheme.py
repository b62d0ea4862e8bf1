"""What a stochastic method is: a step with an error estimate, on increments of a Brownian path."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from ...errors import ArgumentError, UnknownNameError
from ...kernels import combine
from ..adaptive.method import Attempt, Live
from .field import Scale
from .tree import Increment


class Brownian(Protocol):
    """A source of increments that belong to one path for each sample, as :class:`BrownianTree` is."""

    def increment(self, s: np.ndarray, u: np.ndarray, /) -> Increment:
        """W and H between times [b]."""
        ...

    def rows(self, index: Tensor, /) -> Brownian:
        """The paths of some samples, by their places in the whole batch."""
        ...


class Scheme(Protocol):
    """A step of all live samples.

    Attributes:
        order: k in the controller's exponent: the error estimate of a step is O(h^k).
        area: Whether it reads space-time areas.
        additive: Whether the noise may not depend on the state.

    """

    @property
    def order(self) -> float: ...  # noqa: D102
    @property
    def area(self) -> bool: ...  # noqa: D102
    @property
    def additive(self) -> bool: ...  # noqa: D102

    def attempt(self, live: Live, h: np.ndarray, brownian: Brownian) -> Attempt:
        """Try steps; ``live.field`` is a :class:`StochasticField`, ``brownian`` has the paths of the live samples."""
        ...


SCHEMES: dict[str, Scheme] = {}
S = TypeVar("S", bound=Callable[..., Scheme])


def register_scheme(name: str, *arguments: object) -> Callable[[S], S]:
    """Class decorator: make ``cls(*arguments)`` available as the method of that name.

    Raises:
        ArgumentError: The name is taken.

    """

    def register(cls: S) -> S:
        if name in SCHEMES:
            raise ArgumentError("name", got=repr(name), expected="one that is free")
        SCHEMES[name] = cls(*arguments)
        return cls

    return register


def scheme(given: str | Scheme) -> Scheme:
    """A scheme by its name, or itself.

    Raises:
        UnknownNameError: No scheme has that name.

    """
    if not isinstance(given, str):
        return given
    if given not in SCHEMES:
        raise UnknownNameError("method", got=repr(given), expected=f"one of {', '.join(SCHEMES)}")
    return SCHEMES[given]


@dataclass(frozen=True)
class StochasticMethod:
    """A scheme along a Brownian path, as a method of the adaptive loop.

    A step that is rejected asks for the same path over a shorter interval. Noise drawn anew would keep the increments
    that pass, which are the small ones: the law of what comes out would be another.
    """

    name: str
    scheme: Scheme
    brownian: Brownian
    keeps_slope = False
    dense = False

    @property
    def order(self) -> float:
        """Of the scheme's estimate."""
        return self.scheme.order

    def attempt(self, live: Live, h: np.ndarray) -> Attempt:
        """The scheme's attempt, on the paths of the live samples."""
        return self.scheme.attempt(live, h, self.brownian.rows(torch.from_numpy(live.samples)))


@dataclass(frozen=True)
class JointBrownian:
    """Paths of a batch that is integrated as a single sample [1, B, *D]: see :class:`~..adaptive.field.JointField`."""

    brownian: Brownian

    def increment(self, s: np.ndarray, u: np.ndarray) -> Increment:
        """Of the whole batch, between one pair of times."""
        w, h = self.brownian.increment(s[0], u[0])
        return Increment(w[None], None if h is None else h[None])

    def rows(self, index: Tensor) -> JointBrownian:
        """Itself."""
        return self


Term = tuple[Tensor, np.ndarray]  # a tensor [b, *D], and what multiplies it for each sample


def noise(scales: Sequence[Scale], weights: Sequence[float], tensor: Tensor, factor: float = 1.0) -> list[Term]:
    """``factor sum_i w_i G_i * tensor`` as terms of a sum: none where all weights are zero."""
    used = [(g, w * factor) for g, w in zip(scales, weights, strict=True) if w != 0]
    if not used:
        return []
    if all(isinstance(g, np.ndarray) for g, _ in used):
        return [(tensor, np.sum([w * g for g, w in used], axis=0))]
    total = sum(w * column(g, tensor) for g, w in used)
    return [(total * tensor, np.ones(tensor.shape[0]))]


def column(values: Scale, like: Tensor) -> Tensor:
    """Numbers of samples as a tensor that multiplies states."""
    if isinstance(values, Tensor):
        return values
    return torch.from_numpy(values).to(device=like.device, dtype=like.dtype).reshape(-1, *[1] * (like.ndim - 1))


def sums(x: Tensor, *rows: Sequence[Term]) -> list[Tensor]:
    """``x + sum_k c_k tensor_k`` of the first row, and sums without x of the others, in one pass over memory."""
    tensors: list[Tensor] = []
    place: dict[int, int] = {}
    for tensor, _ in (term for row in rows for term in row):
        if id(tensor) not in place:
            place[id(tensor)] = len(tensors)
            tensors.append(tensor)
    table = np.zeros((x.shape[0], len(rows), 1 + len(tensors)))
    table[:, 0, 0] = 1.0
    for number, row in enumerate(rows):
        for tensor, factors in row:
            table[:, number, 1 + place[id(tensor)]] += factors
    return list(combine([x, *tensors], torch.from_numpy(table)))


def added(x: Tensor, row: Sequence[Term]) -> Tensor:
    """``x + sum_k c_k tensor_k`` in one pass."""
    return sums(x, row)[0]
