"""A classifier of noisy digits, for guidance: it is told the time and the digit's class."""

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import ArgumentError, DtypeError, ShapeError
from .unet import GROUPS, TimeEmbedding


class NoisyClassifier(nn.Module):
    r"""Logits of p(level | x_t, t, class) for noisy 28 x 28 digits :math:`x_t = t x_1 + (1 - t) x_0`.

    Four 3x3 convolutions of stride 2, each with group norm that the embedding of time and class scales and shifts
    (FiLM), then two linear layers. Smooth in x, since guidance differentiates it.

    Args:
        levels: Number of logits, at least 2.
        classes: Number of classes of the condition.
        width: Channels of the first convolution, a multiple of 8; doubled at each of the next two.
        embedding: Size of the embedding.

    Raises:
        ArgumentError: A size out of range.

    Example:
        >>> net = NoisyClassifier(levels=3)
        >>> net(torch.zeros(2, 1, 28, 28), torch.tensor([0.2, 0.9]), torch.tensor([3, 7])).shape
        torch.Size([2, 3])

    Source:
        Dhariwal & Nichol 2021, section 4 (classifiers of noisy pictures); Um, Lee & Ye 2023 (of levels of rarity).
    """

    def __init__(self, levels: int = 10, classes: int = 10, width: int = 24, embedding: int = 64) -> None:
        """Builds the layers with torch's default initialisation."""
        super().__init__()
        if levels < 2 or classes < 1:
            raise ArgumentError("levels, classes", got=(levels, classes), expected="at least 2 levels and a class")
        if width < GROUPS or width % GROUPS:
            raise ArgumentError("width", got=width, expected=f"a positive multiple of {GROUPS} (group norm)")
        self.levels, self.classes = levels, classes
        self.time = TimeEmbedding(embedding)
        self.label = nn.Embedding(classes, embedding)
        sizes = [1, width, 2 * width, 4 * width, 4 * width]
        pairs = list(itertools.pairwise(sizes))
        self.convolutions = nn.ModuleList([nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in pairs])
        self.norms = nn.ModuleList([nn.GroupNorm(GROUPS, b) for _, b in pairs])
        self.films = nn.ModuleList([nn.Linear(embedding, 2 * b) for _, b in pairs])
        self.head = nn.Sequential(nn.Linear(4 * width * 4, embedding), nn.SiLU(), nn.Linear(embedding, levels))

    def forward(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        """Logits of the levels.

        Args:
            x: States, [B, 1, 28, 28], in the dtype of the weights.
            t: Times in [0, 1], [B], floating; 0 = noise, 1 = data.
            label: Classes, [B], int64, 0..K - 1.

        Returns:
            Logits, [B, levels], in the dtype of the weights.

        Raises:
            ShapeError: x is not [B, 1, 28, 28], or t or label is not [B].
            DtypeError: x differs from the weights in dtype, t is not floating, or label is not int64.
        """
        if x.ndim != 4 or tuple(x.shape[1:]) != (1, 28, 28):
            raise ShapeError("x", got=list(x.shape), expected="[B, 1, 28, 28]", hint="Images lie in [-1, 1]")
        for name, value in (("t", t), ("label", label)):
            if tuple(value.shape) != (x.shape[0],):
                raise ShapeError(name, got=list(value.shape), expected=f"[{x.shape[0]}], one value a sample")
        weight = self.head[0].weight
        if x.dtype != weight.dtype and not torch.is_autocast_enabled(x.device.type):
            raise DtypeError("x", got=str(x.dtype), expected=f"{weight.dtype}, the dtype of the weights")
        if not t.is_floating_point() or label.dtype != torch.int64:
            raise DtypeError("t, label", got=f"{t.dtype}, {label.dtype}", expected="a floating dtype, torch.int64")
        e = F.silu(self.time(t) + self.label(label))
        for convolution, norm, film in zip(self.convolutions, self.norms, self.films, strict=True):
            scale, shift = film(e)[:, :, None, None].chunk(2, dim=1)
            x = F.silu(torch.addcmul(shift, norm(convolution(x)), 1 + scale))
        return self.head(x.flatten(1))
