"""Functions called as torchdiffeq's are, on the adaptive loop and on the tableaus here."""

from .adjoint import odeint_adjoint
from .forward import odeint, odeint_event
from .methods import METHODS

__all__ = ["METHODS", "odeint", "odeint_adjoint", "odeint_event"]
