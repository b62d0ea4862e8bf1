"""The bundled digit classifier: a verifier for search and a feature map for metrics."""

import torch
from torch import Tensor, nn

from ...errors import DtypeError, ShapeError


class DigitClassifier(nn.Module):
    """Convolutional classifier of 28 x 28 digits in [-1, 1], about 90 thousand parameters.

    Three 3x3 convolutions of stride 2 (1 -> 16 -> 32 -> 64 channels), each with group norm and SiLU, then 1024 -> 64
    -> 10. Two of them ship, trained from different seeds: A as a reward, B to judge what was optimised for A.

    Args:
        classes: Number of classes.

    Example:
        >>> DigitClassifier()(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 10])
    """

    def __init__(self, classes: int = 10) -> None:
        """Builds the layers with torch's default initialisation."""
        super().__init__()
        self.classes = classes
        layers: list[nn.Module] = []
        for channels_in, channels_out in ((1, 16), (16, 32), (32, 64)):
            conv = nn.Conv2d(channels_in, channels_out, 3, stride=2, padding=1)
            layers += [conv, nn.GroupNorm(8, channels_out), nn.SiLU()]
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * 4 * 4, 64), nn.SiLU())
        self.head = nn.Linear(64, classes)

    def features(self, x: Tensor) -> Tensor:
        """Maps images [B, 1, 28, 28] to the penultimate activations [B, 64], in the dtype of the weights.

        Raises:
            ShapeError: x is not [B, 1, 28, 28].
            DtypeError: x differs from the weights in dtype.
        """
        if x.ndim != 4 or tuple(x.shape[1:]) != (1, 28, 28):
            got = f"{str(x.dtype).removeprefix('torch.')} {list(x.shape)}"
            hint = "Try x[:, None]." if x.ndim == 3 and tuple(x.shape[-2:]) == (28, 28) else "Images lie in [-1, 1]."
            raise ShapeError("x", got=got, expected="[B, 1, 28, 28]", hint=hint)
        if x.dtype != self.head.weight.dtype and not torch.is_autocast_enabled(x.device.type):
            raise DtypeError("x", got=str(x.dtype), expected=f"{self.head.weight.dtype}, the dtype of the weights")
        return self.body(x)

    def forward(self, x: Tensor) -> Tensor:
        """Maps images [B, 1, 28, 28] to logits [B, classes]; errors as `features`."""
        return self.head(self.features(x))
