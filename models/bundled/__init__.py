"""Reference models that ship with the package: trained digit networks, loaded without a network connection."""

from .loader import card, load, names

__all__ = ["card", "load", "names"]
