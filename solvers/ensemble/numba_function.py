"""Right-hand sides written in Python, for one trajectory, and compiled by numba."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable
from typing import Any

from torch import Tensor

from ...errors import ArgumentError, MissingDependencyError
from .functions import FUNCTION, Bound, RightHandSide, given_params


class NumbaFunction(RightHandSide):
    """A function ``f(t, y, dy, params)`` for one trajectory, compiled into a loop over trajectories.

    See :func:`numba_rhs`. It is compiled when it is first used, once for each dimension and kind of parameters.

    Args:
        function: What to compile; numba's nopython mode must know all that it does.
        fastmath: Let numba reorder and approximate; results may then depend on the block that a trajectory is in.

    """

    def __init__(self, function: Callable[..., None], *, fastmath: bool = False) -> None:
        if not callable(function):
            raise ArgumentError("function", got=type(function).__name__, expected="a function f(t, y, dy, params)")
        self.function, self.fastmath = function, fastmath
        self._compiled: dict[tuple[int, int, bool], Any] = {}
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"numba_rhs({getattr(self.function, '__name__', self.function)})"

    def __call__(self, t: float, y: Any, dy: Any, params: Any) -> None:
        """The Python function itself."""
        self.function(t, y, dy, params)

    def bind(self, batch: int, dim: int, params: Tensor | None) -> Bound:
        """Compile for this dimension, if that has not been done.

        Raises:
            MissingDependencyError: numba is not installed.
            ArgumentError: numba cannot compile the function; says why.

        """
        given = given_params(params, batch)
        key = dim, given.shape[-1], given.ndim == 1
        with self._lock:
            if key not in self._compiled:
                self._compiled[key] = self._compile(*key)
            return Bound(FUNCTION, self._compiled[key].address, given)

    def _compile(self, dim: int, count: int, shared: bool) -> Any:
        try:
            numba: Any = importlib.import_module("numba")
        except ImportError as error:
            hint = "pip install 'pushforward[numba]'; or pass a compiled function, see NativeFunction"
            raise MissingDependencyError("numba", hint=hint) from error
        types, carray = numba.types, numba.carray
        double = types.CPointer(types.float64)
        signature = types.void(types.int64, types.int64, double, double, double, double)
        options = {"error_model": "numpy", "fastmath": self.fastmath}
        # Inlined by force, so that the loop over lanes can be vectorised; divisions that raise would prevent that.
        function = numba.njit(self.function, forceinline=True, **options)

        def together(lanes, _, t, y, params, dy):  # one row of parameters
            times, states, slopes = carray(t, lanes), carray(y, (dim, lanes)), carray(dy, (dim, lanes))
            row = carray(params, count)
            for lane in range(lanes):
                function(times[lane], states[:, lane], slopes[:, lane], row)

        def each(lanes, _, t, y, params, dy):  # a row a trajectory
            times, states, slopes = carray(t, lanes), carray(y, (dim, lanes)), carray(dy, (dim, lanes))
            rows = carray(params, (count, lanes))
            for lane in range(lanes):
                function(times[lane], states[:, lane], slopes[:, lane], rows[:, lane])

        try:
            return numba.cfunc(signature, **options)(together if shared else each)
        except numba.core.errors.NumbaError as error:
            first = str(error).strip()
            raise ArgumentError("rhs", got=repr(self), expected="what numba can compile", hint=first) from error


def numba_rhs(function: Callable[..., None] | None = None, *, fastmath: bool = False) -> Any:
    """Compile ``f(t, y, dy, params)``, which writes the slope of one trajectory to dy, with numba; a decorator.

    t is a number; y and dy are arrays [d]; params is an array [p], those of the trajectory if every one has its own.
    Compiled at first use (a second or so), once for each d and p; loops over the trajectories of a block are vectorised
    where the function has no branches and calls nothing but arithmetic.

    Args:
        function: The function.
        fastmath: Let numba reorder and approximate sums; then a trajectory need not come out the same, bit for bit, in
            any batch.

    Raises:
        MissingDependencyError: numba is not installed (when it is used).
        ArgumentError: numba cannot compile it (when it is used).

    Example:
        >>> @numba_rhs
        ... def van_der_pol(t, y, dy, params):
        ...     dy[0] = y[1]
        ...     dy[1] = params[0] * (1 - y[0] ** 2) * y[1] - y[0]
        >>> van_der_pol
        numba_rhs(van_der_pol)

    """
    if function is None:
        return lambda given: NumbaFunction(given, fastmath=fastmath)
    return NumbaFunction(function, fastmath=fastmath)
