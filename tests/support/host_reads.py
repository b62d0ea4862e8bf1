"""A guard that fails where a value would be read from a device, which would make the host wait for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode

READS = {"aten::_local_scalar_dense", "aten::is_nonzero", "aten::nonzero", "aten::equal", "aten::masked_select"}


class HostReadError(AssertionError):
    """A value was read."""


class Guard(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._schema.name in READS:
            raise HostReadError(func._schema.name)
        return func(*args, **(kwargs or {}))


@contextmanager
def no_host_reads() -> Iterator[None]:
    """Within it, operators that read a value raise, and so do the methods that copy a tensor to the host."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise HostReadError("a copy to the host")

    with mock.patch.object(torch.Tensor, "tolist", refuse), mock.patch.object(torch.Tensor, "cpu", refuse), Guard():
        yield
