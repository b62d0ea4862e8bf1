"""Several branches or several networks as one field: weights that are known before any of them runs."""

from .blend import Blend as Blend
from .composed import ComposedModel as ComposedModel
from .composed import Member as Member
from .composed import composed as composed
from .directions import Directions as Directions
from .renoise import RenoisedGuidance as RenoisedGuidance
from .renoise import cfgpp_weight as cfgpp_weight
from .stitch import Stitch as Stitch
