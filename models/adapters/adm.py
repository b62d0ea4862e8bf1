"""Networks of guided-diffusion (ADM), improved-diffusion and DiT."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import torch

from ...errors import ArgumentError, UnknownNameError
from ..adapter import Model, adapt
from ..calls import call_x_t
from ..clocks import IndexClock
from ..concatenation import ConcatCondition
from ..discrete import DiscreteDDPM
from ..kinds import DenoisedPrediction, NoisePrediction
from .labels import dropped_label

PREDICTS = {"noise": NoisePrediction, "denoised": DenoisedPrediction}


def from_adm(
    network: Callable[..., Any],
    path: DiscreteDDPM,
    predicts: str = "noise",
    *,
    learn_sigma: bool | None = None,
    rescale_timesteps: bool | None = None,
    concatenated: int = 0,
    null: Mapping[str, Any] | None = None,
    **options: Any,
) -> Model:
    r"""A model from a network of guided-diffusion's interface: ``network(x, timesteps, **condition)``.

    Such a network is told the index i of the noise levels it was trained on, or :math:`1000\, i / M` if times were
    rescaled. Respaced sampling ("ddim25") is a matter of the grid. A network that has been wrapped for it, so that it
    takes a place in a list of indices, brings ``timestep_map``: its path is then the levels of that list, its times are
    whole, and grids must lie on them.

    Args:
        network: Takes states [B, C, H, W], times [B] and ``y``. ``in_channels``, ``out_channels``, ``learn_sigma``,
            ``timestep_map``, ``rescale_timesteps``, ``original_num_steps`` and a label table with a dropped label are
            read where it has them.
        path: The levels of training: ``DiscreteDDPM.linear()`` and ``DiscreteDDPM.squaredcos_cap_v2()``.
        predicts: "noise", or "denoised" for networks trained with predict_xstart.
        learn_sigma: Whether 2C channels are returned, of which the first half is the prediction. By default read from
            the network's channels.
        rescale_timesteps: Whether times are 1000 i / M. By default what the network says, otherwise False.
        concatenated: Channels of the input that are a condition, ``condition["concatenated"]`` (the enlarged picture of
            an upsampler that expects it so).
        null: The unconditional condition. DiT's follows from its label table; ADM's own networks were trained without
            one.
        **options: Of :func:`adapt`.

    Raises:
        ArgumentError: What the network does not say, and its channels if they are neither C nor 2C.

    Source:
        Dhariwal & Nichol 2021; Peebles & Xie 2023.
    """
    if predicts not in PREDICTS:
        raise UnknownNameError("predicts", got=repr(predicts), expected="one of " + ", ".join(PREDICTS))
    if not isinstance(path, DiscreteDDPM):
        hint = "For instance DiscreteDDPM.linear()"
        raise ArgumentError("path", got=path, expected="the trained levels, a DiscreteDDPM", hint=hint)
    places = getattr(network, "timestep_map", None)
    inner = getattr(network, "model", network) if places is not None else network
    if rescale_timesteps is None:
        rescale_timesteps = bool(getattr(network, "rescale_timesteps", False)) and places is None
    scale = 1000.0 / path.levels if rescale_timesteps else 1.0
    if places is not None:  # the wrapper looks the index up, and rescales it itself
        path = respaced(path, places)
        options = {"time_dtype": torch.int64} | options
    split, channels = channels_of(inner, learn_sigma, concatenated)
    call = ConcatCondition("concatenated", channels, concatenated) if concatenated else call_x_t
    options = {"call": call, "channels": channels, "split_variance": split} | options
    prediction = PREDICTS[predicts](path, IndexClock(path.levels, scale=scale))
    return adapt(network, prediction, path, null=dropped_label(inner) if null is None else null, **options)


def respaced(path: DiscreteDDPM, places: Any) -> DiscreteDDPM:
    """The levels at ``places``, rising indices of the levels of ``path``.

    Raises:
        ArgumentError: Fewer than two, not rising, or outside the table.
    """
    indices = [int(place) for place in places]
    rising = all(first < second for first, second in pairwise(indices))
    if len(indices) < 2 or not rising or indices[0] < 0 or indices[-1] >= path.levels:
        expected = f"at least two rising indices below {path.levels}"
        raise ArgumentError("timestep_map", got=indices, expected=expected)
    return DiscreteDDPM(tuple(path.alphas_bar[index] for index in indices), path.interpolation)


def channels_of(network: Any, learn_sigma: bool | None, concatenated: int) -> tuple[bool, int | None]:
    """Whether a variance follows the prediction, and the channels of the state.

    Raises:
        ArgumentError: Neither C nor 2C channels come out; nobody says how many do.
    """
    given, returned = getattr(network, "in_channels", None), getattr(network, "out_channels", None)
    said = getattr(network, "learn_sigma", None) if learn_sigma is None else learn_sigma
    state = None if given is None else int(given) - concatenated
    if state is None or returned is None:
        if said is None:
            hint = "It has no in_channels and out_channels to read: pass learn_sigma="
            raise ArgumentError("learn_sigma", got=None, expected="True or False for this network", hint=hint)
        return bool(said), state
    if returned not in (state, 2 * state) or (said is not None and returned != state * (1 + bool(said))):
        got = f"in_channels={given}, out_channels={returned}, learn_sigma={said}, concatenated={concatenated}"
        raise ArgumentError("network", got=got, expected="as many channels out as the state has, or twice as many")
    return returned == 2 * state, state
