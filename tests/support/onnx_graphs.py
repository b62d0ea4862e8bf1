"""Graphs for ONNX Runtime, and a session in NumPy that binds memory as its sessions do."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

NAMES = {"float32": "float", "float64": "double", "float16": "float16", "int64": "int64"}


class NumpySession:
    """``get_inputs``, ``get_outputs`` and ``io_binding`` of a session, with a function of arrays as the graph.

    Args:
        function: Takes one array an input, returns the output.
        inputs: Name, dtype and shape of each.
        output: Shape of the output: numbers, symbols of the inputs, or None.
        dtype: Of the output.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        inputs: Sequence[tuple[str, str, list[Any]]],
        output: list[Any],
        dtype: str = "float32",
        outputs: Sequence[str] = ("out",),
    ) -> None:
        self.function, self.inputs, self.output, self.dtype, self.names = function, inputs, output, dtype, outputs
        self.runs: list[int] = []

    def get_inputs(self) -> list[Any]:
        return [SimpleNamespace(name=n, type=f"tensor({NAMES.get(d, d)})", shape=s) for n, d, s in self.inputs]

    def get_outputs(self) -> list[Any]:
        return [SimpleNamespace(name=n, type=f"tensor({NAMES[self.dtype]})", shape=self.output) for n in self.names]

    def get_providers(self) -> list[str]:
        return ["CPUExecutionProvider"]

    def io_binding(self) -> Any:
        return NumpyBinding()

    def run_with_iobinding(self, binding: NumpyBinding) -> None:
        given = [binding.bound[name] for name, _, _ in self.inputs]
        for (name, dtype, shape), array in zip(self.inputs, given, strict=True):
            assert array.dtype == dtype, name
            assert len(array.shape) == len(shape), name
            assert all(
                isinstance(want, str | None) or want == got for want, got in zip(shape, array.shape, strict=True)
            ), name
        self.runs.append(len(given[0]))
        result = np.asarray(self.function(*given), self.dtype)
        if binding.result is None:
            binding.made = result
        else:
            assert binding.result.shape == result.shape
            binding.result[...] = result


class NumpyBinding:
    """Arrays over the memory that is bound."""

    def __init__(self) -> None:
        self.bound: dict[str, np.ndarray] = {}
        self.result: np.ndarray | None = None
        self.made: np.ndarray | None = None

    def bind_input(self, name: str, device: str, number: int, element: Any, shape: Any, pointer: int) -> None:
        assert (device, number) == ("cpu", 0)
        self.bound[name] = over(pointer, element, shape)

    def bind_output(self, name: str, device: str = "cpu", number: int = 0, element: Any = None, shape: Any = None,
                    pointer: int = 0) -> None:  # fmt: skip
        self.result = over(pointer, element, shape) if pointer else None

    def synchronize_outputs(self) -> None:
        """Nothing to wait for."""

    def get_outputs(self) -> list[Any]:
        return [SimpleNamespace(numpy=lambda: self.made)]


def over(pointer: int, element: Any, shape: Sequence[int]) -> np.ndarray:
    """An array over memory at an address."""
    size = int(np.prod(shape)) * np.dtype(element).itemsize
    return np.frombuffer((ctypes.c_byte * size).from_address(pointer), dtype=element).reshape(shape)


def mixture_graph(
    means: Any, variances: Any, log_shares: Any, shape: Sequence[int], batch: int | str, known: bool
) -> bytes:
    """The velocity of a mixture of isotropic Gaussians on the straight path: inputs sample, timestep and y.

    ``known``: whether the shape of the output is said.
    """
    from onnx import TensorProto, checker, helper, numpy_helper

    constants = {
        "means": means[None], "variances": variances[None], "log_shares": log_shares, "one": np.float64(1),
        "half": np.float64(0.5), "size": np.float64(means.shape[1]), "ax1": np.array([1]), "ax2": np.array([2]),
    }  # fmt: skip
    steps = [
        ("Flatten", "sample", "flat"), ("Unsqueeze", "timestep ax1", "t"), ("Sub", "one t", "s"),
        ("Mul", "t t", "tt"), ("Mul", "s s", "ss"), ("Mul", "tt variances", "tv"), ("Add", "tv ss", "spread"),
        ("Unsqueeze", "t ax2", "t3"), ("Mul", "t3 means", "tm"), ("Unsqueeze", "flat ax1", "flat3"),
        ("Sub", "flat3 tm", "centred"), ("Mul", "centred centred", "cc"), ("ReduceSum", "cc ax2", "sq"),
        ("Div", "sq spread", "far"), ("Log", "spread", "ls"), ("Mul", "ls size", "lss"), ("Add", "far lss", "sum"),
        ("Mul", "sum half", "cost"), ("Gather", "log_shares y", "prior"), ("Sub", "prior cost", "logs"),
        ("Softmax", "logs", "shares"), ("Mul", "t variances", "tvar"), ("Sub", "tvar s", "num"),
        ("Div", "num spread", "pull"), ("Unsqueeze", "pull ax2", "pull3"), ("Mul", "pull3 centred", "pulled"),
        ("Add", "pulled means", "each"), ("Unsqueeze", "shares ax2", "shares3"), ("Mul", "shares3 each", "shared"),
        ("ReduceSum", "shared ax1", "v"), ("Shape", "sample", "dims"), ("Reshape", "v dims", "velocity"),
    ]  # fmt: skip
    more = {"ReduceSum": {"keepdims": 0}, "Softmax": {"axis": 1}, "Flatten": {"axis": 1}, "Gather": {"axis": 0}}
    nodes = [helper.make_node(kind, ins.split(), [out], **more.get(kind, {})) for kind, ins, out in steps]
    double, whole = TensorProto.DOUBLE, TensorProto.INT64
    inputs = [
        helper.make_tensor_value_info("sample", double, [batch, *shape]),
        helper.make_tensor_value_info("timestep", double, [batch]),
        helper.make_tensor_value_info("y", whole, [batch]),
    ]
    output = helper.make_tensor_value_info("velocity", double, [batch, *shape] if known else [None] * (len(shape) + 1))
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "mixture", inputs, [output], initializer=tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    checker.check_model(model)
    return model.SerializeToString()
