"""Solvers of the marginal-preserving SDE."""

from .diffusion import Diffusion
from .marginal_preserving import EulerMaruyama, StochasticHeun

__all__ = ["Diffusion", "EulerMaruyama", "StochasticHeun"]
