"""Calls: how a network is given state, time and condition; any function of that signature is one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Network = Callable[..., Any]
Call = Callable[[Network, Tensor, Tensor, dict[str, Any]], Tensor]


def call_x_t(network: Network, x: Tensor, time: Tensor, condition: dict[str, Any]) -> Tensor:
    """``network(x, time, **condition)``."""
    return network(x, time, **condition)


def call_t_x(network: Network, x: Tensor, time: Tensor, condition: dict[str, Any]) -> Tensor:
    """``network(time, x, **condition)``."""
    return network(time, x, **condition)


def call_x(network: Network, x: Tensor, time: Tensor, condition: dict[str, Any]) -> Tensor:
    """``network(x, **condition)``, for networks that take no time."""
    del time
    return network(x, **condition)


CALLS: dict[str, Call] = {"x_t": call_x_t, "t_x": call_t_x, "x": call_x}


@dataclass(frozen=True)
class Autocast:
    """A call under :class:`torch.autocast`, which is left before anything else is computed.

    Outputs come back in the dtype of x: guidance multiplies small differences, and a step adds to the state.

    Args:
        call: What is called.
        dtype: torch.bfloat16 or torch.float16.
    """

    call: Call
    dtype: torch.dtype

    def __call__(self, network: Network, x: Tensor, time: Tensor, condition: dict[str, Any]) -> Tensor:
        """As ``call``."""
        with torch.autocast(x.device.type, self.dtype):
            output = self.call(network, x, time, condition)
        return output.to(x.dtype) if isinstance(output, Tensor) else output
