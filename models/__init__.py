"""pushforward.models: what a network says about a path from noise to data, and networks that say it."""

if __name__ == "models":  # on sys.path by accident: look like an unrelated, empty module
    __version__ = "0"
else:
    from .adapter import Model as Model
    from .adapter import adapt as adapt
    from .binding import BoundModel as BoundModel
    from .bundled import card as card
    from .clocks import Clock as Clock
    from .clocks import FunctionClock as FunctionClock
    from .clocks import IndexClock as IndexClock
    from .clocks import LogNoiseRatioClock as LogNoiseRatioClock
    from .clocks import NoiseRatioClock as NoiseRatioClock
    from .clocks import ReverseClock as ReverseClock
    from .clocks import TimeClock as TimeClock
    from .clocks import clock as clock
    from .diffusers import from_diffusers as from_diffusers
    from .discrete import DiscreteDDPM as DiscreteDDPM
    from .fields import ModelField as ModelField
    from .guidance import Guidance as Guidance
    from .interpolants import Coefficients as Coefficients
    from .interpolants import Interpolant as Interpolant
    from .interpolants import Linear as Linear
    from .interpolants import Trigonometric as Trigonometric
    from .interpolants import interpolant as interpolant
    from .interpolants import interpolant_from_config as interpolant_from_config
    from .kinds import DenoisedPrediction as DenoisedPrediction
    from .kinds import EDMPrediction as EDMPrediction
    from .kinds import NoisePrediction as NoisePrediction
    from .kinds import ScorePrediction as ScorePrediction
    from .kinds import VelocityPrediction as VelocityPrediction
    from .kinds import VPrediction as VPrediction
    from .oracles import CouplingOracle as CouplingOracle
    from .oracles import GaussianOracle as GaussianOracle
    from .oracles import MixtureOracle as MixtureOracle
    from .oracles import Oracle as Oracle
    from .oracles import PointCharges as PointCharges
    from .oracles import reference_mixture as reference_mixture
    from .pfgm import PFGMNoise as PFGMNoise
    from .pfgm import PFGMPrediction as PFGMPrediction
    from .pfgm import pfgm as pfgm
    from .predictions import Affine as Affine
    from .predictions import OnPath as OnPath
    from .predictions import Prediction as Prediction
    from .predictions import Target as Target
    from .predictions import prediction as prediction
    from .predictions import prediction_from_config as prediction_from_config
    from .pretrained import load as load
    from .schedules import EDM as EDM
    from .schedules import VE as VE
    from .schedules import Cosine as Cosine
    from .schedules import VPLinear as VPLinear
    from .shift import shift_time as shift_time
    from .two_heads import TwoSidedModel as TwoSidedModel
    from .two_heads import TwoSidedPrediction as TwoSidedPrediction
    from .two_heads import adapt_two_sided as adapt_two_sided
    from .two_sided import TwoSided as TwoSided
