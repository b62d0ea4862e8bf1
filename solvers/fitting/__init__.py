"""Solvers made for one model and one budget: :func:`fit` and the plan it returns."""

from .bundled import FITTED, bundled_fit, bundled_fits, solver_for
from .fit import Method, fit
from .fitted_plan import FittedPlan, FitWarning
from .report import FitReport

__all__ = [
    "FITTED",
    "FitReport",
    "FitWarning",
    "FittedPlan",
    "Method",
    "bundled_fit",
    "bundled_fits",
    "fit",
    "solver_for",
]
