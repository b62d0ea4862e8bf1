"""The common case of a run in one call of the compiled module: an explicit pair, a plain function, float64."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ...kernels.dispatch import native_module, native_runs
from .control import NumpyControl, StepControl
from .explicit import ExplicitMethod
from .field import FunctionField, check_slope
from .method import Attempt, Live, Method

WriteOutputs = Callable[[Live, Attempt, np.ndarray], None]


class CompiledRun:
    """What `ExplicitMethod.attempt`, `StepControl` and the loop do between two calls of the function.

    Args:
        method: An explicit pair whose last stage is taken at the new state.
        live: Samples with their tolerances; their field is a `FunctionField`.

    """

    def __init__(self, method: ExplicitMethod, live: Live) -> None:
        self.method, self.live, self.evaluations = method, live, len(method.rows)
        rtol, atol = float(live.tolerance.rtol), float(live.tolerance.atol)
        rows = [(tuple(row), c) for row, c in method.rows]
        self.native = native_module.ExplicitRun(rows, method.weights, method.estimates[0], rtol, atol, check_slope)

    def solve(self, control: StepControl, final: Tensor, write_outputs: WriteOutputs) -> int:
        """Integrate until all samples have ended.

        Args:
            control: The compiled control of the samples.
            final: Like the state of the whole batch; gets the last states.
            write_outputs: Is told of attempts that passed a requested time, as the loop's own.

        Returns:
            The number of attempts.

        """
        live, method = self.live, self.method
        function = live.field.function  # pyright: ignore[reportAttributeAccessIssue]

        def due(x: Tensor, slopes: list[Tensor], new: Tensor) -> None:
            h = control.signed_size
            now = Live(live.field, live.tolerance, control.samples, x, control.t, slopes[0])
            interpolate = partial(method.interpolate, now, h, slopes)
            write_outputs(now, Attempt(new, h, slopes[-1], 0, interpolate), h)

        times = torch.from_numpy(live.t)
        return self.native.run(control, live.x, live.slope, times, function, final, due)


def compiled_run(method: Method, live: Live, control: StepControl) -> CompiledRun | None:
    """The rest of a run, if it is of the kind that the compiled module can do."""
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
    return CompiledRun(method, live) if suitable and isinstance(method, ExplicitMethod) else None
