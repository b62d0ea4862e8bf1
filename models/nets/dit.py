"""The bundled token model: a small class-conditional diffusion transformer on 28 x 28 digits."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import ArgumentError
from .inputs import check_digits
from .unet import TimeEmbedding

SIZE = 28


class TokenAttention(nn.Module):
    """Multi-head self-attention over tokens, with a projection each for queries, keys and values.

    They are modules of their own, so that a cache can stand behind the keys and values while fewer queries come in.

    Args:
        width: Channels; a multiple of `heads`.
        heads: Number of attention heads.

    Source:
        Vaswani et al. 2017.
    """

    def __init__(self, width: int, heads: int) -> None:
        """Builds four linear layers."""
        super().__init__()
        self.heads = heads
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width) for _ in range(3))
        self.to_out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Maps tokens [B, n, width] to the same shape; keys and values may have another number of tokens than x."""
        q, k, v = (self._split(project(x)) for project in (self.to_q, self.to_k, self.to_v))
        return self.to_out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)


class TransformerBlock(nn.Module):
    r"""Attention and a perceptron whose norms, shifts and gates come from the condition (adaLN-zero).

    .. math:: h \leftarrow h + g_a A((1 + s_a) N(h) + b_a), \quad h \leftarrow h + g_m M((1 + s_m) N(h) + b_m)

    The modulation starts at zero, so that a new block is the identity.

    Args:
        width: Channels.
        heads: Attention heads.
        expansion: Hidden channels of the perceptron, in multiples of the width.

    Source:
        Peebles & Xie 2023 (DiT).
    """

    def __init__(self, width: int, heads: int, expansion: int = 4) -> None:
        """Builds the layers."""
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.attention = TokenAttention(width, heads)
        self.mlp = nn.Sequential(
            nn.Linear(width, expansion * width), nn.GELU("tanh"), nn.Linear(expansion * width, width)
        )
        self.modulation = _zeroed(nn.Linear(width, 6 * width))

    def forward(self, h: Tensor, condition: Tensor) -> Tensor:
        """Maps tokens [B, n, width] and a condition [B, 1, width], or one for each token, to the shape of h."""
        scale_a, shift_a, gate_a, scale_m, shift_m, gate_m = self.modulation(condition).chunk(6, dim=-1)
        h = torch.addcmul(h, gate_a, self.attention(torch.addcmul(shift_a, self.norm(h), 1 + scale_a)))
        return torch.addcmul(h, gate_m, self.mlp(torch.addcmul(shift_m, self.norm(h), 1 + scale_m)))


class DigitDiT(nn.Module):
    r"""Velocity of the linear path from noise to 28 x 28 digits by a transformer over patches.

    .. math:: v(x, t, y) \approx E[x_1 - x_0 \mid x_t = x, y], \quad x_t = t\,x_1 + (1 - t)\,x_0

    The image becomes (28 / patch)^2 tokens of patch^2 pixels, row by row. Images lie in [-1, 1], t = 0 is noise and
    t = 1 data, and the label `classes` stands for "no class". The time may be one for each token: the modulation is
    then each token's own.

    Args:
        width: Channels of a token; a multiple of 4 * heads.
        depth: Number of blocks.
        heads: Attention heads.
        patch: Pixels of a token in each direction; divides 28.
        classes: Number of classes K; labels run from 0 to K, where K is the unconditional one.

    Attributes:
        tokens: Their number N.

    Raises:
        ArgumentError: A size does not divide as it must.

    Example:
        >>> net = DigitDiT(width=32, depth=2)
        >>> net(torch.zeros(2, 1, 28, 28), torch.zeros(2), torch.tensor([3, 10])).shape
        torch.Size([2, 1, 28, 28])
        >>> net(torch.zeros(2, 1, 28, 28), torch.zeros(2, net.tokens), torch.tensor([3, 10])).shape
        torch.Size([2, 1, 28, 28])

    Source:
        Peebles & Xie 2023 (DiT), Lipman et al. 2023 (target), Ho & Salimans 2022 (null label).
    """

    def __init__(self, width: int = 64, depth: int = 4, heads: int = 4, patch: int = 4, classes: int = 10) -> None:
        """Builds the network with zero-initialised modulation and output: before training the velocity is 0."""
        super().__init__()
        if patch < 1 or SIZE % patch:
            raise ArgumentError("patch", got=patch, expected=f"a divisor of {SIZE}")
        if heads < 1 or width < 4 or width % 4 or width % heads:
            raise ArgumentError("width", got=width, expected=f"a positive multiple of 4 and of heads = {heads}")
        if depth < 1:
            raise ArgumentError("depth", got=depth, expected="at least 1")
        self.width, self.depth, self.heads, self.patch, self.classes = width, depth, heads, patch, classes
        self.time = TimeEmbedding(width)
        self.label = nn.Embedding(classes + 1, width)
        self.embed = TokenEmbedding(width, patch)
        self.blocks = nn.ModuleList([TransformerBlock(width, heads) for _ in range(depth)])
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = _zeroed(nn.Linear(width, 2 * width))
        self.leave = _zeroed(nn.Linear(width, patch * patch))

    @property
    def null(self) -> int:
        """The label that means "no class"."""
        return self.classes

    @property
    def tokens(self) -> int:
        """How many tokens an image has."""
        return (SIZE // self.patch) ** 2

    def forward(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        """Predicts the velocity.

        Args:
            x: States, [B, 1, 28, 28], in the dtype of the weights.
            t: Times in [0, 1], [B], or [B, tokens] for tokens with times of their own; any floating dtype. The range
                is not checked.
            label: Classes, [B], int64, 0..K; K = unconditional.

        Returns:
            Velocities, the shape and dtype of x.

        Raises:
            ShapeError, DtypeError, ArgumentError: As :func:`check_digits` says.
        """
        check_digits(x, t, label, self.leave.weight, self.classes, self.tokens)
        if not len(x):
            return x.clone()
        each = t if t.ndim == 2 else t[:, None]
        condition = F.silu(self.time(each.flatten()).unflatten(0, each.shape) + self.label(label)[:, None])
        h = self.embed(x)
        for block in self.blocks:
            h = block(h, condition)
        scale, shift = self.modulation(condition).chunk(2, dim=-1)
        pixels = self.leave(torch.addcmul(shift, self.norm(h), 1 + scale))
        side = SIZE // self.patch
        return F.pixel_shuffle(pixels.transpose(1, 2).unflatten(2, (side, side)), self.patch)


class TokenEmbedding(nn.Module):
    r"""Tokens of an image: a linear map of each patch plus a learnt position that starts as sines and cosines.

    Args:
        width: Channels of a token; a multiple of 4.
        patch: Pixels of a token in each direction.

    Source:
        Dosovitskiy et al. 2021 (ViT); the starting values are those of DiT.
    """

    def __init__(self, width: int, patch: int) -> None:
        """Builds the map and the positions."""
        super().__init__()
        self.patch = patch
        self.enter = nn.Linear(patch * patch, width)
        side = SIZE // patch
        angle = torch.arange(side)[:, None] * 10000.0 ** (-torch.arange(width // 4) / (width // 4))
        line = torch.cat([angle.sin(), angle.cos()], dim=1)
        both = torch.cat([line[:, None].expand(-1, side, -1), line[None].expand(side, -1, -1)], dim=2)
        self.position = nn.Parameter(both.flatten(0, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Maps images [B, 1, 28, 28] to tokens [B, N, width]."""
        return self.enter(F.pixel_unshuffle(x, self.patch).flatten(2).transpose(1, 2)) + self.position


def _zeroed(layer: nn.Linear) -> nn.Linear:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
