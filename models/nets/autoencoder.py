"""The bundled autoencoder of digits: the space that a latent flow lives in."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import ArgumentError, DtypeError, ShapeError
from .unet import GROUPS

STRIDE = 4


class ConvBlock(nn.Module):
    """Group norm, SiLU and a 3x3 convolution, twice, beside a skip; the second convolution starts at zero.

    Args:
        channels: Of input and output.
    """

    def __init__(self, channels: int) -> None:
        """Builds the layers."""
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(GROUPS, channels), nn.Conv2d(channels, channels, 3, padding=1)
        self.norm2, self.conv2 = nn.GroupNorm(GROUPS, channels), nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)
        if self.conv2.bias is not None:
            nn.init.zeros_(self.conv2.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Maps [B, C, H, W] to the same shape."""
        return x + self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))


class DigitAutoencoder(nn.Module):
    r"""Digits [B, 1, 28, 28] in [-1, 1] to latents [B, C, 7, 7] and back.

    The encoder gives a diagonal Gaussian, :math:`q(z | x) = N(\mu, e^{\ell})`; the latent of an image is its mean, and
    training adds the noise. Latents are as they come: :class:`pushforward.models.LatentCodec` scales them.

    Args:
        width: Channels at 7 x 7; half of them at 14 x 14. A multiple of 16.
        channels: C of the latents.

    Raises:
        ArgumentError: A width that group norm cannot divide, or no channels.

    Example:
        >>> net = DigitAutoencoder()
        >>> mean, log_variance = net.encode(torch.zeros(2, 1, 28, 28))
        >>> mean.shape, net.decode(mean).shape
        (torch.Size([2, 4, 7, 7]), torch.Size([2, 1, 28, 28]))

    Source:
        Kingma & Welling 2014; as the first stage of a latent model, Rombach et al. 2022.
    """

    def __init__(self, width: int = 32, channels: int = 4) -> None:
        """Builds encoder and decoder."""
        super().__init__()
        if width < 2 * GROUPS or width % (2 * GROUPS):
            raise ArgumentError("width", got=width, expected=f"a positive multiple of {2 * GROUPS} (group norm)")
        if channels < 1:
            raise ArgumentError("channels", got=channels, expected="at least 1")
        self.width, self.channels = width, channels
        half = width // 2
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(2),
            nn.Conv2d(4, half, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(half, width, 3, stride=2, padding=1),
            ConvBlock(width),
            nn.GroupNorm(GROUPS, width),
            nn.SiLU(),
            nn.Conv2d(width, 2 * channels, 1),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1),
            ConvBlock(width),
            nn.Upsample(scale_factor=2, mode="nearest"),
            nn.Conv2d(width, half, 3, padding=1),
            ConvBlock(half),
            nn.GroupNorm(GROUPS, half),
            nn.SiLU(),
            nn.Conv2d(half, 4, 3, padding=1),
            nn.PixelShuffle(2),
        )

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the latents.

        Args:
            x: Images [B, 1, H, W] in [-1, 1], in the dtype of the weights; H and W multiples of 4.

        Raises:
            ShapeError: Not one channel, or a size that is not a multiple of the stride.
            DtypeError: x differs from the weights in dtype.
        """
        if x.ndim != 4 or x.shape[1] != 1:
            raise ShapeError("x", got=list(x.shape), expected="[B, 1, H, W]")
        for name, size in (("height", x.shape[2]), ("width", x.shape[3])):
            if size % STRIDE:
                raise ShapeError(name, got=size, expected=f"a multiple of the autoencoder's stride {STRIDE}")
        self._check_dtype("x", x)
        mean, log_variance = self.encoder(x).chunk(2, dim=1)
        return mean, log_variance.clamp(-12.0, 4.0)

    def mean(self, x: Tensor) -> Tensor:
        """The latents of images: the first of what :meth:`encode` returns."""
        return self.encode(x)[0]

    def decode(self, z: Tensor) -> Tensor:
        """Images of latents [B, C, h, w]: [B, 1, 4 h, 4 w], not clamped.

        Raises:
            ShapeError: Another number of channels.
            DtypeError: z differs from the weights in dtype.
        """
        if z.ndim != 4 or z.shape[1] != self.channels:
            raise ShapeError("z", got=list(z.shape), expected=f"[B, {self.channels}, h, w]")
        self._check_dtype("z", z)
        return self.decoder(z)

    def forward(self, x: Tensor) -> Tensor:
        """The reconstruction of the mean latent."""
        return self.decode(self.mean(x))

    def _check_dtype(self, name: str, x: Tensor) -> None:
        weight = next(self.parameters())
        if x.dtype != weight.dtype and not torch.is_autocast_enabled(x.device.type):
            raise DtypeError(name, got=str(x.dtype), expected=f"{weight.dtype}, the dtype of the weights")
