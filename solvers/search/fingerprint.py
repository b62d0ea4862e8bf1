"""Fingerprint: everything that the result of a search depends on, in words that two runs can compare."""

from __future__ import annotations

import hashlib
import re
from importlib import metadata
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...models.verifiers import name_of
from .method import Method
from .task import Task

SAMPLED = 64  # elements of each parameter that are compared: another training differs in all of them


def fingerprint(task: Task, method: Method) -> dict[str, str]:
    """What determines a search, by name.

    Networks are recognised by some elements of each parameter, conditions and contexts by all of theirs. Objects that
    are neither (functions, tokenizers) are recognised by their names only.
    """
    return {
        "version": library_version(),
        "method": plain(str(method)),
        "solver": plain(task.lowered.solver),
        "grid": ", ".join(map(repr, task.plan.grid)),
        "path": plain(str(task.path)),
        "prediction": plain(str(task.model.prediction)),
        "guidance": "1" if task.guidance is None else plain(str(task.guidance)),
        "plan": digest(plain(repr(task.lowered.instructions))),
        "shape": str([len(task.requests), *task.shape]),
        "requests": str(task.requests.tolist()),
        "seed": str(task.seed),
        "budget": str(task.ledger.budget),
        "dtype": str(task.dtype).removeprefix("torch."),
        "device": task.device.type,
        "batch": str(task.batch) + (", padded" if task.pad else ""),
        "processes": str(task.shard.size),
        "reward": plain(name_of(task.reward)),
        "network": network_digest(task.model.network),
        "condition": digest(task.network.conditions),
        "context": digest(task.context),
    }


def library_version() -> str:
    """Of the installed library; "unknown" in a checkout that is not installed."""
    try:
        return metadata.version("pushforward")
    except metadata.PackageNotFoundError:
        return "unknown"


def plain(text: str) -> str:
    """Text without the addresses of objects, which differ between processes.

    Example:
        >>> plain("<function f at 0x7f1c>")
        '<function f>'
    """
    return re.sub(r" at 0x[0-9a-fA-F]+", "", text)


def digest(value: Any) -> str:
    """Sixteen hexadecimal digits of a tree of dicts, lists, tensors, arrays, strings and numbers."""
    total = hashlib.sha256()
    feed(total, value)
    return total.hexdigest()[:16]


def network_digest(network: Any) -> str:
    """The same of some elements of each parameter and buffer; of another function its name."""
    if not isinstance(network, torch.nn.Module):
        return plain(getattr(network, "__qualname__", type(network).__qualname__))
    state = {k: v for k, v in [*network.named_parameters(), *network.named_buffers()]}
    return digest([type(network).__qualname__, {name: [list(v.shape), sampled(v)] for name, v in state.items()}])


def sampled(tensor: Tensor) -> Tensor:
    """Some of the elements, evenly spaced."""
    flat = tensor.detach().reshape(-1)
    return flat[:: max(1, len(flat) // SAMPLED)]


def feed(total: Any, value: Any) -> None:
    """Hash a value with its kind, so that no two trees read alike."""
    if isinstance(value, dict):
        items: list[Any] = [part for key in sorted(value, key=str) for part in (str(key), value[key])]
        total.update(f"dict {len(value)};".encode())
    elif isinstance(value, list | tuple):
        items = list(value)
        total.update(f"list {len(value)};".encode())
    elif isinstance(value, Tensor):
        content = value.detach().cpu().contiguous()
        total.update(f"tensor {content.dtype} {list(content.shape)};".encode())
        total.update(content.reshape(-1).view(torch.uint8).numpy().tobytes())
        return
    elif isinstance(value, np.ndarray):
        total.update(f"array {value.dtype} {value.shape};".encode())
        total.update(
            np.ascontiguousarray(value).tobytes() if value.dtype.kind != "O" else repr(value.tolist()).encode()
        )
        return
    else:
        text = plain(repr(value))
        total.update(f"{type(value).__name__} {len(text)} {text};".encode())
        return
    for item in items:
        feed(total, item)


def differences(saved: dict[str, str], wanted: dict[str, str]) -> list[tuple[str, str, str]]:
    """Names of what differs, with what was saved and what is wanted, shortened."""
    names = sorted(set(saved) | set(wanted), key=[*wanted, *saved].index)
    pairs = [(name, saved.get(name, "nothing"), wanted.get(name, "nothing")) for name in names]
    return [(name, shortened(a), shortened(b)) for name, a, b in pairs if a != b]


def shortened(text: str, length: int = 80) -> str:
    """Text of at most ``length`` characters."""
    return text if len(text) <= length else text[: length - 3] + "..."
