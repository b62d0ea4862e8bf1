"""Networks small enough to ship: digit UNet and transformer (velocities), a refiner, classifiers of clean and noisy."""

from .classifier import DigitClassifier
from .dit import DigitDiT
from .noisy_classifier import NoisyClassifier
from .refiner import VelocityRefiner
from .unet import DigitUNet

__all__ = ["DigitClassifier", "DigitDiT", "DigitUNet", "NoisyClassifier", "VelocityRefiner"]
