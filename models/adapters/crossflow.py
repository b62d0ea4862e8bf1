"""Networks of CrossFlow, whose flow starts at another modality and which are told whether they are to ignore it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...errors import ArgumentError
from ..adapter import Model, adapt
from ..calls import Network
from ..clocks import clock as as_clock
from ..interpolants import Linear
from ..kinds import VelocityPrediction

INDICATOR = "null_indicator"


def last(output: Any) -> Tensor:
    """The finest of several scales."""
    if isinstance(output, list | tuple):
        if not output:
            raise ArgumentError("network output", got="an empty list", expected="one tensor a scale")
        return output[-1]
    return output


def call_t(network: Network, x: Tensor, time: Tensor, condition: dict[str, Any]) -> Tensor:
    """``network(x, t=time, null_indicator=...)[-1]``."""
    return last(network(x, t=time, **condition))


def call_log_snr(network: Network, x: Tensor, time: Tensor, condition: dict[str, Any]) -> Tensor:
    """``network(x, log_snr=time, null_indicator=...)[-1]``."""
    return last(network(x, log_snr=time, **condition))


def log_snr(t: float) -> float:
    """``4 - 8 t``."""
    return 4.0 - 8.0 * t


def from_crossflow(network: Callable[..., Any], *, log_snr_input: bool = False, **options: Any) -> Model:
    r"""A model from a network of CrossFlow: ``network(x, t=t, null_indicator=...)[-1]``, data at t = 1, as here.

    Runs start from encoded data, :math:`x_0 = \mu + e^{\log \sigma^2 / 2} \epsilon`, given as the start: there is no
    other condition. Guidance compares, at the same x, the network told to heed the source with the network told not to.

    Args:
        network: Takes states [B, *D], times [B] and ``null_indicator`` [B], bool; returns a velocity, or a list with
            one a scale, of which the last is taken.
        log_snr_input: The network takes ``log_snr = 4 - 8 t`` instead of t.
        **options: Of :func:`adapt`.

    Returns:
        A model whose two branches differ in the indicator. Its path is the straight one; CrossFlow's has
        :math:`\sigma = 1 - (1 - 10^{-5}) t`.

    Raises:
        ArgumentError: When the score or a stochastic solver is asked for, which do not exist.

    Source:
        Liu et al. 2024, CrossFlow.
    """
    call, clock = (call_log_snr, log_snr) if log_snr_input else (call_t, "t")
    defaults, null = {INDICATOR: torch.tensor([False])}, {INDICATOR: torch.tensor([True])}
    read = VelocityPrediction(Linear(), as_clock(clock), source_is_noise=False)
    return adapt(network, read, call=call, defaults=defaults, null=null, **options)
