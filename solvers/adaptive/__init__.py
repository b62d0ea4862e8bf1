"""Adaptive integration: every sample with a time and a step size of its own.

:func:`solve_ode` is the way in. A :class:`Method` makes attempts at steps (explicit pairs are in `pairs`), a
:class:`Controller` chooses their sizes, and `loop` accepts, rejects, writes outputs and lets finished samples go.
"""

from . import order_eight, order_six
from .controller import CONTROLLERS, Controller
from .events import Event
from .explicit import ExplicitMethod
from .implicit import ImplicitMethod, Newton
from .implicit_pairs import IMPLICIT, ImplicitPair
from .method import METHODS, Attempt, Live, Method, register_method
from .pairs import PAIRS, Pair, pair
from .solution import DenseOutput, EventRecord, Solution, Status
from .solve import solve_ode

__all__ = [
    "CONTROLLERS",
    "IMPLICIT",
    "METHODS",
    "PAIRS",
    "Attempt",
    "Controller",
    "DenseOutput",
    "Event",
    "EventRecord",
    "ExplicitMethod",
    "ImplicitMethod",
    "ImplicitPair",
    "Live",
    "Method",
    "Newton",
    "Pair",
    "Solution",
    "Status",
    "order_eight",
    "order_six",
    "pair",
    "register_method",
    "solve_ode",
]
