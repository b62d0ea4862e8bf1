"""Stochastic samplers: the marginal-preserving SDE, its exponential integrators, ancestral and restart sampling."""

from .ancestral import DPM2Ancestral, DPMSolverPP2SAncestral, EulerAncestral
from .churn import DPM2Churn, EDMStochastic, EulerChurn
from .consistency import LCM
from .ddpm import DDPM
from .diffusion import Diffusion
from .dpm_solver_sde import DPMSolverPP2MSDE, DPMSolverPP3MSDE, DPMSolverPPSDE
from .marginal_preserving import EulerMaruyama, StochasticHeun
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
    "Restart",
    "RestartInterval",
    "SASolver",
    "StochasticHeun",
    "Tau",
]
