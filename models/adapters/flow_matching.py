"""Networks of Meta's flow_matching library."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from ..adapter import Model, adapt
from ..calls import Network
from ..interpolants import Interpolant


def call_keywords(network: Network, x: Tensor, time: Tensor, condition: dict[str, Any]) -> Tensor:
    """``network(x=x, t=time, **condition)``."""
    return network(x=x, t=time, **condition)


def from_flow_matching(
    network: Callable[..., Any],
    path: str | Interpolant = "linear",
    *,
    null: Mapping[str, Any] | None = None,
    **options: Any,
) -> Model:
    r"""A model from a velocity network of flow_matching: ``network(x=x, t=t, **extras)``, data at t = 1, as here.

    Args:
        network: A ``ModelWrapper`` or any module of that signature.
        path: Of its scheduler: CondOT is "linear", Cosine "trigonometric".
        null: The unconditional condition; theirs is a matter of the network.
        **options: Of :func:`adapt`; ``time_shape="scalar"`` for networks that want t as their solver gives it.

    Source:
        Lipman et al. 2024, Flow Matching Guide and Code.
    """
    return adapt(network, "velocity", path, time="t", call=call_keywords, null=null, **options)
