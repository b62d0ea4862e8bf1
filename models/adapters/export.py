"""Programs of torch.export."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.utils import _pytree

from ...errors import ArgumentError
from ..adapter import Model, adapt
from ..interpolants import Interpolant
from ..predictions import Prediction
from .signature import Input, Signature, in_batches


def from_export(
    program: Any,
    prediction: str | Prediction = "velocity",
    interpolant: str | Interpolant = "linear",
    *,
    x: str | None = None,
    time: str | None = None,
    clock: Any = None,
    **options: Any,
) -> Model:
    r"""A model from a program of torch.export, loaded by the caller, or from its ``module()``.

    Names, dtypes and the batch size are those it was exported with. A program of one batch size runs as often as the
    rows need, its last call filled up with the last row; a program of any batch size takes all rows in one call.

    Args:
        program: A ``torch.export.ExportedProgram``, or what its ``module()`` returns, of one tensor.
        prediction, interpolant: As in :func:`adapt`.
        x: Name of the argument that is the state; by default "x", "sample", "hidden_states" or "latents".
        time: Name of the argument that is the time; by default "t", "time", "timestep", "timesteps" or "sigma".
        clock: The network's clock: ``time`` of :func:`adapt`.
        **options: Of :func:`adapt`.

    Returns:
        A model whose conditions are the other arguments.

    Raises:
        ArgumentError: Not such a program; a name that it does not have, or none of the usual ones.

    Example:
        >>> program = torch.export.export(torch.nn.Bilinear(2, 1, 2), (torch.ones(3, 2), torch.ones(3, 1)))
        >>> from_export(program, x="input1", time="input2").time_shape
        'batch'
    """
    network = ExportedNetwork(program, x, time)
    options = network.signature.options() | options
    return adapt(network, prediction, interpolant, time=clock, **options)


class ExportedNetwork:
    """A program as ``network(x, time, **condition)``.

    Args:
        program: As in :func:`from_export`.
        x, time: Names; None: one of the usual ones.

    Attributes:
        module: What is called.
        signature: Its inputs.
    """

    def __init__(self, program: Any, x: str | None = None, time: str | None = None) -> None:
        self.module = program.module() if hasattr(program, "graph_signature") else program
        information = getattr(getattr(getattr(self.module, "graph", None), "_codegen", None), "pytree_info", None)
        if information is None:
            hint = "torch.export.export(network, (x, t)), or torch.export.load(file)"
            raise ArgumentError("program", got=type(program).__name__, expected="an ExportedProgram", hint=hint)
        leaves = [node.meta.get("val") for node in self.module.graph.nodes if node.op == "placeholder"]
        positional, keywords = _pytree.tree_unflatten(leaves, information.in_spec)
        self._positional = tuple(information.orig_args[: len(positional)])
        tops = dict(zip(self._positional, positional, strict=True)) | dict(keywords)
        inputs = [one for one in (described(name, top) for name, top in tops.items()) if one is not None]
        self.signature = Signature.read(inputs, x, time)

    def __call__(self, x: Tensor, time: Tensor, **condition: Any) -> Tensor:
        """The output for [B, *D] states.

        Raises:
            ArgumentError: Conditions that the program does not take, or a lack of those that it does.
        """
        self.signature.check(condition)
        return in_batches(self._run, self.signature, x, time, condition)

    def _run(self, x: Tensor, time: Tensor, condition: Mapping[str, Any]) -> Tensor:
        given = {self.signature.state.name: x} | dict(condition)
        if self.signature.time is not None:
            given[self.signature.time.name] = self.signature.told(time)
        positional = [given.pop(name) for name in self._positional]
        return self.module(*positional, **given)


def described(name: str, top: Any) -> Input | None:
    """An argument by its first tensor; None for arguments without one, which are constants of the program."""
    first = next((leaf for leaf in _pytree.tree_leaves(top) if isinstance(leaf, Tensor)), None)
    if first is None:
        return None
    return Input(name, tuple(size if isinstance(size, int) else str(size) for size in first.shape), first.dtype)
