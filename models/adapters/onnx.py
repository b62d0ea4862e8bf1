"""Sessions of ONNX Runtime."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import ArgumentError, DeviceError, DtypeError, MissingDependencyError
from ..adapter import Model, adapt
from ..interpolants import Interpolant
from ..predictions import Prediction
from .signature import Input, Signature, in_batches

# ONNX's name of a type: torch's, and what a binding calls it (a number of TensorProto where NumPy has none).
TYPES: dict[str, tuple[torch.dtype, Any]] = {
    "tensor(float)": (torch.float32, np.float32),
    "tensor(double)": (torch.float64, np.float64),
    "tensor(float16)": (torch.float16, np.float16),
    "tensor(bfloat16)": (torch.bfloat16, 16),
    "tensor(int64)": (torch.int64, np.int64),
    "tensor(int32)": (torch.int32, np.int32),
    "tensor(bool)": (torch.bool, np.bool_),
}
ELEMENTS = dict(TYPES.values())


def from_onnx(
    session: Any,
    prediction: str | Prediction = "velocity",
    interpolant: str | Interpolant = "linear",
    *,
    providers: Sequence[Any] | None = None,
    x: str | None = None,
    time: str | None = None,
    output: str | None = None,
    clock: Any = None,
    **options: Any,
) -> Model:
    r"""A model from a session of ONNX Runtime, or from a file.

    Names, dtypes and the batch size are those of the graph; everything is cast to its dtypes at the boundary, the time
    too. A graph of one batch size runs as often as the rows need, its last call filled up with the last row. Tensors
    are bound by address: nothing is copied, and the output is allocated by torch, where the graph says its shape.
    There are no gradients.

    Args:
        session: An ``onnxruntime.InferenceSession``, or the path or the bytes of a model.
        prediction, interpolant: As in :func:`adapt`.
        providers: Where a model given as a path or bytes runs: ``["CPUExecutionProvider"]``. No default.
        x: Name of the input that is the state; by default "x", "sample", "hidden_states", "latent_sample" or "latents".
        time: Name of the input that is the time; by default "t", "time", "timestep", "timesteps" or "sigma".
        output: Name of the output; needed if there are several.
        clock: The network's clock: ``time`` of :func:`adapt`.
        **options: Of :func:`adapt`.

    Returns:
        A model whose conditions are the other inputs.

    Raises:
        ArgumentError: No providers, or names that the graph does not have.
        DtypeError: An input or output of a type that torch does not have.
        MissingDependencyError: A path or bytes, where onnxruntime is not installed.
    """
    if not hasattr(session, "run_with_iobinding"):
        session = opened(session, providers)
    elif providers is not None:
        raise ArgumentError("providers", got=providers, expected="None: a session has its providers already")
    network = OnnxNetwork(session, x, time, output)
    options = network.signature.options() | options
    return adapt(network, prediction, interpolant, time=clock, **options)


def opened(model: Any, providers: Sequence[Any] | None) -> Any:
    """A session for the path or the bytes of a model."""
    if not isinstance(model, str | bytes | os.PathLike):
        expected = "an onnxruntime.InferenceSession, a path or bytes"
        raise ArgumentError("session", got=type(model).__name__, expected=expected)
    if not providers:
        hint = "For instance providers=['CPUExecutionProvider']"
        raise ArgumentError("providers", got="nothing", expected="where the model is to run", hint=hint)
    try:
        import onnxruntime  # pyright: ignore[reportMissingImports]  # an extra
    except ImportError as error:
        hint = "pip install 'pushforward[onnx]'"
        raise MissingDependencyError("onnxruntime", got="not installed", expected=">= 1.17", hint=hint) from error
    return onnxruntime.InferenceSession(model if isinstance(model, bytes) else os.fspath(model), providers=providers)


class OnnxNetwork:
    """A session as ``network(x, time, **condition)``; calls are independent, so threads may share it.

    Args:
        session: An ``onnxruntime.InferenceSession``.
        x, time: Names of inputs; None: one of the usual ones.
        output: Name of an output; None: the only one.

    Attributes:
        session: What is called.
        signature: Its inputs.
        output: The output that is read.
    """

    def __init__(self, session: Any, x: str | None = None, time: str | None = None, output: str | None = None) -> None:
        self.session = session
        self.signature = Signature.read([described(one) for one in session.get_inputs()], x, time)
        outputs = {one.name: described(one) for one in session.get_outputs()}
        if output not in outputs and (output is not None or len(outputs) != 1):
            got = "nothing" if output is None else repr(output)
            raise ArgumentError("output", got=got, expected="one of " + ", ".join(outputs))
        self.output = outputs[output] if output is not None else next(iter(outputs.values()))
        self._inputs = {one.name: one for one in map(described, session.get_inputs())}

    def __call__(self, x: Tensor, time: Tensor, **condition: Any) -> Tensor:
        """The output for [B, *D] states.

        Raises:
            ArgumentError: Conditions that the graph does not take, or a lack of those that it does; an input that
                requires a gradient.
            DeviceError: A state on a device that the session has no provider for.
        """
        self.signature.check(condition)
        if torch.is_grad_enabled() and x.requires_grad:
            got, hint = "a state that requires a gradient", "Detach it, or give the network itself to adapt()"
            raise ArgumentError("x", got=got, expected="none, since ONNX Runtime has no gradients", hint=hint)
        if x.is_cuda and not {"CUDAExecutionProvider", "TensorrtExecutionProvider"} & {*self.session.get_providers()}:
            got, expected = str(x.device), f"a device of {self.session.get_providers()}"
            raise DeviceError("x", got=got, expected=expected, hint="Open the session with a provider for it")
        return in_batches(self._run, self.signature, x, time, condition)

    def _run(self, x: Tensor, time: Tensor, condition: Mapping[str, Any]) -> Tensor:
        given = {self.signature.state.name: x} | dict(condition)
        if self.signature.time is not None:
            given[self.signature.time.name] = self.signature.told(time)
        binding, kept = self.session.io_binding(), []
        sizes: dict[int | str, int] = {}
        device, number = x.device.type, x.device.index or 0
        for name, one in self._inputs.items():
            tensor = torch.as_tensor(given[name]).to(device=x.device, dtype=one.dtype).contiguous()
            kept.append(tensor)  # the binding holds addresses
            sizes |= dict(zip(one.shape, tensor.shape, strict=False))
            binding.bind_input(name, device, number, ELEMENTS[one.dtype], tuple(tensor.shape), tensor.data_ptr())
        known = [size if isinstance(size, int) else sizes.get(size) for size in self.output.shape]
        shape = [size for size in known if size is not None]
        if x.is_cuda:  # the session runs on a stream of its own
            torch.cuda.current_stream(x.device).synchronize()
        if not shape or len(shape) < len(known):
            binding.bind_output(self.output.name)
            self.session.run_with_iobinding(binding)
            return torch.from_numpy(binding.get_outputs()[0].numpy()).to(x.device)
        result = torch.empty(shape, dtype=self.output.dtype, device=x.device)
        element = ELEMENTS[self.output.dtype]
        binding.bind_output(self.output.name, device, number, element, tuple(shape), result.data_ptr())
        self.session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        return result


def described(one: Any) -> Input:
    """An input or output of a session.

    Raises:
        DtypeError: Of a type that torch does not have.
    """
    if one.type not in TYPES:
        raise DtypeError(f"{one.name!r} of the session", got=one.type, expected="one of " + ", ".join(TYPES))
    names = [size or (f"{one.name}:{i}" if i else "batch") for i, size in enumerate(one.shape)]
    shape = tuple(size if isinstance(size, int) else str(size) for size in names)
    return Input(one.name, shape, TYPES[one.type][0])
