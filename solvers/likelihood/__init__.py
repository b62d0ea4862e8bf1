"""Likelihood: log-densities along the probability flow.

:func:`log_density` follows points back to the base; :func:`sample_with_log_density` draws samples and knows theirs.
:func:`classify_by_likelihood` compares candidate conditions.
"""

from .bits import bits_per_dimension, dequantise
from .classify import ClassDensities, classify_by_likelihood
from .divergence import TRACES, ExactTrace, Hutchinson, HutchPlusPlus, Trace
from .log_density import LogDensity, log_density, sample_with_log_density

__all__ = [
    "TRACES",
    "ClassDensities",
    "ExactTrace",
    "HutchPlusPlus",
    "Hutchinson",
    "LogDensity",
    "Trace",
    "bits_per_dimension",
    "classify_by_likelihood",
    "dequantise",
    "log_density",
    "sample_with_log_density",
]
