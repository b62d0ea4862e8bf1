"""Right-hand sides in machine code: what the solver needs of one, and compiled functions of the user's."""

from __future__ import annotations

import ctypes
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...errors import ArgumentError, DtypeError, ShapeError

POINTER = ctypes.CFUNCTYPE(None).__mro__[1]  # the class of all function pointers of ctypes
# Numbers of the kinds in csrc/cpu/ensemble.hpp.
FUNCTION, VAN_DER_POL, LORENZ, LINEAR, MIXTURE = range(5)


@dataclass(frozen=True)
class Bound:
    """A right-hand side for one ensemble.

    Attributes:
        kind: Which built-in field, or FUNCTION.
        address: Of the function.
        params: float64, contiguous: [p] for all trajectories, or [B, p].

    """

    kind: int
    address: int
    params: Tensor

    @property
    def shared(self) -> bool:
        """Whether all trajectories have the same parameters."""
        return self.params.ndim == 1


class RightHandSide(ABC):
    """What an ensemble integrates: a function in machine code, called for a block of trajectories at a time.

    Attributes:
        on_gpu: The name of its function in `kernels.triton.ensemble`, or that function; None if it has none.
        on_cpu: Whether there is machine code for the CPU.

    """

    on_gpu: Any = None
    on_cpu: bool = True

    @abstractmethod
    def bind(self, batch: int, dim: int, params: Tensor | None) -> Bound:
        """Kind, address and parameters for ``batch`` trajectories of dimension ``dim``.

        Raises:
            ArgumentError, ShapeError, DtypeError: Parameters or a dimension that do not fit.

        """


def given_params(params: Tensor | None, batch: int) -> Tensor:
    """Parameters of a function of the user's, [p] or [B, p]; none are an empty row.

    Raises:
        DtypeError, ShapeError: Not float64 numbers [p] or [B, p].

    """
    if params is None:
        return torch.zeros(0, dtype=torch.float64)
    params = torch.as_tensor(params)
    if params.dtype != torch.float64:
        raise DtypeError("params", got=params.dtype, expected="float64")
    if params.ndim not in (1, 2) or (params.ndim == 2 and params.shape[0] != batch):
        expected = f"[p], shared by all trajectories, or [{batch}, p]"
        raise ShapeError("params", got=list(params.shape), expected=expected)
    return params.detach().cpu().contiguous()


@dataclass(frozen=True, eq=False)
class NativeFunction(RightHandSide):
    r"""A compiled function for a block of trajectories, in structure-of-arrays layout.

    Its C signature is ::

        void rhs(int64_t lanes, int64_t dim, const double *t, const double *y, const double *params, double *dy);

    with t [lanes], y and dy [dim][lanes] (component i of trajectory l at ``y[i * lanes + l]``), and params [p] if
    they are shared by all trajectories, else [p][lanes]. ``lanes`` is a multiple of 32, so that a loop over lanes
    vectorises without a remainder; lanes without a trajectory hold copies of others. It is called from several threads
    at once, without Python's lock; what it returns for a lane must depend on that lane alone. NaN or infinity in
    ``dy`` ends the trajectory of that lane, and no other.

    Attributes:
        address: Of the function.
        keep: What must live as long as the address is used: a library, a numba function.

    Raises:
        ArgumentError: An address that is not a positive integer.

    """

    address: int
    keep: Any = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if isinstance(self.address, bool) or not isinstance(self.address, int) or self.address <= 0:
            raise ArgumentError("address", got=self.address, expected="the address of a compiled function")

    def bind(self, batch: int, dim: int, params: Tensor | None) -> Bound:
        """The function with parameters as they come."""
        return Bound(FUNCTION, self.address, given_params(params, batch))


class TritonFunction(RightHandSide):
    """A ``@triton.jit`` function ``f(t, y, p)`` for a block of trajectories on a GPU, compiled into the whole loop.

    t is a block of times [BLOCK]; y a tuple of blocks, one a component; p a tuple of parameters: numbers if all
    trajectories share them, else blocks. It returns a tuple of the slopes, one a component.

    Args:
        function: The function.

    """

    on_cpu = False

    def __init__(self, function: Any) -> None:
        self.on_gpu = function

    def bind(self, batch: int, dim: int, params: Tensor | None) -> Bound:
        """The function with parameters as they come."""
        return Bound(FUNCTION, 0, given_params(params, batch))


def right_hand_side(rhs: Any) -> RightHandSide:
    """A right-hand side from what a user has: itself, a numba ``cfunc``, a ctypes or cffi pointer, a Triton function.

    Raises:
        ArgumentError: Something else, for instance a Python function; says what to do with it.

    """
    if isinstance(rhs, RightHandSide):
        return rhs
    if isinstance(getattr(rhs, "address", None), int) and hasattr(rhs, "native_name"):
        arguments = getattr(getattr(rhs, "_sig", None), "args", None)
        if arguments is not None and len(arguments) != 6:
            expected = "the six of pushforward.solvers.ensemble.NativeFunction"
            raise ArgumentError("rhs", got=f"a numba cfunc of {len(arguments)} arguments", expected=expected)
        return NativeFunction(rhs.address, keep=rhs)
    if isinstance(rhs, POINTER):
        return NativeFunction(ctypes.cast(rhs, ctypes.c_void_p).value or 0, keep=rhs)
    if type(rhs).__module__ == "_cffi_backend":
        backend = sys.modules["_cffi_backend"]
        return NativeFunction(int(backend.FFI().cast("uintptr_t", rhs)), keep=rhs)
    if type(rhs).__module__.startswith("triton."):
        return TritonFunction(rhs)
    hints = {
        True: "pushforward.solvers.ensemble.numba_rhs compiles a Python function; solve_ode takes functions of tensors",
        False: "Wrap an address in pushforward.solvers.ensemble.NativeFunction",
    }
    raise ArgumentError(
        "rhs",
        got=f"a {type(rhs).__name__}",
        expected="a field of solvers.ensemble, a numba cfunc, a ctypes or cffi pointer, or a triton.jit function",
        hint=hints[callable(rhs)],
    )
