"""Solvers of the probability-flow ODE in the velocity."""

from .adams import AdamsBashforth, AdamsBashforthMoulton, adams_weights
from .fitted import FittedMultistep
from .flow_turbo import FlowTurbo
from .pseudo_corrector import PseudoCorrector
from .ramped_adams import RampedAdamsBashforth
from .runge_kutta import RK4, RK38, SSPRK3, Euler, Heun, Kutta3, Midpoint, Ralston, RungeKutta
from .tableau import Tableau, rooted_trees

__all__ = [
    "RK4",
    "RK38",
    "SSPRK3",
    "AdamsBashforth",
    "AdamsBashforthMoulton",
    "Euler",
    "FittedMultistep",
    "FlowTurbo",
    "Heun",
    "Kutta3",
    "Midpoint",
    "PseudoCorrector",
    "Ralston",
    "RampedAdamsBashforth",
    "RungeKutta",
    "Tableau",
    "adams_weights",
    "rooted_trees",
]
