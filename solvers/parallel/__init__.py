"""Sampling in parallel over time: fewer network calls one after another, for more evaluations in all."""

from .chain import Link, chain
from .picard import ParallelReport, picard

__all__ = ["Link", "ParallelReport", "chain", "picard"]
