"""Sampling in parallel over time: fewer network calls one after another, for more evaluations in all."""

from .anderson import Anderson
from .picard import ParallelReport, picard

__all__ = ["Anderson", "ParallelReport", "picard"]
