"""Exponential solvers in the half log-SNR, and their relatives in the noise level."""

from .clock_adams import ClockAdams
from .coefficients import clock_weights, exponential_weights, kernel_moments, lagrange_weights
from .ddim import DDIM
from .dpm_blocks import DPMSolverBlocks
from .dpm_multistep import DPMSolverMultistep
from .dpm_singlestep import DPMSolverSinglestep
from .interval import Interval
from .noise_level import DPM2, PNDM, EDMHeun
from .unipc import UniPC

__all__ = [
    "DDIM",
    "DPM2",
    "PNDM",
    "ClockAdams",
    "DPMSolverBlocks",
    "DPMSolverMultistep",
    "DPMSolverSinglestep",
    "EDMHeun",
    "Interval",
    "UniPC",
    "clock_weights",
    "exponential_weights",
    "kernel_moments",
    "lagrange_weights",
]
