"""Exponential solvers in the half log-SNR."""

from .ddim import DDIM

__all__ = ["DDIM"]
