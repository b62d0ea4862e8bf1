"""Rare data: a score of how rare a sample is, and levels of rarity that a classifier can learn."""

from .energy import MinorityEnergy as MinorityEnergy
from .guided import LevelLogLikelihood as LevelLogLikelihood
from .guided import minority_guided as minority_guided
from .labels import minority_edges as minority_edges
from .labels import minority_labels as minority_labels
from .score import minority_score as minority_score
from .score import squared_error as squared_error
