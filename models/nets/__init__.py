"""Networks small enough to ship: the digit UNet and transformer (velocities), classifiers of clean and noisy digits."""

from .classifier import DigitClassifier
from .dit import DigitDiT
from .noisy_classifier import NoisyClassifier
from .unet import DigitUNet

__all__ = ["DigitClassifier", "DigitDiT", "DigitUNet", "NoisyClassifier"]
