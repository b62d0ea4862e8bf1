"""Networks small enough to ship: the digit UNet (velocity) and the digit classifier."""

from .classifier import DigitClassifier
from .unet import DigitUNet

__all__ = ["DigitClassifier", "DigitUNet"]
