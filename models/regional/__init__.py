"""Region-adaptive sampling: only the tokens that a model is working on go through its network."""

from .region_adaptive import BoundRegionAdaptive as BoundRegionAdaptive
from .region_adaptive import Evaluated as Evaluated
from .region_adaptive import RegionAdaptive as RegionAdaptive
from .schedule import RegionSchedule as RegionSchedule
from .selectors import SELECTORS as SELECTORS
from .selectors import Selector as Selector
from .selectors import Tokens as Tokens
from .selectors import least_active as least_active
from .selectors import most_changed as most_changed
from .selectors import most_drifted as most_drifted
from .selectors import random_tokens as random_tokens
from .sites import TokenSites as TokenSites
from .sites import token_sites as token_sites
