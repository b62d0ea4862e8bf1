"""Particles: populations that move as a whole, and the steps of samplers that propose their next states."""

from .conditional import FeynmanKac, conditional_smc
from .distributed import TorchShard, shard_of
from .genealogy import Genealogy
from .ladder import Ladder
from .population import Particles
from .potentials import POTENTIALS, Potential, potential
from .shard import Shard
from .transitions import GaussianTransition, PlannedTransition, Transition, Transitions

__all__ = [
    "POTENTIALS",
    "FeynmanKac",
    "GaussianTransition",
    "Genealogy",
    "Ladder",
    "Particles",
    "PlannedTransition",
    "Potential",
    "Shard",
    "TorchShard",
    "Transition",
    "Transitions",
    "conditional_smc",
    "potential",
    "shard_of",
]
