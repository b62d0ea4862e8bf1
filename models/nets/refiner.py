"""The one-block network that says how a velocity has changed."""

from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import ArgumentError, ShapeError
from .unet import GROUPS, ResidualBlock, TimeEmbedding

FOLD = 4  # 28 x 28 pixels become 7 x 7: two 3 x 3 convolutions then see most of the image, at a 16th of the cost


class VelocityRefiner(nn.Module):
    r"""The change of a digit network's velocity since it was last evaluated.

    .. math:: R(x, t, v_{prev}, y) \approx v(x, t, y) - v_{prev}

    State and earlier velocity enter as two channels of one image, which is folded to 7 x 7 x 32 (pixel unshuffle); one
    residual block follows. The default sizes take 4.8 % of the operations of "digits28-base". Conventions are those
    of :class:`DigitUNet`: t = 0 is noise, t = 1 data, the label ``classes`` means "no class".

    Args:
        width: Channels of the block; a multiple of 8.
        embedding: Size of the conditioning vector.
        classes: Number of classes K; labels run from 0 to K, where K is the unconditional one.

    Raises:
        ArgumentError: A width that is no positive multiple of 8.

    Example:
        >>> import torch
        >>> net = VelocityRefiner(width=16, embedding=32)
        >>> net(torch.zeros(2, 2, 28, 28), torch.zeros(2), torch.tensor([3, 10])).shape
        torch.Size([2, 1, 28, 28])

    Source:
        Zhao et al. 2024, FlowTurbo, section 3.1; there it is one block of the DiT that it refines.
    """

    def __init__(self, width: int = 48, embedding: int = 64, classes: int = 10) -> None:
        """Builds the network with zero-initialised output: before training, velocities stay what they were."""
        super().__init__()
        if width < GROUPS or width % GROUPS:
            raise ArgumentError("width", got=width, expected=f"a positive multiple of {GROUPS} (group norm)")
        self.width, self.classes = width, classes
        self.time = TimeEmbedding(embedding)
        self.label = nn.Embedding(classes + 1, embedding)
        self.enter = nn.Conv2d(2 * FOLD**2, width, 3, padding=1)
        self.block = ResidualBlock(width, width, embedding)
        self.leave = nn.Conv2d(width, FOLD**2, 3, padding=1)
        for parameter in self.leave.parameters():
            nn.init.zeros_(parameter)

    @property
    def null(self) -> int:
        """The label that means "no class"."""
        return self.classes

    def forward(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        """Predicts the change.

        Args:
            x: States and earlier velocities, [B, 2, 28, 28], in the dtype of the weights.
            t: Times in [0, 1] of the states, [B].
            label: Classes, [B], int64, 0..K; K = unconditional.

        Returns:
            Changes of velocity, [B, 1, 28, 28].

        Raises:
            ShapeError: x is not [B, 2, 28, 28], or t or label is not [B].
        """
        if x.ndim != 4 or tuple(x.shape[1:]) != (2, 28, 28):
            raise ShapeError("x", got=list(x.shape), expected="[B, 2, 28, 28], states and velocities")
        for name, value in (("t", t), ("label", label)):
            if tuple(value.shape) != (x.shape[0],):
                raise ShapeError(name, got=list(value.shape), expected=f"[{x.shape[0]}], one value a sample")
        if not len(x):  # pixel_unshuffle returns an empty tensor unfolded (torch 2.13)
            return x[:, :1].clone()
        h = self.block(self.enter(F.pixel_unshuffle(x, FOLD)), F.silu(self.time(t) + self.label(label)))
        return F.pixel_shuffle(self.leave(F.silu(h)), FOLD)
