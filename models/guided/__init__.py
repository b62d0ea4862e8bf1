"""Guidance that is not linear in a network's outputs: rules of inner products, gradients, transforms of estimates."""

from .cfg_zero import CFGZero as CFGZero
from .class_likelihood import ClassLogLikelihood as ClassLogLikelihood
from .experts import NoiseExperts as NoiseExperts
from .gradient import GradientGuidance as GradientGuidance
from .guided import GuidedModel as GuidedModel
from .guided import guided as guided
from .magnitude import MagnitudeAware as MagnitudeAware
from .plain import Plain as Plain
from .projected import APG as APG
from .projections import KnownPixels as KnownPixels
from .projections import Projection as Projection
from .rescale import Rescale as Rescale
from .residual import ResidualGuidance as ResidualGuidance
from .residual import residual as residual
from .rule import GramRule as GramRule
from .steering import SteeredModel as SteeredModel
from .steering import SteeringLoss as SteeringLoss
from .steering import steered as steered
from .tangential import Tangential as Tangential
from .threshold import DynamicThreshold as DynamicThreshold
