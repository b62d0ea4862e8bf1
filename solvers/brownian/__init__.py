"""Brownian paths that can be asked for any interval, in any order, and are not stored."""

from .tree import BrownianTree, Increment

__all__ = ["BrownianTree", "Increment"]
