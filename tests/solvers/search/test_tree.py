from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from small_searches import difference
from torch import Tensor

from pushforward.errors import ArgumentError, CorruptFileError
from pushforward.solvers.particles import Genealogy, Particles, Shard
from pushforward.solvers.search.tree import Reader, Table, Writer, class_name


@dataclass
class Leaf:
    value: Any
    clock: float = field(default=0.0, metadata={"stored": False})


@dataclass(frozen=True)
class Frozen:
    number: int
    double: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "double", 2 * self.number)


@dataclass
class Unknown:
    value: int = 0


TABLE = Table([Leaf, Frozen, Particles, Genealogy])
SHARD = Shard()
DTYPES = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8),
    *(torch.uint8, torch.bool, torch.complex64, torch.complex128, torch.float8_e4m3fn),
)


def there_and_back(value: Any, path: Path | None = None) -> Any:
    writer = Writer(TABLE)
    text = json.dumps(writer.write(value, "root"), allow_nan=False)
    tensors = writer.all_tensors()
    if path is not None:
        save_file(tensors, path)
        tensors = load_file(path)
    return Reader(TABLE, tensors, torch.device("cpu"), SHARD).read(json.loads(text))


plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4)
keys = st.text(max_size=3) | st.integers() | st.booleans() | st.tuples(st.integers(), st.text(max_size=2))
trees = st.recursive(
    plain,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(keys, inner, max_size=3)
        | inner.map(Leaf)
    ),
    max_leaves=12,
)


@settings(max_examples=40)
@given(trees)
def test_plain_trees_come_back_equal(tree: Any) -> None:
    assert difference(tree, there_and_back(tree)) is None


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 4), (5, 7, 11)], ids=str)
def test_tensors_of_every_dtype_and_shape(dtype: torch.dtype, shape: tuple[int, ...], tmp_path: Path) -> None:
    numbers = torch.arange(math.prod(shape)).reshape(shape).remainder(7)
    tensor = numbers.to(torch.float32).to(dtype) if dtype == torch.float8_e4m3fn else numbers.to(dtype)
    found = there_and_back({"a": tensor, "b": [tensor.clone(), torch.tensor(3)]}, tmp_path / "t.safetensors")
    for one in (found["a"], found["b"][0]):
        assert one.dtype == dtype
        assert one.shape == shape
        assert torch.equal(one.view(torch.uint8) if shape else one, tensor.view(torch.uint8) if shape else tensor)
    assert found["b"][1] == 3


def test_not_finite_numbers_keep_their_bits(tmp_path: Path) -> None:
    bits = torch.tensor([0x7FF8000000000001, -0x10000000000000, 0x7FF0000000000000], dtype=torch.int64)
    found = there_and_back([bits.view(torch.float64), bits.view(torch.float64).repeat(200)], tmp_path / "t")
    assert torch.equal(found[0].view(torch.int64), bits)
    assert torch.equal(found[1].view(torch.int64), bits.repeat(200))
    assert there_and_back([math.inf, -math.inf]) == [math.inf, -math.inf]


def test_layouts_are_kept_and_views_are_written_alone(tmp_path: Path) -> None:
    images = torch.arange(2 * 3 * 16 * 16.0).reshape(2, 3, 16, 16).to(memory_format=torch.channels_last)
    table = torch.arange(900.0).reshape(30, 30)
    tree = {
        "images": images,
        "rows": table[3:20],
        "column": table[:, 2],
        "whole": table,
        "same memory": table.view(900),
    }
    found = there_and_back(tree, tmp_path / "t")
    assert found["images"].stride() == images.stride()
    assert found["images"].is_contiguous(memory_format=torch.channels_last)
    assert all(torch.equal(found[name], tree[name]) for name in tree)
    found["whole"].zero_()
    assert torch.equal(found["rows"], table[3:20])


def test_arrays() -> None:
    arrays = [
        np.arange(6, dtype=np.int64).reshape(2, 3),
        np.array([np.nan, np.inf, 0.1]),
        np.zeros((0, 4), dtype=np.uint8),
        np.array(True),
        np.array(["a", "bcd"]),
        np.float32(0.1),
        np.int64(7),
    ]
    for array, found in zip(arrays, there_and_back(arrays), strict=True):
        assert type(found) is type(array)
        assert found.dtype == array.dtype
        assert found.shape == array.shape
        assert np.array_equal(found, array, equal_nan=array.dtype.kind == "f")
    with pytest.raises(ArgumentError, match=r"root\.1: got a NumPy array of object"):
        there_and_back([1, np.array([None])])


def test_dataclasses_and_who_they_share() -> None:
    shared = Leaf(torch.arange(3), clock=5.0)
    tree = {"a": shared, "b": shared, "frozen": Frozen(4), "t": (shared.value, shared.value)}
    found = there_and_back(tree)
    assert found["a"] is found["b"]
    assert found["t"][0] is found["t"][1] is found["a"].value
    assert found["a"].clock == 0.0, "not stored"
    assert found["frozen"] == Frozen(4)


def test_particles_and_their_genealogy() -> None:
    x = torch.randn(4, 2, 2)
    request, slot = torch.tensor([0, 0, 1, 1]), torch.tensor([5, 6, 5, 6])
    values, rows = {"weight": torch.rand(4)}, {"gradient": torch.randn(4, 3)}
    particles = Particles(Shard(), request, slot, x, (x + 1, x + 2), values, rows)
    family = Genealogy(requests=2, particles=2)
    family.record(0, torch.tensor([[0, 0], [1, 0]]))
    family.record(1, None)
    found, again = there_and_back([particles, family])
    assert found.shard is SHARD
    assert difference(particles, found) is None
    assert difference(family, again) is None
    assert again.lineage(1, 1) == family.lineage(1, 1)


@pytest.mark.parametrize(
    "value",
    [Unknown(), len, {1, 2}, b"bytes", torch.float32, torch.nn.Linear(1, 1), Leaf],
    ids=lambda value: type(value).__name__,
)
def test_other_things_are_refused_with_their_place(value: Any) -> None:
    with pytest.raises(ArgumentError, match=r"root\.0\.value\.1: got"):
        there_and_back([Leaf([0, value])])


def test_a_file_decides_nothing_but_values() -> None:
    def read(value: Any, tensors: dict[str, Tensor] | None = None) -> Any:
        return Reader(TABLE, tensors or {}, torch.device("cpu"), SHARD).read(value)

    good = {"class": class_name(Leaf), "path": "root", "fields": {"value": 1}}
    assert read(good) == Leaf(1)
    for bad in (
        good | {"class": "os.system"},
        good | {"class": class_name(Unknown)},
        good | {"fields": {}},
        good | {"fields": {"value": 1, "clock": 2.0}},
        {"same": "nowhere"},
        {"tensor": "missing"},
        {"tensor": "a", "in": "missing", "at": 0, "size": [1]},
        {"float": "1.5"},
        {"array": [[1], [2]], "dtype": "<i8", "shape": [3]},
        {"what": 1},
    ):
        with pytest.raises(CorruptFileError):
            read([bad])


def test_names_of_a_table_are_not_taken_by_other_classes() -> None:
    impostor = dataclasses.make_dataclass("Leaf", ["value"])
    impostor.__module__, impostor.__qualname__ = Leaf.__module__, Leaf.__qualname__
    with pytest.raises(ArgumentError, match="root"):
        there_and_back(impostor(1))
