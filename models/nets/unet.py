"""The bundled digit network: a small class-conditional velocity UNet, trained by `models/training`."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import ArgumentError
from .inputs import check_digits

GROUPS = 8


class TimeEmbedding(nn.Module):
    r"""Sinusoidal features of t followed by a two-layer perceptron.

    .. math:: [\cos(1000\,t f_j), \sin(1000\,t f_j)]_{j < 32}, \quad f_j = 10^{-4j/32}

    Angles are computed in float32 even for half-precision weights: in bfloat16 an angle near 1000 is known to 4 only.
    In a float64 network they are float64, so that the velocity is smooth enough to measure orders of convergence.

    Args:
        width: Size of the embedding.
        frequencies: Number of frequencies; twice as many features enter the perceptron.

    Source:
        Vaswani et al. 2017; as a time embedding, Ho et al. 2020 (DDPM).
    """

    def __init__(self, width: int, frequencies: int = 32) -> None:
        """Builds the perceptron; frequencies are computed at each call, as `.to(dtype)` would round a buffer."""
        super().__init__()
        self.frequencies = frequencies
        self.mlp = nn.Sequential(nn.Linear(2 * frequencies, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Tensor) -> Tensor:
        """Maps times [B] to embeddings [B, width], in the dtype of the weights."""
        dtype, count = next(self.mlp.parameters()).dtype, self.frequencies
        wide = torch.promote_types(dtype, torch.float32)
        angular = torch.logspace(3, 3 - 4 * (count - 1) / count, count, dtype=wide, device=t.device)
        angle = t.to(wide)[:, None] * angular
        return self.mlp(torch.cat([angle.cos(), angle.sin()], dim=1).to(dtype))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with group norm; the embedding scales and shifts the second norm (FiLM).

    The second convolution starts at zero, so that a new block is the identity (or its 1x1 skip).

    Args:
        channels_in: Channels of the input.
        channels_out: Channels of the output.
        embedding: Size of the conditioning vector.

    Source:
        Ho et al. 2020 (DDPM) and Dhariwal & Nichol 2021 (scale-shift norm).
    """

    def __init__(self, channels_in: int, channels_out: int, embedding: int) -> None:
        """Builds the layers; a 1x1 skip only where the widths differ."""
        super().__init__()
        self.norm1 = nn.GroupNorm(GROUPS, channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.norm2 = nn.GroupNorm(GROUPS, channels_out)
        self.film = nn.Linear(embedding, 2 * channels_out)
        self.conv2 = _zeroed(nn.Conv2d(channels_out, channels_out, 3, padding=1))
        self.skip = nn.Conv2d(channels_in, channels_out, 1) if channels_in != channels_out else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Maps [B, channels_in, H, W] and [B, embedding] to [B, channels_out, H, W]."""
        h = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.film(embedding)[:, :, None, None].chunk(2, dim=1)
        h = self.conv2(F.silu(torch.addcmul(shift, self.norm2(h), 1 + scale)))
        return self.skip(x) + h


class SelfAttention(nn.Module):
    """Multi-head self-attention over the pixels of a feature map, with a residual connection that starts at zero.

    Args:
        channels: Channels of the feature map; a multiple of `heads`.
        heads: Number of attention heads.

    Source:
        Vaswani et al. 2017; inside a UNet, Ho et al. 2020 (DDPM).
    """

    def __init__(self, channels: int, heads: int) -> None:
        """Builds the norm and the two 1x1 projections."""
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(GROUPS, channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = _zeroed(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Maps [B, C, H, W] to the same shape."""
        b, c, h, w = x.shape
        qkv = self.qkv(self.norm(x)).reshape(b, 3, self.heads, c // self.heads, h * w).transpose(-1, -2)
        y = F.scaled_dot_product_attention(qkv[:, 0], qkv[:, 1], qkv[:, 2])
        return x + self.out(y.transpose(-1, -2).reshape(b, c, h, w))


class DigitUNet(nn.Module):
    r"""Velocity of the linear path from noise to 28 x 28 digits, conditioned on the class.

    .. math:: v(x, t, y) \approx E[x_1 - x_0 \mid x_t = x, y], \quad x_t = t\,x_1 + (1 - t)\,x_0

    The image is folded to 14 x 14 x 4 first (pixel unshuffle), which makes the network four times cheaper. Two levels,
    one residual block each way, attention at 7 x 7. Images lie in [-1, 1], t = 0 is noise and t = 1 data, and the label
    `classes` (10) stands for "no class", as classifier-free guidance needs it.

    Args:
        width: Channels of the finer level (the coarser one has twice as many); a multiple of 8.
        embedding: Size of the conditioning vector.
        heads: Attention heads; divides 2 * width.
        classes: Number of classes K; labels run from 0 to K, where K is the unconditional one.
        self_conditioning: Whether the mean over pixels of the innermost feature, through a linear layer that starts at
            zero, is added to the conditioning of the blocks behind it.

    Raises:
        ArgumentError: A size does not divide as it must.

    Example:
        >>> net = DigitUNet(width=16, embedding=64)
        >>> net(torch.zeros(2, 1, 28, 28), torch.zeros(2), torch.tensor([3, 10])).shape
        torch.Size([2, 1, 28, 28])

    Source:
        Ho et al. 2020 (UNet), Lipman et al. 2023 (target), Ho & Salimans 2022 (null label); Xiang et al. 2025, DDAE++
        (self-conditioning on features).
    """

    def __init__(
        self,
        width: int = 48,
        embedding: int = 192,
        heads: int = 4,
        classes: int = 10,
        self_conditioning: bool = False,
    ) -> None:
        """Builds the network with zero-initialised output: before training the velocity is 0."""
        super().__init__()
        if width < GROUPS or width % GROUPS:
            raise ArgumentError("width", got=width, expected=f"a positive multiple of {GROUPS} (group norm)")
        if heads < 1 or 2 * width % heads:
            raise ArgumentError("heads", got=heads, expected=f"a divisor of 2 * width = {2 * width}")
        self.width, self.embedding, self.heads, self.classes = width, embedding, heads, classes
        self.time = TimeEmbedding(embedding)
        self.label = nn.Embedding(classes + 1, embedding)
        self.enter = nn.Conv2d(4, width, 3, padding=1)
        self.down1 = ResidualBlock(width, width, embedding)
        self.shrink = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.down2 = ResidualBlock(2 * width, 2 * width, embedding)
        self.attention = SelfAttention(2 * width, heads)
        self.middle = ResidualBlock(2 * width, 2 * width, embedding)
        self.up2 = ResidualBlock(4 * width, 2 * width, embedding)
        self.grow = nn.Conv2d(2 * width, width, 3, padding=1)
        self.up1 = ResidualBlock(2 * width, width, embedding)
        self.norm = nn.GroupNorm(GROUPS, width)
        self.leave = _zeroed(nn.Conv2d(width, 4, 3, padding=1))
        self.carry: nn.Linear | None = None
        if self_conditioning:  # the last layer, so that the others start as without it
            self.carry = nn.Linear(2 * width, embedding)
            nn.init.zeros_(self.carry.weight)
            nn.init.zeros_(self.carry.bias)

    @property
    def null(self) -> int:
        """The label that means "no class"."""
        return self.classes

    def forward(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        """Predicts the velocity.

        Args:
            x: States, [B, 1, 28, 28], in the dtype of the weights.
            t: Times in [0, 1], [B], any floating dtype; 0 = noise, 1 = data. The range is not checked.
            label: Classes, [B], int64, 0..K; K = unconditional. The values are checked for CPU tensors only: on a
                device that would cost a host read at every call (an index error of the embedding is what remains).

        Returns:
            Velocities, the shape and dtype of x.

        Raises:
            ShapeError: x is not [B, 1, 28, 28], or t or label is not [B].
            DtypeError: x differs from the weights in dtype, t is not floating, or label is not int64.
            ArgumentError: A label on the CPU is outside 0..K.
        """
        check_digits(x, t, label, self.enter.weight, self.classes)
        if not len(x):  # pixel_unshuffle returns an empty tensor unfolded (torch 2.13)
            return x.clone()
        c = self.time(t) + self.label(label)
        a, b, h = self._inner(x, e := F.silu(c))
        if self.carry is not None:
            e = F.silu(c + self.carry(h.mean((2, 3))))
        h = self.up2(torch.cat([h, b], dim=1), e)
        h = self.grow(F.interpolate(h, scale_factor=2.0, mode="nearest"))
        h = self.up1(torch.cat([h, a], dim=1), e)
        return F.pixel_shuffle(self.leave(F.silu(self.norm(h))), 2)

    def features(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        """The mean over pixels of the innermost feature, [B, 2 * width]; arguments and errors as `forward`."""
        check_digits(x, t, label, self.enter.weight, self.classes)
        return self._inner(x, F.silu(self.time(t) + self.label(label)))[2].mean((2, 3))

    def _inner(self, x: Tensor, e: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features at 14 x 14 and at 7 x 7 on the way in, and the innermost."""
        a = self.down1(self.enter(F.pixel_unshuffle(x, 2)), e)
        b = self.down2(self.shrink(a), e)
        return a, b, self.middle(self.attention(b), e)


def _zeroed(layer: nn.Conv2d) -> nn.Conv2d:
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
