"""What the adaptive loop asks of a method: an attempt at a step, of every live sample at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor

from ...errors import ArgumentError
from .field import Field
from .tolerance import Tolerance


@dataclass
class Live:
    """The samples that are still on their way: all tensors and arrays have one row for each.

    Attributes:
        field: Their field.
        tolerance: Their tolerances.
        samples: Their places in the whole batch, int64 [b].
        x: Their states, [b, *D].
        t: Their times, float64 [b].
        slope: Slope at (x, t), if the method keeps one.
        one_buffer: Whether the field hands out the same memory again and again, so that slopes must be copied.

    """

    field: Field
    tolerance: Tolerance
    samples: np.ndarray
    x: Tensor
    t: np.ndarray
    slope: Tensor | None = None
    one_buffer: bool = False

    def evaluate(self, x: Tensor, times: Tensor) -> Tensor:
        """Slopes at x and times (float64 [b] on the host), in memory that stays as it is."""
        slope = self.field(x, times)
        return slope.clone() if self.one_buffer else slope


@dataclass
class Attempt:
    """A step that may be taken.

    Attributes:
        x: New states, [b, *D]; a tensor that nobody else writes to.
        ratio: Error ratios, float64 [b] on the host: at most 1 passes; NaN or infinity does not, and halves the step.
        slope: Slope at the new state, if it is known.
        evaluations: Of the field, for each sample; one number if all have as many.
        interpolate: ``interpolate(index, theta)`` is the state of the samples ``index`` (int64, their place among the
            live ones) at t + theta h, theta float64 [len(index)] in [0, 1]; and how many evaluations that took. None if
            the method has no dense output.
        reads: How often the host waited for the device.
        jacobians, products: Jacobians that were formed, and products of Jacobian and vector, for each sample; counted
            where ``evaluations`` is an array.

    """

    x: Tensor
    ratio: np.ndarray
    slope: Tensor | None
    evaluations: int | np.ndarray
    interpolate: Callable[[Tensor, np.ndarray], tuple[Tensor, int]] | None = None
    reads: int = 1
    jacobians: int | np.ndarray = 0
    products: int | np.ndarray = 0


class Method(Protocol):
    """A step with an error estimate.

    Attributes:
        name: As it is registered.
        order: k in the controller's exponent 1/k: the error of a step is O(h^k).
        keeps_slope: Whether it wants the slope at the start of a step as `Live.slope`.
        dense: Whether its attempts interpolate.

    """

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def order(self) -> float: ...  # noqa: D102
    @property
    def keeps_slope(self) -> bool: ...  # noqa: D102
    @property
    def dense(self) -> bool: ...  # noqa: D102

    def attempt(self, live: Live, h: np.ndarray) -> Attempt:
        """Try steps from ``live.t`` to ``live.t + h``; h is float64 [b], all of one sign, never zero."""
        ...


METHODS: dict[str, Method] = {}  # those that are not explicit pairs, by name


def register_method(method: Method) -> Method:
    """Make a method available by its name.

    Raises:
        ArgumentError: Another method has that name.

    """
    if METHODS.setdefault(method.name, method) is not method:
        raise ArgumentError("name", got=repr(method.name), expected="one that is free")
    return method
