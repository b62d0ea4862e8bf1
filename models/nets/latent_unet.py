"""The bundled velocity of latents: the digit UNet's blocks on the grid of the autoencoder."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import ArgumentError, DtypeError, ShapeError
from .unet import GROUPS, ResidualBlock, SelfAttention, TimeEmbedding


class LatentUNet(nn.Module):
    r"""Velocity of the linear path from noise to latents [B, C, h, w], given a class and, if wanted, a part of them.

    Residual blocks before and after an attention, with skips from the former to the latter; all at one resolution,
    since latents are small. What is known of the image may be appended to the state as C + 1 channels, latents and a
    mask that is 1 where they are to be painted, and 0 where they are known; a state without them means that nothing
    is known (zeros, and a mask of ones).

    Args:
        width: Channels inside; a multiple of 8.
        embedding: Size of the conditioning vector.
        heads: Attention heads; divides ``width``.
        channels: C of the latents.
        classes: Number of classes K; label K is the unconditional one.

    Raises:
        ArgumentError: A size does not divide as it must.

    Example:
        >>> net = LatentUNet()
        >>> net(torch.zeros(2, 4, 7, 7), torch.zeros(2), torch.tensor([3, 10])).shape
        torch.Size([2, 4, 7, 7])

    Source:
        Dao et al. 2023 (flow matching in latent space, and conditions by concatenation).
    """

    def __init__(
        self, width: int = 32, embedding: int = 128, heads: int = 4, channels: int = 4, classes: int = 10
    ) -> None:
        """Builds the network with zero-initialised output: before training the velocity is 0."""
        super().__init__()
        if width < GROUPS or width % GROUPS:
            raise ArgumentError("width", got=width, expected=f"a positive multiple of {GROUPS} (group norm)")
        if heads < 1 or width % heads:
            raise ArgumentError("heads", got=heads, expected=f"a divisor of width = {width}")
        self.channels, self.classes = channels, classes
        self.time = TimeEmbedding(embedding)
        self.label = nn.Embedding(classes + 1, embedding)
        self.enter = nn.Conv2d(2 * channels + 1, width, 3, padding=1)
        self.down1, self.down2 = (ResidualBlock(width, width, embedding) for _ in range(2))
        self.attention = SelfAttention(width, heads)
        self.up2, self.up1 = (ResidualBlock(2 * width, width, embedding) for _ in range(2))
        self.norm = nn.GroupNorm(GROUPS, width)
        self.leave = nn.Conv2d(width, channels, 3, padding=1)
        nn.init.zeros_(self.leave.weight)
        if self.leave.bias is not None:
            nn.init.zeros_(self.leave.bias)

    @property
    def null(self) -> int:
        """The label that means "no class"."""
        return self.classes

    def forward(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        """Predicts the velocity.

        Args:
            x: States [B, C, h, w], or with what is known [B, 2 C + 1, h, w], in the dtype of the weights.
            t: Times in [0, 1], [B], any floating dtype; 0 = noise, 1 = latents.
            label: Classes, [B], int64, 0..K; K = unconditional.

        Returns:
            Velocities [B, C, h, w].

        Raises:
            ShapeError: Another number of channels; t or label is not [B].
            DtypeError: x differs from the weights in dtype.
        """
        c = self.channels
        if x.ndim != 4 or x.shape[1] not in (c, 2 * c + 1):
            got = f"{x.shape[1]} channels" if x.ndim == 4 else list(x.shape)
            raise ShapeError("x", got=got, expected=f"{c} = state, or {2 * c + 1} = {c} state + {c + 1} condition")
        if x.dtype != self.enter.weight.dtype and not torch.is_autocast_enabled(x.device.type):
            raise DtypeError("x", got=str(x.dtype), expected=f"{self.enter.weight.dtype}, the dtype of the weights")
        for name, value in (("t", t), ("label", label)):
            if tuple(value.shape) != (x.shape[0],):
                raise ShapeError(name, got=list(value.shape), expected=f"[{x.shape[0]}], one value a sample")
        if x.shape[1] == c:
            x = torch.cat([x, torch.zeros_like(x), torch.ones_like(x[:, :1])], dim=1)
        e = F.silu(self.time(t) + self.label(label))
        first = self.enter(x)
        a = self.down1(first, e)
        b = self.down2(a, e)
        h = self.up2(torch.cat([self.attention(b), b], dim=1), e)
        h = self.up1(torch.cat([h, a], dim=1), e)
        return self.leave(F.silu(self.norm(h)))
