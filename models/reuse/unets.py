"""Reuse in UNets: encoder propagation, and the cache of deep layers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from ...errors import UnknownNameError
from ..adapter import Model
from .features import FeatureCache


@dataclass(frozen=True)
class Parts:
    """Names of a UNet's submodules.

    Attributes:
        encoder: The stem, the blocks on the way down and the middle: all that sees the state.
        deep: All blocks but the outermost on the way down and on the way up.
    """

    encoder: tuple[str, ...]
    deep: tuple[str, ...]


def _digits(net: Any) -> Parts:
    encoder = ("enter", "down1", "shrink", "down2", "attention", "middle")
    return Parts(encoder, (*encoder[2:], "up2", "grow"))


def _diffusers(net: Any) -> Parts:
    down, up = ([f"{kind}.{i}" for i in range(len(getattr(net, kind)))] for kind in ("down_blocks", "up_blocks"))
    middle = [] if getattr(net, "mid_block", None) is None else ["mid_block"]
    return Parts(("conv_in", *down, *middle), (*down[1:], *middle, *up[:-1]))


UNETS: dict[str, Callable[[Any], Parts]] = {
    "DigitUNet": _digits,
    "UNet2DModel": _diffusers,
    "UNet2DConditionModel": _diffusers,
}


def parts(network: nn.Module) -> Parts:
    """The parts of a UNet that is known by the name of its class, or of one that it derives from.

    Raises:
        UnknownNameError: Another network; lists the known ones.

    Example:
        >>> from pushforward.models.nets import DigitUNet
        >>> parts(DigitUNet(width=16, embedding=64)).deep
        ('shrink', 'down2', 'attention', 'middle', 'up2', 'grow')
    """
    for kind in type(network).__mro__:
        if kind.__name__ in UNETS:
            return UNETS[kind.__name__](network)
    hint = "FeatureCache takes the names of any submodules"
    raise UnknownNameError("network", got=type(network).__name__, expected="one of " + ", ".join(UNETS), hint=hint)


@dataclass(frozen=True, eq=False)
class EncoderPropagation(FeatureCache):
    """A UNet whose encoder runs at key steps only; the decoder runs at every step, with its own time and condition.

    The stem is held too, so between keys the output does not depend on the state, and all evaluations up to the next
    key are decoded in one call (``ahead``, here the default). ``EncoderPropagation.around(model, schedule=...)``, with
    for instance ``Static(FASTER_DIFFUSION_KEYS)`` for 50 steps; other options as :class:`FeatureCache`.

    Raises:
        UnknownNameError: A network whose encoder is not known: pass ``hold``.

    Source:
        Li et al. 2023, Faster Diffusion: Rethinking the Role of UNet Encoder in Diffusion Models, Section 3.

    Example:
        >>> import pushforward as pf
        >>> from pushforward.models import reuse
        >>> model = pf.models.load("digits28-small")
        >>> run = {"solver": "ddim", "steps": 50}
        >>> keys = reuse.Static(reuse.FASTER_DIFFUSION_KEYS)
        >>> fast = reuse.EncoderPropagation.around(model, schedule=reuse.Schedule.of(pf.make_plan(model, **run), keys))
        >>> bound = fast.bind({"label": torch.tensor([3])})
        >>> x = pf.solvers.Executor(pf.make_plan(fast, **run), torch.randn(1, 1, 28, 28)).run(bound.evaluate)
        >>> sum(decision.fresh for decision in bound.log), bound.calls, bound.rows
        (9, 15, 50)
    """

    ahead: bool = dataclasses.field(default=True, kw_only=True)

    @classmethod
    def around(cls, inner: Model, **own: Any) -> EncoderPropagation:
        """See :meth:`WrappedModel.around`; ``hold`` is the encoder, if it is not given."""
        return super().around(inner, **_held(inner, own, "encoder"))


@dataclass(frozen=True, eq=False)
class DeepCache(FeatureCache):
    """A UNet of which only the outermost blocks run at every step; everything deeper is held between key steps.

    ``DeepCache.around(model, schedule=...)``, with for instance ``Interval(3)``. Blocks are the unit: within the last
    block, the paper's finest branch would also skip all layers but one.

    Raises:
        UnknownNameError: A network whose blocks are not known: pass ``hold``.

    Source:
        Ma et al. 2023, DeepCache: Accelerating Diffusion Models for Free, Section 3.3.
    """

    @classmethod
    def around(cls, inner: Model, **own: Any) -> DeepCache:
        """See :meth:`WrappedModel.around`; ``hold`` are the deep blocks, if it is not given."""
        return super().around(inner, **_held(inner, own, "deep"))


def _held(inner: Model, own: dict[str, Any], which: str) -> dict[str, Any]:
    """The options with names of submodules, read from the network if nobody gave them."""
    network = inner.network if own.get("module") is None else own["module"]
    return own if own.get("hold") else {**own, "hold": getattr(parts(network), which)}  # type: ignore[arg-type]
