"""Reads the bundled weights: float16 safetensors beside a JSON card, verified by checksum before use."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_tensors
from torch import nn

from ...errors import ArgumentError, CorruptFileError, UnknownNameError
from ..nets import (
    DigitAutoencoder,
    DigitClassifier,
    DigitDiT,
    DigitUNet,
    LatentUNet,
    NoisyClassifier,
    VelocityRefiner,
)

WEIGHTS = Path(__file__).parent / "weights"
ARCHITECTURES: dict[str, type[nn.Module]] = {
    "DigitAutoencoder": DigitAutoencoder,
    "DigitClassifier": DigitClassifier,
    "DigitDiT": DigitDiT,
    "DigitUNet": DigitUNet,
    "LatentUNet": LatentUNet,
    "NoisyClassifier": NoisyClassifier,
    "VelocityRefiner": VelocityRefiner,
}


def names(*, folder: str | Path = WEIGHTS) -> list[str]:
    """Names of the bundled models, sorted.

    Args:
        folder: Where cards and weights lie; the package's own by default.

    Example:
        >>> names()[:3]
        ['digits28-autoencoder', 'digits28-base', 'digits28-classifier-a']
    """
    return sorted(path.stem for path in Path(folder).glob("*.json"))


def card(name: str, *, folder: str | Path = WEIGHTS) -> dict[str, Any]:
    """What is known of a bundled model: architecture, conventions, data and licence, training, metrics, checksum.

    Args:
        name: One of `names()`.
        folder: Where cards and weights lie; the package's own by default.

    Returns:
        The card as plain JSON data, a new copy at each call.

    Raises:
        UnknownNameError: No model has that name; lists those there are.
    """
    known = names(folder=folder)
    if name not in known:
        raise UnknownNameError("name", got=repr(name), expected=f"one of {', '.join(known)}")
    return json.loads((Path(folder) / f"{name}.json").read_text(encoding="utf-8"))


def load(
    name: str,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    *,
    folder: str | Path = WEIGHTS,
) -> nn.Module:
    """Builds a bundled network with its trained weights.

    Weights are stored as float16 (relative error of the velocity below 2e-3) and cast to `dtype`. The network comes in
    evaluation mode and frozen (`net.requires_grad_()` thaws it); torch's global random state is left alone. Shared
    conventions: images [B, 1, 28, 28] in [-1, 1], t = 0 noise, t = 1 data, label 10 = unconditional.

    Args:
        name: One of `names()`. "digits28-classifier-a" is meant as a reward, "digits28-classifier-b" as a judge: a
            number measured with the classifier that was optimised says nothing.
        device: Where the network goes.
        dtype: A floating dtype.
        folder: Where cards and weights lie; the package's own by default.

    Returns:
        A network of the card's architecture, one of those in :mod:`pushforward.models.nets`.

    Raises:
        UnknownNameError: No model has that name.
        ArgumentError: `dtype` is not floating.
        CorruptFileError: The file is missing, or its sha256 is not the card's. What was hashed is what is loaded.

    Example:
        >>> net = load("digits28-small")
        >>> net(torch.zeros(1, 1, 28, 28), torch.tensor([0.5]), torch.tensor([3])).shape
        torch.Size([1, 1, 28, 28])
    """
    facts = card(name, folder=folder)
    if not dtype.is_floating_point:
        raise ArgumentError("dtype", got=dtype, expected="a floating dtype")
    path = Path(folder) / f"{name}.safetensors"
    if not path.exists():
        raise CorruptFileError(str(path), got="no such file", expected="the weights of the card beside it")
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if digest != facts["sha256"]:
        message = f"{path.name}: reference weights corrupted or replaced"
        raise CorruptFileError(message, got=f"sha256 {digest}", expected=facts["sha256"], hint="Reinstall the package.")
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        net = ARCHITECTURES[facts["architecture"]["name"]](**facts["architecture"]["arguments"])
    net.load_state_dict({key: value.float() for key, value in load_tensors(content).items()})
    net = net.requires_grad_(False).eval().to(device=device, dtype=dtype)
    if torch.device(device).type == "cpu" and isinstance(net, DigitUNet | LatentUNet):
        # 1.1 to 1.3 times as fast: oneDNN's convolutions then reorder neither what comes in nor what goes out. The
        # classifiers' are too small for that.
        for parameter in net.parameters():
            if parameter.ndim == 4:
                parameter.data = parameter.data.to(memory_format=torch.channels_last)
    return net
