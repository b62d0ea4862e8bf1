"""Plans: straight-line sampling programs, from a solver's formulas to assigned buffers."""

from .builder import StepBuilder, denoising_step
from .chain import Link, chain
from .channelwise import Channelwise, Coefficient
from .conversion import convert
from .cost import Cost
from .cut import Start, cut, evaluation_at_start
from .expression import Expression, weighted
from .instructions import Boundary, Combine, Evaluate, Instruction, Register, Transform
from .lowering import step_weights
from .plan import Plan

__all__ = [
    "Boundary",
    "Channelwise",
    "Coefficient",
    "Combine",
    "Cost",
    "Evaluate",
    "Expression",
    "Instruction",
    "Link",
    "Plan",
    "Register",
    "Start",
    "StepBuilder",
    "Transform",
    "chain",
    "convert",
    "cut",
    "denoising_step",
    "evaluation_at_start",
    "step_weights",
    "weighted",
]
