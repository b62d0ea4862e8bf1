"""Pushforward: compiled solvers for flow-matching and diffusion models."""

__version__ = "0.1.0"
