"""Networks small enough to ship: velocities of digits and of their latents, a refiner, classifiers, an autoencoder."""

from .autoencoder import DigitAutoencoder
from .classifier import DigitClassifier
from .dit import DigitDiT
from .latent_unet import LatentUNet
from .noisy_classifier import NoisyClassifier
from .refiner import VelocityRefiner
from .unet import DigitUNet

__all__ = [
    "DigitAutoencoder",
    "DigitClassifier",
    "DigitDiT",
    "DigitUNet",
    "LatentUNet",
    "NoisyClassifier",
    "VelocityRefiner",
]
