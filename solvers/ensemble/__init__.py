"""Ensembles of small systems: every trajectory integrated wholly in machine code.

:func:`solve_ensemble` is the way in. Right-hand sides are those of `fields`, functions that numba compiles
(:func:`numba_rhs`), any compiled function of the signature of :class:`NativeFunction`, and on a GPU any
:class:`TritonFunction`.
"""

from .fields import GaussianMixture, Linear, Lorenz, VanDerPol
from .functions import NativeFunction, RightHandSide, TritonFunction
from .numba_function import NumbaFunction, numba_rhs
from .solve import solve_ensemble

__all__ = [
    "GaussianMixture",
    "Linear",
    "Lorenz",
    "NativeFunction",
    "NumbaFunction",
    "RightHandSide",
    "TritonFunction",
    "VanDerPol",
    "numba_rhs",
    "solve_ensemble",
]
