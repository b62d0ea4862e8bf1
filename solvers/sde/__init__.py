"""Solvers of SDEs: marginal-preserving, exponential, ancestral and restart sampling, and element-wise noise."""

from .additive import ShARK, StochasticRungeKutta
from .additive_tableau import AdditiveTableau
from .ancestral import DPM2Ancestral, DPMSolverPP2SAncestral, EulerAncestral
from .churn import DPM2Churn, EDMStochastic, EulerChurn
from .consistency import LCM
from .ddpm import DDPM
from .diagonal import integrate_diagonal
from .diffusion import Diffusion
from .dpm_solver_sde import DPMSolverPP2MSDE, DPMSolverPP3MSDE, DPMSolverPPSDE
from .marginal_preserving import EulerMaruyama, NoiseFirstHeun, StochasticHeun
from .restart import CIFAR10, IMAGENET64, Restart, RestartInterval
from .sa_solver import SASolver, Tau
from .seeds import SEEDS1, SEEDS2

__all__ = [
    "CIFAR10",
    "DDPM",
    "IMAGENET64",
    "LCM",
    "SEEDS1",
    "SEEDS2",
    "AdditiveTableau",
    "DPM2Ancestral",
    "DPM2Churn",
    "DPMSolverPP2MSDE",
    "DPMSolverPP2SAncestral",
    "DPMSolverPP3MSDE",
    "DPMSolverPPSDE",
    "Diffusion",
    "EDMStochastic",
    "EulerAncestral",
    "EulerChurn",
    "EulerMaruyama",
    "NoiseFirstHeun",
    "Restart",
    "RestartInterval",
    "SASolver",
    "ShARK",
    "StochasticHeun",
    "StochasticRungeKutta",
    "Tau",
    "integrate_diagonal",
]
