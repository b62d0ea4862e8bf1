"""Solvers, time grids, plans and the executor that runs them."""

if (
    __name__ == "solvers"
):  # on sys.path by accident (a checkout as working directory): look like an unrelated, empty module
    __version__ = "0"
else:
    from . import (
        adaptive,
        brownian,
        ensemble,
        exponential,
        fitting,
        interop,
        likelihood,
        ode,
        parallel,
        particles,
        sde,
        search,
        tokens,
    )
    from .adaptive import Controller, Event, Solution, Status, solve_ode
    from .brownian import BrownianTree, solve_sde
    from .ensemble import solve_ensemble
    from .executor import Executor, Request
    from .fitting import FitReport, FittedPlan, FitWarning, bundled_fit, fit
    from .grids import (
        GRIDS,
        AlignYourSteps,
        Arctan,
        Beta,
        Circular,
        Cosine,
        DynamicShift,
        Indices,
        Karras,
        LogSNR,
        NoiseRatios,
        Offset,
        OptimisedGrid,
        Shifted,
        Stretched,
        Sway,
        Timesteps,
        Uniform,
        grid,
        optimise_grid,
    )
    from .head_start import HeadStart
    from .hooks import Hook, StepState, Trajectory
    from .likelihood import LogDensity, log_density, sample_with_log_density
    from .plan import Channelwise, Cost, Expression, Plan, StepBuilder
    from .sde import Diffusion
    from .solver import FixedGridSolver, plan, register, solver, solvers

    __all__ = [
        "GRIDS",
        "AlignYourSteps",
        "Arctan",
        "Beta",
        "BrownianTree",
        "Channelwise",
        "Circular",
        "Controller",
        "Cosine",
        "Cost",
        "Diffusion",
        "DynamicShift",
        "Event",
        "Executor",
        "Expression",
        "FitReport",
        "FitWarning",
        "FittedPlan",
        "FixedGridSolver",
        "HeadStart",
        "Hook",
        "Indices",
        "Karras",
        "LogDensity",
        "LogSNR",
        "NoiseRatios",
        "Offset",
        "OptimisedGrid",
        "Plan",
        "Request",
        "Shifted",
        "Solution",
        "Status",
        "StepBuilder",
        "StepState",
        "Stretched",
        "Sway",
        "Timesteps",
        "Trajectory",
        "Uniform",
        "adaptive",
        "brownian",
        "bundled_fit",
        "ensemble",
        "exponential",
        "fit",
        "fitting",
        "grid",
        "interop",
        "likelihood",
        "log_density",
        "ode",
        "optimise_grid",
        "parallel",
        "particles",
        "plan",
        "register",
        "sample_with_log_density",
        "sde",
        "search",
        "solve_ensemble",
        "solve_ode",
        "solve_sde",
        "solver",
        "solvers",
        "tokens",
    ]
