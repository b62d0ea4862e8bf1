"""Particles: populations that move as a whole, and the Gaussian kernels that propose their next states."""

from .population import Particles
from .shard import Shard
from .transitions import Transition, Transitions

__all__ = ["Particles", "Shard", "Transition", "Transitions"]
