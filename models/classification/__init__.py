"""Classification with a conditional generative model: which condition lets it remove noise best."""

from .classify import Classification as Classification
from .classify import classify as classify
from .errors import denoising_errors as denoising_errors
from .grid import nested_times as nested_times
from .stages import PAPER_STAGES as PAPER_STAGES
from .stages import Stages as Stages
