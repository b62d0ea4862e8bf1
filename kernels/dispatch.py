"""Which implementation runs: a table of (operation, backend), a forced choice, and reasons for what is missing."""

from __future__ import annotations

import importlib
import importlib.util
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
# Which backend runs tensors of a device type, best first; the first that is available and has the operation.
PREFERENCES = {"cpu": ("native", "reference"), "cuda": ("cuda", "triton", "reference")}
Function = TypeVar("Function", bound=Callable[..., Any])
_table: dict[tuple[str, str], Callable[..., Any]] = {}
forced: ContextVar[str | None] = ContextVar(
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
    missing = {"reference": None, "native": _native_missing, "triton": _triton_missing(), "cuda": _cuda_missing()}
    return {name: missing[name] or "available" for name in BACKENDS}


def _triton_missing() -> str | None:
    if importlib.util.find_spec("triton") is None:
        return "the package triton is not installed: pip install 'pushforward[triton]'"
    if not (torch.cuda.is_available() or interpreting()):
        return "no CUDA device (TRITON_INTERPRET=1 runs the kernels in Triton's interpreter, for tests)"
    return None


def _cuda_missing() -> str | None:
    if native_module is None:
        return _native_missing
    if emulating():
        return None
    if not native_module.has_cuda():
        return "the compiled module was built without CUDA: nvcc was not found, or PUSHFORWARD_CUDA=off"
    if torch.cuda.is_available():
        return None
    return "no CUDA device (PUSHFORWARD_EMULATE_CUDA=1 runs the kernels thread by thread on the CPU, for tests)"


def interpreting() -> bool:
    """True if Triton's kernels run in its interpreter, on CPU tensors."""
    return _is_on("TRITON_INTERPRET")


def emulating() -> bool:
    """True if the CUDA kernels run on CPU tensors, thread by thread."""
    return _is_on("PUSHFORWARD_EMULATE_CUDA")


def _is_on(variable: str) -> bool:
    return os.environ.get(variable, "0").lower() in ("1", "true", "on", "yes", "y")


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
    token = forced.set(name)
    try:
        yield
    finally:
        forced.reset(token)


def check_available(name: str | None) -> None:
    """Raise unless ``name`` is a backend that works here."""
    if name is None:
        return
    if name not in BACKENDS:
        raise UnknownNameError("backend", got=repr(name), expected=" | ".join(BACKENDS))
    if (state := backends()[name]) != "available":
        raise BackendError(f"backend {name}", hint=f"Not available: {state}")


def chosen_backend(device: str, op: str = "combine") -> str:
    """Name of the backend that runs ``op`` for tensors on a device of this type.

    Warns once where the native one is missing.

    Raises:
        BackendError: A backend is forced that is not available, has no such operation, or does not run on the device.
    """
    name = forced.get()
    if name is not None:
        check_available(name)
        _load(name)
        works_on = "cpu" if name == "native" or imitated(name) else "cuda"
        if name != "reference" and device != works_on:
            raise BackendError(f"backend {name}", got=f"a tensor on {device}", expected=f"tensors on {works_on}")
        if (op, name) not in _table:
            raise BackendError(f"backend {name}", hint=f"It has no {op}; these have: {', '.join(implementing(op))}")
        return name
    state = backends()
    for name in PREFERENCES.get(device, ("reference",)):
        if imitated(name):  # runs CPU tensors, slowly: only where it is asked for by name
            continue
        if state[name] == "available":
            _load(name)
            if (op, name) in _table:
                return name
        elif name == "native":
            _warn_once()
    raise BackendError(f"operation {op}", hint=f"No backend has it for tensors on {device}")


def imitated(name: str) -> bool:
    """True if a backend for GPUs runs on the CPU here, for tests."""
    return (name == "triton" and interpreting()) or (name == "cuda" and emulating())


def implementing(op: str) -> list[str]:
    """Backends that are available here and have this operation.

    Example:
        >>> "reference" in implementing("combine")
        True
    """
    names = [name for name, state in backends().items() if state == "available"]
    for name in names:
        _load(name)
    return [name for name in names if (op, name) in _table]


def written() -> dict[str, list[str]]:
    """Every operation and the backends that implement it, available here or not, as far as they can be imported."""
    for name in ("triton", "cuda"):
        if name == "cuda" or importlib.util.find_spec("triton") is not None:
            _load(name)
    table: dict[str, list[str]] = {}
    for name in BACKENDS:
        for op, of in _table:
            if of == name:
                table.setdefault(op, []).append(name)
    return table


def _load(name: str) -> None:
    """Import the kernels of a backend that is imported only when it is used."""
    if name in ("triton", "cuda"):
        importlib.import_module(f".{name}", __package__)


def implementation(op: str, device: str) -> Callable[..., Any]:
    """Look up the function that runs ``op`` for tensors on a device of this type ("cpu", "cuda", ...)."""
    key = (op, forced.get(), device)
    if (function := _chosen.get(key)) is None:
        function = _chosen[key] = _table[op, chosen_backend(device, op)]
    return function


def short_way(op: str) -> Callable[..., Any] | None:
    """Native function for the common case of ``op`` (it returns None for others), where it may be used."""
    return _table.get((op, "native")) if forced.get() in (None, "native") else None


def native_runs(op: str) -> bool:
    """Whether ``op`` runs compiled for tensors on the CPU now; cheap enough to ask at every step."""
    return native_module is not None and short_way(op) is not None


_warned = False


def _warn_once() -> None:
    global _warned
    if not _warned:
        _warned = True
        warnings.warn(f"pushforward runs on the reference backend: {_native_missing}", BackendWarning, stacklevel=5)


def device_type(tensor: torch.Tensor) -> str:
    """Device type of a tensor, without building a `torch.device` for the common case."""
    return "cpu" if tensor.is_cpu else tensor.device.type
