"""Plans: straight-line sampling programs, from a solver's formulas to assigned buffers."""

from .builder import StepBuilder, denoising_step
from .chain import Link, chain
from .conversion import convert
from .cost import Cost
from .expression import Expression
from .instructions import Boundary, Combine, Evaluate, Instruction, Register, Transform
from .lowering import step_weights
from .plan import Plan

__all__ = [
    "Boundary",
    "Combine",
    "Cost",
    "Evaluate",
    "Expression",
    "Instruction",
    "Link",
    "Plan",
    "Register",
    "StepBuilder",
    "Transform",
    "chain",
    "convert",
    "denoising_step",
    "step_weights",
]
