"""Drop-ins for other libraries: a scheduler for diffusers' pipelines, and functions that are called as k-diffusion's.

``DiffusersScheduler`` needs diffusers, which is imported only when it is asked for. ``sample_euler``,
``sample_dpmpp_2m`` and so on are made from the registry of solvers: a registered solver is there without a line here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import k_diffusion
from .generators import sample_ids

if TYPE_CHECKING:
    from .scheduler import DiffusersScheduler

__all__ = ["DiffusersScheduler", "k_diffusion", "sample_ids"]  # the first is made by __getattr__


def __getattr__(name: str) -> Any:
    """``DiffusersScheduler``, and the ``sample_`` functions."""
    if name == "DiffusersScheduler":
        from ...errors import MissingDependencyError

        try:
            from .scheduler import DiffusersScheduler
        except ImportError as error:
            if (error.name or "").partition(".")[0] != "diffusers":
                raise
            hint = "pip install 'pushforward[interop]'"
            raise MissingDependencyError("diffusers", got="not installed", expected=">= 0.32", hint=hint) from error
        return DiffusersScheduler
    if name.startswith("sample_"):
        return getattr(k_diffusion, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
