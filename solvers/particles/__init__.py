"""Particles: populations that move as a whole, and the Gaussian kernels that propose their next states."""

from .conditional import FeynmanKac, conditional_smc
from .distributed import TorchShard, shard_of
from .genealogy import Genealogy
from .ladder import Ladder
from .population import Particles
from .potentials import POTENTIALS, Potential, potential
from .shard import Shard
from .transitions import Transition, Transitions

__all__ = [
    "POTENTIALS",
    "FeynmanKac",
    "Genealogy",
    "Ladder",
    "Particles",
    "Potential",
    "Shard",
    "TorchShard",
    "Transition",
    "Transitions",
    "conditional_smc",
    "potential",
    "shard_of",
]
