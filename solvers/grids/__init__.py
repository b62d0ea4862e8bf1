"""Time grids: pure functions from a number of steps (and an interpolant) to increasing times, as plain float64."""

from .clock import Circular, Cosine, Sway, Uniform
from .levels import Arctan, Beta, Karras, LevelGrid, LogSNR
from .optimise import optimise_grid
from .optimised import OptimisedGrid
from .registry import GRIDS, GridFunction, grid, register
from .shift import DynamicShift, Offset, Shifted, Stretched
from .tables import AlignYourSteps, Indices, NoiseRatios, Timesteps

__all__ = [
    "GRIDS",
    "AlignYourSteps",
    "Arctan",
    "Beta",
    "Circular",
    "Cosine",
    "DynamicShift",
    "GridFunction",
    "Indices",
    "Karras",
    "LevelGrid",
    "LogSNR",
    "NoiseRatios",
    "Offset",
    "OptimisedGrid",
    "Shifted",
    "Stretched",
    "Sway",
    "Timesteps",
    "Uniform",
    "grid",
    "optimise_grid",
    "register",
]
