"""Oracles: data distributions whose velocity, score, posterior mean and likelihood are known in closed form."""

from .coupling import CouplingOracle as CouplingOracle
from .gaussian import GaussianOracle as GaussianOracle
from .mixture import MixtureOracle as MixtureOracle
from .mixture import reference_mixture as reference_mixture
from .network import OracleNetwork as OracleNetwork
from .oracle import Oracle as Oracle
from .point_charges import PointCharges as PointCharges
