"""Low-rank adapters: a frozen network with few trained numbers, as parametrisations of its weights."""

from __future__ import annotations

import copy
import math
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ...errors import ArgumentError

Network = TypeVar("Network", bound=nn.Module)
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORMS = (nn.GroupNorm, nn.LayerNorm, nn.BatchNorm1d, nn.BatchNorm2d)


class LowRank(nn.Module):
    r"""A weight plus a product of two thin matrices: :math:`W + s\, U V`, as a parametrisation of W.

    U starts at zero, so that the network starts as it is. Weights of convolutions are matrices of their output channels
    by all the rest.

    Args:
        weight: The weight, [out, ...].
        rank: Columns of U; at most the smaller side of the matrix is used.
        scale: s.
        generator: For V, uniform as torch's linear layers are.

    Source:
        Hu et al. 2021, LoRA.
    """

    def __init__(self, weight: Tensor, rank: int, scale: float, generator: torch.Generator) -> None:
        super().__init__()
        outputs, inputs = weight.shape[0], weight[0].numel()
        rank = min(rank, outputs, inputs)
        bound = 1 / math.sqrt(inputs)
        start = (2 * torch.rand(rank, inputs, generator=generator) - 1) * bound
        self.scale = scale
        self.up = nn.Parameter(torch.zeros(outputs, rank, dtype=weight.dtype))
        self.down = nn.Parameter(start.to(weight.dtype))

    def forward(self, weight: Tensor) -> Tensor:
        """The adapted weight."""
        return weight + self.scale * (self.up @ self.down).reshape(weight.shape)


def attach(network: Network, rank: int = 8, scale: float = 0.5, seed: int = 0) -> Network:
    """A copy with adapters on its linear and convolution layers, in which nothing else but biases and norms is trained.

    Args:
        network: Stays as it is.
        rank: Of each adapter.
        scale: What multiplies them, the same in training, evaluation and merging; PPAP's is 8/16.
        seed: Of their starts.

    Raises:
        ArgumentError: A rank below 1; a network without such layers.

    Example:
        >>> net = attach(nn.Linear(4, 4), rank=1)
        >>> sorted(name for name, p in net.named_parameters() if p.requires_grad)
        ['bias', 'parametrizations.weight.0.down', 'parametrizations.weight.0.up']
    """
    if rank < 1:
        raise ArgumentError("rank", got=rank, expected="at least 1")
    adapted = copy.deepcopy(network).requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    layers = [module for module in adapted.modules() if isinstance(module, LAYERS)]
    if not layers:
        raise ArgumentError("network", got=type(network).__name__, expected="one with linear or convolution layers")
    for module in [m for m in adapted.modules() if isinstance(m, NORMS)]:
        module.requires_grad_(True)
    for layer in layers:
        parametrize.register_parametrization(layer, "weight", LowRank(layer.weight, rank, scale, generator))
        layer.parametrizations["weight"].original.requires_grad_(False)  # type: ignore[union-attr, operator]
        if layer.bias is not None:
            layer.bias.requires_grad_(True)
    return adapted


def adapter_state(network: nn.Module) -> dict[str, Tensor]:
    """What was trained, by name: all that need be stored of an expert."""
    return {name: p.detach().clone() for name, p in network.named_parameters() if p.requires_grad}


def load_adapter(network: nn.Module, state: dict[str, Tensor]) -> None:
    """Give a network with adapters the trained numbers of another.

    Raises:
        ArgumentError: Names that differ.
    """
    own = {name: p for name, p in network.named_parameters() if p.requires_grad}
    if own.keys() != state.keys():
        differing = sorted(own.keys() ^ state.keys())
        raise ArgumentError("state", got=f"other names: {differing[:4]}", expected="those of adapter_state")
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(state[name])


def merged(network: Network) -> Network:
    """A copy whose weights contain the adapters: as fast as the network was without them."""
    plain = copy.deepcopy(network)
    for module in list(plain.modules()):
        if parametrize.is_parametrized(module):
            weight = module.weight.detach().clone()  # type: ignore[operator, union-attr]
            # remove_parametrizations takes the property off the class, which a copy shares with its original.
            module.__class__ = parametrize.type_before_parametrizations(module)
            del module.parametrizations
            module.weight = nn.Parameter(weight)
    return plain.requires_grad_(False)
