"""The common case of an attempt in one call of the compiled module: an explicit pair, a plain function, float64."""

from __future__ import annotations

import torch
from torch import Tensor

from ...kernels.dispatch import native_module, native_runs
from .control import NumpyControl, StepControl
from .explicit import ExplicitMethod
from .field import FunctionField, check_slope
from .method import Live, Method


class CompiledAttempts:
    """Attempts of one run: what `ExplicitMethod.attempt`, `StepControl` and the loop's commit do, between two calls.

    Args:
        method: An explicit pair whose last stage is taken at the new state.
        live: Samples with their tolerances.

    """

    def __init__(self, method: ExplicitMethod, live: Live) -> None:
        self.method, self.evaluations = method, len(method.rows)
        rtol, atol = float(live.tolerance.rtol), float(live.tolerance.atol)
        rows = [(tuple(row), c) for row, c in method.rows]
        self.attempts = native_module.Attempts(rows, method.weights, method.estimates[0], rtol, atol, check_slope)

    def run(
        self, control: StepControl, live: Live, times: Tensor
    ) -> tuple[Tensor, list[Tensor], Tensor, tuple[int, ...]]:
        """New states and last slopes, those of rejected samples restored; all slopes; the decision's counts.

        Args:
            control: The compiled control of the samples.
            live: The samples; their field is a `FunctionField`.
            times: Any tensor like their times.

        """
        function = live.field.function  # pyright: ignore[reportAttributeAccessIssue]
        x, slopes, last, *decision = self.attempts.run(control, live.x, live.slope, times, function)
        return x, slopes, last, tuple(decision)


def compiled_attempts(method: Method, live: Live, control: StepControl) -> CompiledAttempts | None:
    """The compiled attempts of a run, if it is of the kind that they can do."""
    suitable = (
        isinstance(method, ExplicitMethod)
        and method.ends_at_new_state
        and len(method.estimates) == 1
        and isinstance(live.field, FunctionField)
        and not live.field.condition
        and live.tolerance.plain
        and not live.one_buffer
        and not isinstance(control, NumpyControl)
        and type(live.x) is Tensor
        and live.x.dtype is torch.float64
        and live.x.is_cpu
        and live.x.is_contiguous()
        and live.x.numel() > 0
        and native_runs("rk_step")
        and native_module.has_views()
    )
    return CompiledAttempts(method, live) if suitable and isinstance(method, ExplicitMethod) else None
