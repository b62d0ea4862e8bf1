"""Brownian paths that are asked for any interval, in any order, and not stored; adaptive SDE methods on them."""

from . import additive, diagonal
from .scheme import SCHEMES, register_scheme
from .solve import solve_sde
from .tree import BrownianTree, Increment

__all__ = ["SCHEMES", "BrownianTree", "Increment", "additive", "diagonal", "register_scheme", "solve_sde"]
