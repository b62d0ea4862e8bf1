"""Networks of SiT."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ...errors import UnknownNameError
from ..adapter import Model, adapt
from ..interpolants import Interpolant, Linear, Trigonometric
from ..schedules import VPLinear
from .labels import dropped_label

PATHS: dict[str, Interpolant] = {"Linear": Linear(), "GVP": Trigonometric(), "VP": VPLinear()}
KINDS = ("velocity", "noise", "score")


def from_sit(
    network: Callable[..., Any],
    path: str = "Linear",
    predicts: str = "velocity",
    *,
    null: Mapping[str, Any] | None = None,
    **options: Any,
) -> Model:
    r"""A model from a network of SiT: ``network(x, t, y)`` with t in [0, 1] and the data at 1, as here.

    In the code, that is: the paper writes time the other way round. Networks with a variance half drop it themselves.

    Args:
        network: Takes states [B, C, H, W], times [B] and ``y`` [B].
        path: "Linear", "GVP" or "VP": :class:`Linear`, :class:`Trigonometric`, :class:`VPLinear`.
        predicts: "velocity", "noise" or "score".
        null: The unconditional condition; by default the dropped label of its table, if it has one.
        **options: Of :func:`adapt`.

    Raises:
        UnknownNameError: Another path or kind.

    Source:
        Ma et al. 2024.
    """
    if path not in PATHS:
        raise UnknownNameError("path", got=repr(path), expected="one of " + ", ".join(PATHS))
    if predicts not in KINDS:
        raise UnknownNameError("predicts", got=repr(predicts), expected="one of " + ", ".join(KINDS))
    null = dropped_label(network) if null is None else null
    return adapt(network, predicts, PATHS[path], time="t", null=null, **options)
