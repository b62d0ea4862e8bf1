"""`solve_ensemble`: many small systems, each with its own steps, without Python in the loop."""

from __future__ import annotations

import importlib
import math
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ...errors import ArgumentError, BackendError, DeviceError, DtypeError, ShapeError, UnknownNameError
from ...kernels.dispatch import backends, interpreting, native_module
from ..adaptive.controller import Controller
from ..adaptive.controller import controller as controller_named
from ..adaptive.loop import Limits
from ..adaptive.pairs import PAIRS, Pair, pair
from ..adaptive.solution import Solution
from ..adaptive.solve import checked_limits, requested_times
from ..adaptive.tolerance import tolerance
from .functions import RightHandSide, right_hand_side

STAGES = (4, 7)  # that the compiled stepper was made for
COUNTS = ("status", "accepted", "rejected")


def solve_ensemble(
    rhs: Any,
    y0: Tensor,
    times: Sequence[float] | np.ndarray | Tensor,
    *,
    params: Tensor | None = None,
    method: str | Pair = "tsit54",
    rtol: float = 1e-6,
    atol: float | Tensor = 1e-6,
    controller: str | Controller = "PI",
    first_step: float | None = None,
    min_step: float | None = None,
    max_step: float = math.inf,
    max_steps: int = 10_000,
    on_failure: Literal["raise", "warn", "return"] = "raise",
) -> Solution:
    r"""Integrate :math:`dy_b/dt = f(t, y_b, p_b)` for B small systems, adaptively, wholly in machine code.

    Each trajectory has its own time, step size and status, and its steps are those of :func:`solve_ode`. A thread takes
    a block of trajectories, which step together in vector registers; one that has arrived makes room for the next. The
    result of a trajectory does not depend, bit for bit, on its batch, its place in it or the number of threads, which
    is ``torch.get_num_threads()``. Gradients are not recorded.

    Args:
        rhs: The right-hand side: a field of `pushforward.solvers.ensemble` (``VanDerPol``, ``Lorenz``, ``Linear``,
            ``GaussianMixture``), a Python function compiled by ``numba_rhs``, or a compiled function (numba ``cfunc``,
            ctypes or cffi pointer, address) with the signature of ``NativeFunction``; on a GPU, a field or a
            ``triton.jit`` function, see ``TritonFunction``.
        y0: Initial states [B, d], float64.
        times: Strictly increasing or decreasing, [T], at least one. States at times between the first and the last are
            interpolated (order 4 for pairs 5(4)); no step goes beyond the last.
        params: Parameters of a function, float64: [p] for all trajectories, or [B, p].
        method: A pair of four or seven stages whose last stage is the first of the next step: "tsit54", "dopri54",
            "dopri5", "bosh32", or a `Pair`.
        rtol: Relative tolerance.
        atol: Absolute tolerance, a number or [d]. The error norm is the root mean square over components of
            :math:`e / (\mathrm{atol} + \mathrm{rtol} \max(|y|, |y'|))`.
        controller: "I", "PI", "PI34", "PI42", "PID" or a `Controller`. On Van der Pol's oscillator "PI" needs 7 % fewer
            attempts than "I", for half the error.
        first_step: Length of the first step; by default it is chosen for each trajectory, with one evaluation.
        min_step, max_step: Bounds of a step's length; the least is sixteen units in the last place of the time unless
            given.
        max_steps: How many attempts a trajectory may need.
        on_failure: What to do if a trajectory does not arrive: "raise" an error that carries the solution as
            ``.solution``, "warn", or "return" it; see `Solution.status`.

    Returns:
        A `Solution`: states ``x`` at ``times``, [T, B, d], NaN where a trajectory did not arrive; ``final`` states and
        their times ``t``; ``status``, ``nfe``, ``accepted`` and ``rejected`` for each trajectory.

    Raises:
        ArgumentError, ShapeError, DtypeError, DeviceError, UnknownNameError, GridError: What is wrong with an argument.
        BackendError: The compiled module is not there, or Triton.
        IntegrationError: A step became too small, or ``max_steps`` were not enough.
        NotFiniteError: The right-hand side gave NaN or infinity however small the step.

    Source: Hairer, Norsett & Wanner 1993, II.4.

    Example:
        >>> from pushforward.solvers.ensemble import Linear
        >>> y0 = torch.tensor([[1.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
        >>> turned = solve_ensemble(Linear([[0.0, 1.0], [-1.0, 0.0]]), y0, [0.0, math.pi], rtol=1e-9, atol=1e-9)
        >>> turned.final.round(decimals=6)
        tensor([[-1.,  0.],
                [-0., -2.]], dtype=torch.float64)

    """
    check_states(y0)
    batch, dim = y0.shape
    if np.ndim(times) != 1:
        raise ShapeError("times", got=list(np.shape(times)), expected="[T], the same for all trajectories")
    grid = np.array(requested_times(times, max(batch, 1))[0])
    limits = checked_limits(first_step, min_step, max_step, max_steps)
    control, tableau = controller_named(controller), embedded_pair(method)
    absolute = tolerances(rtol, atol, dim)
    if on_failure not in ("raise", "warn", "return"):
        raise UnknownNameError("on_failure", got=repr(on_failure), expected="'raise', 'warn' or 'return'")
    side = right_hand_side(rhs)
    bound, run = side.bind(batch, dim, params), runner(side, y0)
    start = y0.detach().contiguous()
    solution = empty_solution(grid, start)
    if batch and len(grid) > 1:
        run(bound, start, solution, tableau, control, limits, float(rtol), absolute)
        started = 1 if limits.first_step else 2
        solution.nfe[:] = started + tableau.evaluations * (solution.accepted + solution.rejected)
    report(solution, on_failure, limits)
    return solution


def runner(side: RightHandSide, y0: Tensor) -> Callable[..., None]:
    """What integrates: the compiled module, or Triton.

    Raises:
        BackendError: It is not there.
        DeviceError: The right-hand side has no machine code for the device of y0.

    """
    if y0.is_cpu and side.on_cpu:
        if native_module is None:
            raise BackendError("solve_ensemble", hint=f"Not available: {backends()['native']}")
        return run_native
    if side.on_gpu is None or not (y0.is_cuda or (y0.is_cpu and interpreting())):
        kind = type(side).__name__
        expected = "the CPU" if side.on_gpu is None else "a CUDA device"
        raise DeviceError("y0", got=y0.device, expected=f"{expected}, for which {kind} has machine code")
    if (state := backends()["triton"]) != "available":
        raise BackendError("solve_ensemble", hint=f"Not available: {state}")
    return partial(run_triton, side.on_gpu)


def empty_solution(grid: np.ndarray, y0: Tensor) -> Solution:
    """Room for the results; where there is nothing to do they are right already."""
    batch = len(y0)
    return Solution(
        times=grid,
        x=y0[None].repeat(len(grid), 1, 1) if len(grid) < 2 else y0.new_empty(len(grid), *y0.shape),
        final=y0.clone(),
        t=np.full(batch, grid[0]),
        status=np.zeros(batch, dtype=np.int64),
        nfe=np.zeros(batch, dtype=np.int64),
        accepted=np.zeros(batch, dtype=np.int64),
        rejected=np.zeros(batch, dtype=np.int64),
    )


def numbers_of(control: Controller, tableau: Pair) -> tuple[float, ...]:
    """Exponents of the last error norms, order, safety, smallest and largest factor."""
    p, i, d, order = control.proportional, control.integral, control.derivative, float(tableau.order)
    exponents = ((p + i + d) / order, -(p + 2 * d) / order, d / order)
    return (*exponents, order, control.safety, control.min_factor, control.max_factor)


def run_native(bound, y0, solution, tableau: Pair, control: Controller, limits: Limits, rtol: float, atol) -> None:
    """Fill in the solution, on the CPU."""
    assert native_module is not None
    native_module.solve_ensemble(
        bound.kind,
        bound.address,
        tableau.a,
        tableau.c,
        tableau.error[0],
        tableau.dense,
        numbers_of(control, tableau),
        *y0.shape,
        y0.data_ptr(),
        bound.params.data_ptr(),
        bound.params.shape[-1],
        bound.shared,
        solution.times.tolist(),
        rtol,
        atol,
        limits.first_step or 0.0,
        limits.min_step or 0.0,
        limits.max_step,
        limits.max_steps,
        solution.x.data_ptr(),
        solution.final.data_ptr(),
        solution.t.ctypes.data,
        solution.status.ctypes.data,
        solution.accepted.ctypes.data,
        solution.rejected.ctypes.data,
    )


def run_triton(rhs: Any, bound, y0, solution, tableau: Pair, control: Controller, limits: Limits, rtol, atol) -> None:
    """Fill in the solution, on a GPU (or in Triton's interpreter)."""
    kernels = importlib.import_module("...kernels.triton.ensemble", __package__)

    def table(rows: Sequence[Sequence[float]], width: int) -> tuple[float, ...]:
        return tuple(w for row in rows for w in (*row, *[0.0] * (width - len(row))))

    def tensor(values: Any) -> Tensor:
        return torch.tensor(values, dtype=torch.float64, device=y0.device)

    start, end = (float(t) for t in solution.times[[0, -1]])
    least = (limits.min_step, 0.0) if limits.min_step else (0.0, 2.0**-48)
    settings = (start, end, math.copysign(1.0, end - start), rtol, *least, limits.max_step)
    solution.x[0], solution.x[1:] = y0, math.nan
    counts = {name: torch.zeros(len(y0), dtype=torch.int64, device=y0.device) for name in COUNTS}
    results = {"out": solution.x, "final": solution.final, "reached": tensor(solution.t)} | counts
    kernels.solve(
        getattr(kernels, rhs) if isinstance(rhs, str) else rhs,
        y0,
        bound.params.to(y0.device),
        (table(tableau.a, tableau.stages), tableau.c, tableau.error[0], table(tableau.dense, 4)),
        tensor(atol),
        tensor((*settings, *numbers_of(control, tableau))),
        tensor(solution.times),
        limits.first_step,
        limits.max_steps,
        results,
    )
    solution.t[:] = results["reached"].cpu().numpy()
    for name, values in counts.items():
        getattr(solution, name)[:] = values.cpu().numpy()


def report(solution: Solution, on_failure: str, limits: Limits) -> None:
    """Raise or warn if a trajectory failed."""
    if on_failure == "return" or bool(solution.success.all()):
        return
    first = int(np.flatnonzero(~solution.success)[0])
    least = limits.min_step or 16 * float(np.spacing(abs(solution.t[first])))
    error = solution.failure(least, limits.max_steps)
    if error is not None and on_failure == "raise":
        raise error
    warnings.warn(str(error), RuntimeWarning, stacklevel=3)


def check_states(y0: Tensor) -> None:
    """Refuse what is no ensemble.

    Raises:
        ArgumentError, DtypeError, ShapeError: Not a float64 tensor [B, d].

    """
    if not isinstance(y0, Tensor):
        raise ArgumentError("y0", got=f"a {type(y0).__name__}", expected="a float64 tensor [B, d]")
    if y0.dtype != torch.float64:
        raise DtypeError("y0", got=y0.dtype, expected="float64")
    if y0.ndim != 2 or y0.shape[1] == 0:
        raise ShapeError("y0", got=list(y0.shape), expected="[B, d] with d of at least 1")


def embedded_pair(method: str | Pair) -> Pair:
    """A pair that the compiled stepper can take.

    Raises:
        UnknownNameError: No pair has that name.
        ArgumentError: Not one of four or seven stages, the last the first of the next step.

    """
    tableau = pair(method) if isinstance(method, str) else method.verified
    fits = tableau.fsal and tableau.stages in STAGES and not tableau.extra and len(tableau.error) == 1
    if not fits or max(map(len, tableau.dense)) > 4:
        names = [name for name in PAIRS if PAIRS[name].fsal and PAIRS[name].stages in STAGES]
        expected = f"a pair of {STAGES[0]} or {STAGES[1]} stages whose last is the next step's first"
        raise ArgumentError("method", got=str(tableau), expected=f"{expected}: {', '.join(names)}")
    return tableau


def tolerances(rtol: float, atol: float | Tensor, dim: int) -> list[float]:
    """Absolute tolerances of the components, once both have been checked.

    Raises:
        ArgumentError, ShapeError: Negative, both zero, too small to resolve; not a number or [d].

    """
    if isinstance(rtol, Tensor) and rtol.ndim > 0:
        raise ShapeError("rtol", got=list(rtol.shape), expected="a number")
    if isinstance(atol, Tensor | np.ndarray | list | tuple):
        atol = torch.as_tensor(atol, dtype=torch.float64)
        if atol.ndim > 1 or (atol.ndim == 1 and len(atol) != dim):
            raise ShapeError("atol", got=list(atol.shape), expected=f"a number, or [{dim}]")
    tolerance(rtol, atol, "rms", torch.empty(1, dim, dtype=torch.float64))
    return torch.as_tensor(atol, dtype=torch.float64).expand(dim).tolist()
