"""Trees of dataclasses as JSON and a table of tensors: what a checkpoint is made of.

Tensors go to the table under their path in the tree, small ones together; everything else is JSON. No class is ever
imported by the name that a file gives: names are looked up in a table that the reader brings.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from ...errors import ArgumentError, CorruptFileError
from ..particles import Shard

Json: TypeAlias = Any
NOT_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
RAW = (torch.complex128, torch.complex32)  # safetensors has no such dtypes: kept as bytes
SMALL = 256  # elements: a trace has thousands of such tensors, each of which alone would take 40 us
JOINED = (torch.float64, torch.float32, torch.int64, torch.int32, torch.bool, torch.uint8)


def class_name(kind: type) -> str:
    """The name that a class has in a file.

    Example:
        >>> from pushforward.solvers.search import Budget
        >>> class_name(Budget)
        'pushforward.solvers.search.budget.Budget'
    """
    return f"{kind.__module__}.{kind.__qualname__}"


class Table:
    """The dataclasses that a file may contain, by name.

    Attributes:
        kinds: Name to class.

    """

    def __init__(self, kinds: Iterable[type]) -> None:
        self.kinds = {class_name(kind): kind for kind in kinds if dataclasses.is_dataclass(kind)}

    def knows(self, kind: type) -> bool:
        """Whether a value of this class can be written and read."""
        return self.kinds.get(class_name(kind)) is kind

    def find(self, name: str) -> type:
        """The class of that name.

        Raises:
            CorruptFileError: There is none.
        """
        if name not in self.kinds:
            raise CorruptFileError(f"class {name}", got="an unknown name", expected=f"one of {sorted(self.kinds)}")
        return self.kinds[name]


def stored_fields(kind: type) -> list[dataclasses.Field[Any]]:
    """Fields of a dataclass, without those whose metadata say ``{"stored": False}``."""
    return [field for field in dataclasses.fields(kind) if field.metadata.get("stored", True)]


class Writer:
    """Turns a tree into JSON, and collects its tensors on the CPU.

    Two places of the tree that hold one object hold one again when they are read. Two tensors that are views of one
    memory do not: what a search writes to in place must be a tensor of its own.

    Attributes:
        table: Classes that may occur.
        name: Of the table of small tensors; several writers can share a file.
        tensors: Those written so far, by path; contiguous, none sharing memory with another.
        small: Small ones, by dtype.

    """

    def __init__(self, table: Table, name: str = "small") -> None:
        self.table, self.name = table, name
        self.tensors: dict[str, Tensor] = {}
        self.small: dict[torch.dtype, list[Tensor]] = {}
        self._sizes: dict[torch.dtype, int] = {}
        self._seen: dict[int, str] = {}
        self._memory: set[int] = set()

    def write(self, value: Any, path: str) -> Json:
        """JSON of a value: None, bools, numbers, strings, lists, tuples, dicts, arrays, tensors, known dataclasses.

        Raises:
            ArgumentError: Something else; names the place.
        """
        if isinstance(value, np.generic | np.ndarray):
            return self._array(value, path)
        if value is None or isinstance(value, bool | int | str):
            return value
        if isinstance(value, float):
            return value if math.isfinite(value) else {"float": str(value)}
        if isinstance(value, Shard):
            return {"shard": True}
        if type(value) is list:
            return [self.write(item, f"{path}.{i}") for i, item in enumerate(value)]
        if type(value) is tuple:
            return {"tuple": [self.write(item, f"{path}.{i}") for i, item in enumerate(value)]}
        if type(value) is dict:
            items = enumerate(value.items())
            return {"dict": [[self.write(k, f"{path}.key{i}"), self.write(v, f"{path}.{i}")] for i, (k, v) in items]}
        if id(value) in self._seen:
            return {"same": self._seen[id(value)]}
        self._seen[id(value)] = path
        if isinstance(value, Tensor):
            return self._tensor(value, path)
        if self.table.knows(type(value)):
            fields = {
                f.name: self.write(getattr(value, f.name), f"{path}.{f.name}") for f in stored_fields(type(value))
            }
            return {"class": class_name(type(value)), "path": path, "fields": fields}
        raise ArgumentError(
            path,
            got=class_name(type(value)),
            expected="numbers, strings, tensors, arrays, and lists, dicts or known dataclasses of such",
            hint="A dataclass that a method's module neither defines nor imports is named in the method's `stored`",
        )

    def _array(self, value: np.generic | np.ndarray, path: str) -> Json:
        if value.dtype.kind not in "biufU":
            raise ArgumentError(path, got=f"a NumPy array of {value.dtype}", expected="bools, numbers or strings")
        kind = "scalar" if isinstance(value, np.generic) else "array"
        return {kind: self.write(value.tolist(), path), "dtype": value.dtype.str, "shape": list(value.shape)}

    def _tensor(self, value: Tensor, path: str) -> Json:
        said: dict[str, Any] = {"tensor": path}
        if value.device.type != "cpu":
            said["device"] = "task"
        if not value.is_contiguous() and torch.empty_like(value, device="meta").stride() == value.stride():
            said["strides"] = list(value.stride())  # a layout, as channels_last; kernels may round by it
        flat = value.detach().to("cpu").contiguous()
        if value.dtype in RAW:
            said |= {"dtype": str(value.dtype).removeprefix("torch."), "shape": list(value.shape)}
            flat = flat.reshape(-1).view(torch.uint8)
        if flat.numel() <= SMALL and flat.dtype in JOINED:
            at = self._sizes.get(flat.dtype, 0)
            self._sizes[flat.dtype] = at + flat.numel()
            self.small.setdefault(flat.dtype, []).append(flat.reshape(-1))
            return said | {"in": self._joined(flat.dtype), "at": at, "size": list(flat.shape)}
        if flat.untyped_storage().data_ptr() in self._memory:
            flat = flat.clone()
        self._memory.add(flat.untyped_storage().data_ptr())
        self.tensors[path] = flat
        return said

    def all_tensors(self) -> dict[str, Tensor]:
        """What the file of tensors holds."""
        for parts in self.small.values():
            parts[:] = [torch.cat(parts)]
        return self.tensors | {self._joined(dtype): parts[0] for dtype, parts in self.small.items()}

    def _joined(self, dtype: torch.dtype) -> str:
        return f"{self.name}.{str(dtype).removeprefix('torch.')}"


class Reader:
    """Turns JSON and tensors into the tree that was written.

    Attributes:
        table: Classes that may occur.
        tensors: By path, on the CPU.
        device: Where tensors go that were not on the CPU.
        shard: What stands for every :class:`Shard`.

    """

    def __init__(self, table: Table, tensors: Mapping[str, Tensor], device: torch.device, shard: Shard) -> None:
        self.table, self.tensors, self.device, self.shard = table, tensors, device, shard
        self._made: dict[str, Any] = {}

    def read(self, value: Json) -> Any:
        """The value of some JSON.

        Raises:
            CorruptFileError: An unknown class, fields that it does not have, or no value that :class:`Writer` writes.
        """
        try:
            return self._read(value)
        except (KeyError, TypeError, ValueError, IndexError, RuntimeError) as error:
            if isinstance(error, CorruptFileError):
                raise
            got = f"{type(error).__name__}: {error}"
            raise CorruptFileError("content", got=got, expected="a tree as it was written") from error

    def _read(self, value: Json) -> Any:
        if not isinstance(value, dict):
            return [self._read(item) for item in value] if isinstance(value, list) else value
        if "float" in value:
            return NOT_FINITE[value["float"]]
        if "shard" in value:
            return self.shard
        if "tuple" in value:
            return tuple(self._read(item) for item in value["tuple"])
        if "dict" in value:
            return {self._read(key): self._read(item) for key, item in value["dict"]}
        if "same" in value:
            return self._made[value["same"]]
        if "array" in value or "scalar" in value:
            kind = "array" if "array" in value else "scalar"
            array = np.array(self._read(value[kind]), dtype=value["dtype"]).reshape(value["shape"])
            return array if kind == "array" else array[()]
        if "tensor" in value:
            return self._keep(value["tensor"], self._tensor(value))
        return self._keep(value["path"], self._dataclass(value))

    def _keep(self, path: str, made: Any) -> Any:
        self._made[path] = made
        return made

    def _tensor(self, value: dict[str, Any]) -> Tensor:
        if "in" in value:
            count = math.prod(value["size"])
            tensor = self.tensors[value["in"]][value["at"] : value["at"] + count].reshape(value["size"]).clone()
        else:
            tensor = self.tensors[value["tensor"]]
        if "dtype" in value:
            tensor = tensor.view(getattr(torch, value["dtype"])).reshape(value["shape"])
        if "strides" in value:
            tensor = torch.empty_strided(tensor.shape, value["strides"], dtype=tensor.dtype).copy_(tensor)
        return tensor.to(self.device) if "device" in value else tensor

    def _dataclass(self, value: dict[str, Any]) -> Any:
        kind = self.table.find(value["class"])
        stored = stored_fields(kind)
        if set(value["fields"]) != {field.name for field in stored}:
            expected = [field.name for field in stored]
            raise CorruptFileError(
                f"class {value['class']}", got=f"fields {sorted(value['fields'])}", expected=expected
            )
        values = {name: self._read(field) for name, field in value["fields"].items()}
        made = kind(**{field.name: values[field.name] for field in stored if field.init})
        for field in stored:
            if not field.init:
                object.__setattr__(made, field.name, values[field.name])
        return made
