"""Particles: populations that move as a whole, and the Gaussian kernels that propose their next states."""

from .genealogy import Genealogy
from .population import Particles
from .shard import Shard
from .transitions import Transition, Transitions

__all__ = ["Genealogy", "Particles", "Shard", "Transition", "Transitions"]
