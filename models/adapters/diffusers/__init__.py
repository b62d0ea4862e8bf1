"""Modules of the diffusers library: a row a family, a reader of schedulers, and the constructor that joins them.

The library itself is not imported here: modules are recognised by the name of their class. A new family is a row of
``families.py``.
"""

from .families import FAMILIES, Family
from .module import from_diffusers
from .scheduler import read_scheduler

__all__ = ["FAMILIES", "Family", "from_diffusers", "read_scheduler"]
