"""How a verifier prints: its class and its options, with tensors and networks by their size, not by their content."""

from __future__ import annotations

import dataclasses
import types
from typing import Any

from torch import Tensor, nn


class Described:
    """Base of the verifiers that are dataclasses: ``repr`` tells the configuration on one line."""

    def __repr__(self) -> str:
        """``Class(option=value, ...)`` of the options that differ from their default."""
        said = []
        for option in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, option.name)
            if option.repr and not _is_default(option, value):
                said.append(f"{option.name}={describe(value)}")
        return f"{type(self).__name__}({', '.join(said)})"


def describe(value: Any) -> str:
    """One line for an option.

    Example:
        >>> describe([torch.zeros(2, 3), len, 0.5])
        '[float32 [2, 3], len, 0.5]'
    """
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    if isinstance(value, nn.Module):
        return type(value).__name__
    if isinstance(value, types.FunctionType | types.BuiltinFunctionType | types.MethodType):
        return value.__qualname__
    if isinstance(value, list | tuple):
        inner = ", ".join(map(describe, value))
        comma = "," if isinstance(value, tuple) and len(value) == 1 else ""
        return f"[{inner}]" if isinstance(value, list) else f"({inner}{comma})"
    return repr(value)


def _is_default(option: dataclasses.Field[Any], value: Any) -> bool:
    return type(value) is type(option.default) and not isinstance(value, Tensor) and value == option.default
