"""Every way an operation can run here: backends, and for the native one each instruction set."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pushforward.kernels import backend
from pushforward.kernels.dispatch import imitated, implementing, native_module


def cpu_backends(op: str) -> list[str]:
    """Backends that run this op on CPU tensors here; those for GPUs only where they are imitated."""
    return [name for name in implementing(op) if name in ("reference", "native") or imitated(name)]


def variants(op: str) -> list[str]:
    """Names for `using`: "reference", "native avx512", "native avx2", "native generic", "triton" ... for this op."""
    names = []
    for name in cpu_backends(op):
        names += [f"native {isa}" for isa in native_module.instruction_sets()] if name == "native" else [name]
    return names


def fast_backends(op: str) -> list[str]:
    """Backends for tests with many or large calls: the imitations of GPUs, far slower, have tests of their own."""
    return [name for name in cpu_backends(op) if not imitated(name)]


@contextmanager
def using(variant: str) -> Iterator[None]:
    """Run on this backend, with this instruction set."""
    name, _, isa = variant.partition(" ")
    with backend(name):
        if not isa:
            yield
            return
        before = native_module.instruction_set()
        native_module.use_instruction_set(isa)
        try:
            yield
        finally:
            native_module.use_instruction_set(before)
