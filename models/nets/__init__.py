"""Networks small enough to ship: the digit UNet (velocity) and classifiers of clean and of noisy digits."""

from .classifier import DigitClassifier
from .noisy_classifier import NoisyClassifier
from .unet import DigitUNet

__all__ = ["DigitClassifier", "DigitUNet", "NoisyClassifier"]
