"""Which implementation runs: a table of (operation, backend), a forced choice, and reasons for what is missing."""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import torch

from ..errors import BackendError, UnknownNameError

try:
    native_module = importlib.import_module("._native", __package__)
    _native_missing = None
except ImportError as error:  # installed without a compiler, or with PUSHFORWARD_NATIVE=off
    native_module, _native_missing = None, f"the compiled module is not there ({error}); reinstall with a C++ compiler"

BACKENDS = ("reference", "native", "triton", "cuda")
Function = TypeVar("Function", bound=Callable[..., Any])
_table: dict[tuple[str, str], Callable[..., Any]] = {}
_forced: ContextVar[str | None] = ContextVar(
    "pushforward_backend", default=os.environ.get("PUSHFORWARD_BACKEND") or None
)
_chosen: dict[tuple[str, str | None, str], Callable[..., Any]] = {}


class BackendWarning(UserWarning):
    """The library runs, but on a slower backend than this machine could offer."""


def implements(op: str, name: str) -> Callable[[Function], Function]:
    """Register the decorated function as the implementation of ``op`` on the backend ``name``."""

    def register(function: Function) -> Function:
        _table[op, name] = function
        return function

    return register


def backends() -> dict[str, str]:
    """State of every backend: ``"available"``, or why it is not.

    Example:
        >>> backends()["reference"]
        'available'
    """
    missing = {
        "reference": None,
        "native": _native_missing,
        "triton": "not built yet: this version has no Triton kernels",
        "cuda": "not built yet: this version has no CUDA kernels",
    }
    return {name: missing[name] or "available" for name in BACKENDS}


@contextmanager
def backend(name: str | None) -> Iterator[None]:
    """Force one backend within a ``with`` block (``None``: back to the automatic choice).

    The environment variable ``PUSHFORWARD_BACKEND``, read once at import, does the same for a whole process.

    Raises:
        UnknownNameError: No backend has this name.
        BackendError: It is not available here; says why. A forced backend never falls back.

    Example:
        >>> with backend("reference"):
        ...     chosen_backend("cpu")
        'reference'
    """
    check_available(name)
    token = _forced.set(name)
    try:
        yield
    finally:
        _forced.reset(token)


def check_available(name: str | None) -> None:
    """Raise unless ``name`` is a backend that works here."""
    if name is None:
        return
    if name not in BACKENDS:
        raise UnknownNameError("backend", got=repr(name), expected=" | ".join(BACKENDS))
    if (state := backends()[name]) != "available":
        raise BackendError(f"backend {name}", hint=f"Not available: {state}")


def chosen_backend(device: str) -> str:
    """Name of the backend that tensors on a device of this type run on; warns once where the native one is missing."""
    name = _forced.get()
    if name is not None:
        check_available(name)
        if name == "native" and device != "cpu":
            raise BackendError("backend native", got=f"a tensor on {device}", expected="tensors on cpu")
        return name
    if device != "cpu":
        return "reference"
    if native_module is None:
        _warn_once()
        return "reference"
    return "native"


def implementation(op: str, device: str) -> Callable[..., Any]:
    """Look up the function that runs ``op`` for tensors on a device of this type ("cpu", "cuda", ...)."""
    key = (op, _forced.get(), device)
    if (function := _chosen.get(key)) is None:
        function = _chosen[key] = _table[op, chosen_backend(device)]
    return function


def short_way(op: str) -> Callable[..., Any] | None:
    """Native function for the common case of ``op`` (it returns None for others), where it may be used."""
    return _table.get((op, "native")) if _forced.get() in (None, "native") else None


_warned = False


def _warn_once() -> None:
    global _warned
    if not _warned:
        _warned = True
        warnings.warn(f"pushforward runs on the reference backend: {_native_missing}", BackendWarning, stacklevel=5)


def device_type(tensor: torch.Tensor) -> str:
    """Device type of a tensor, without building a `torch.device` for the common case."""
    return "cpu" if tensor.is_cpu else tensor.device.type
