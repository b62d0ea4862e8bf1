"""Drop-ins for diffusers (a scheduler for its pipelines), k-diffusion and torchdiffeq (functions called as theirs).

``DiffusersScheduler`` needs diffusers, which is imported only when it is asked for. ``sample_euler``,
``sample_dpmpp_2m`` and so on are made from the registry of solvers: a registered solver is there without a line here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import k_diffusion
from .generators import sample_ids
from .torchdiffeq import odeint, odeint_adjoint, odeint_event

if TYPE_CHECKING:
    from .scheduler import DiffusersScheduler

# the first is made by __getattr__
__all__ = ["DiffusersScheduler", "k_diffusion", "odeint", "odeint_adjoint", "odeint_event", "sample_ids"]


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
