"""Pushforward: compiled solvers for flow-matching and diffusion models.

Every step is one pass over memory: a solver is written as its formula, becomes a straight-line program of network
evaluations and linear combinations, and runs on fused kernels. Start with :func:`sample`.
"""

from importlib.util import find_spec
from pathlib import Path

if find_spec(f"{__name__}.kernels") is None:  # Python was started in a checkout: the mapped folders lie beside this one
    __path__.append(str(Path(__file__).resolve().parents[1]))

from . import errors, kernels, models, solvers
from .errors import PushforwardError
from .parallel import sample_parallel
from .sample import make_plan, sample
from .solvers import (
    BrownianTree,
    Executor,
    FittedPlan,
    Plan,
    Trajectory,
    fit,
    grid,
    log_density,
    optimise_grid,
    sample_with_log_density,
    solve_ensemble,
    solve_ode,
    solve_sde,
    solver,
)
from .solvers.interop import odeint, odeint_adjoint, odeint_event
from .solvers.interop.torchsde import sdeint
from .solvers.search import search

__version__ = "0.1.0"

__all__ = [
    "BrownianTree",
    "Executor",
    "FittedPlan",
    "Plan",
    "PushforwardError",
    "Trajectory",
    "errors",
    "fit",
    "grid",
    "kernels",
    "log_density",
    "make_plan",
    "models",
    "odeint",
    "odeint_adjoint",
    "odeint_event",
    "optimise_grid",
    "sample",
    "sample_parallel",
    "sample_with_log_density",
    "sdeint",
    "search",
    "solve_ensemble",
    "solve_ode",
    "solve_sde",
    "solver",
    "solvers",
]
