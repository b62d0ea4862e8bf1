"""Fingerprints of models: what was made for one network can tell when it meets another."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

if TYPE_CHECKING:
    from .adapter import Model

UNKNOWN = "unknown"
Versions = tuple[tuple[int, int], ...]
KNOWN: WeakKeyDictionary[Model, tuple[Versions, str]] = WeakKeyDictionary()


def fingerprint(model: Model) -> str:
    """SHA-256 of the weights of a model's networks and of how they are read; the same on any device.

    What was found is kept with the model until a weight is replaced or changed in place, as training and loading do;
    torch does not tell of a change through ``.data``.

    Args:
        model: Any model; of wrappers and compositions every network counts.

    Returns:
        64 hexadecimal digits; ``"unknown"`` if no network of the model has weights that can be read, as plain functions
        and compiled engines, which are told apart by nothing.

    Example:
        >>> from pushforward.models import adapt, load
        >>> fingerprint(load("digits28-small")) == fingerprint(load("digits28-small"))
        True
        >>> fingerprint(adapt(lambda x, t: -x))
        'unknown'
    """
    modules = list(dict.fromkeys(networks_of(model)))
    if not modules:
        return UNKNOWN
    now = versions_of(modules)
    before, known = KNOWN.get(model, (None, ""))
    if now is not None and now == before:
        return known
    found = digest_of(model, modules)
    if now is not None:
        KNOWN[model] = now, found
    return found


def digest_of(model: Model, modules: Sequence[nn.Module]) -> str:
    """The fingerprint, from all weights."""
    digest = hashlib.sha256(json.dumps(model.prediction.to_config(), sort_keys=True).encode())
    for module in modules:
        for name, tensor in module.state_dict().items():
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def versions_of(modules: Sequence[nn.Module]) -> Versions | None:
    """Where each weight lies, and how often it was written to; None where that is not counted."""
    tensors = list(itertools.chain(*((*module.parameters(), *module.buffers()) for module in modules)))
    if any(tensor.is_inference() for tensor in tensors):
        return None
    return tuple((tensor.data_ptr(), tensor._version) for tensor in tensors)


def networks_of(value: Any) -> Iterator[nn.Module]:
    """The modules in a model's fields, and in those of the models and containers in them."""
    if isinstance(value, nn.Module):
        yield value
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from networks_of(getattr(value, field.name))
    elif isinstance(value, dict):
        for item in value.values():
            yield from networks_of(item)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from networks_of(item)
