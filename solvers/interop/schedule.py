"""What ``set_timesteps`` decides: a plan, and for each of its evaluations what the pipeline tells the network."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from ... import kernels
from ...models import EDM, Prediction
from ..plan import Plan
from ..solver import FixedGridSolver, LastStep
from .run import Program, compiled, tail
from .training import Unscaled


@dataclass(frozen=True, eq=False)
class Schedule:
    """A planned run.

    Attributes:
        solver, transform, last_step: What was planned.
        prediction: How the network is read on the solver's path.
        served: The same without the input's scale, which the pipeline applies.
        program: Of ``served``.
        times, scales: What the network is told, and what its input is multiplied by, at each evaluation.
        scalings: The latter as functions, where they are not 1; None where all are.
        first_scale: What multiplies a state of the first time of the grid, for a network that is told that time.
        levels: Noise levels of the evaluations, and of the end: sigma of flows, sigma / alpha of others.

    """

    solver: FixedGridSolver
    transform: str | None
    last_step: LastStep
    prediction: Prediction
    served: Prediction
    program: Program
    times: tuple[float, ...]
    scales: tuple[float, ...]
    scalings: tuple[kernels.OpenCombine | None, ...] | None
    first_scale: float
    levels: tuple[float, ...]

    def __deepcopy__(self, memo: dict[int, object]) -> Schedule:
        """Itself: nothing in it changes, so copies of a scheduler share it."""
        return self

    @property
    def plan(self) -> Plan:
        """What runs."""
        return self.program.plan

    @cached_property
    def ends_clean(self) -> bool:
        """Whether a run ends in data without noise."""
        return self.levels[-1] == 0

    def tensor(self, integral: bool, device: torch.device | str | None) -> Tensor:
        """The network's times; int64 if ``integral`` and all are whole numbers, else float32."""
        whole = integral and all(time == round(time) for time in self.times)
        return torch.tensor(self.times, dtype=torch.float64).to(torch.int64 if whole else torch.float32).to(device)

    def begun_at(self, begin: int) -> Program:
        """The program of a run that begins at this evaluation; see :func:`tail`."""
        return tail(self.program, begin, self.solver, self.served, self.transform, self.last_step)


@lru_cache(maxsize=64)
def scheduled(
    solver: FixedGridSolver,
    times: tuple[float, ...],
    trained: Prediction,
    path: str | None,
    transform: str | None,
    last_step: LastStep,
) -> Schedule:
    """The schedule of a run over ``times``, which are those of the network's own path."""
    prediction = trained
    if path == "edm":
        ratios = [trained.interpolant.noise_ratio(t) for t in times]
        smallest, largest = trained.interpolant.noise_range
        on = EDM(min(smallest, ratios[0] / 2), max(largest, ratios[0]))
        times = tuple(1.0 if t == 1.0 else on.time_at_noise_ratio(nu) for t, nu in zip(times, ratios, strict=True))
        prediction = trained.on(on)
    scaled = prediction.kind != "velocity" and any(prediction.input_scale(t) != 1 for t in times[:-1])
    served = Unscaled(prediction.interpolant, prediction.network_time, prediction) if scaled else prediction
    program = compiled(solver, times, served, transform, last_step)
    asked = [evaluation.time for evaluation in program.plan.evaluations]
    scales = [prediction.input_scale(t) if scaled else 1.0 for t in asked]
    scales[0] *= program.lead
    any_scale = scaled or program.lead != 1
    on = prediction.interpolant
    level = on.sigma if prediction.kind == "velocity" else on.noise_ratio
    return Schedule(
        solver,
        transform,
        last_step,
        prediction,
        served,
        program,
        tuple([prediction.time(t) for t in asked]),
        tuple(scales),
        tuple([None if scale == 1 else kernels.combination([scale]) for scale in scales]) if any_scale else None,
        prediction.input_scale(times[0]) if scaled else 1.0,
        tuple([level(t) for t in (*asked, times[-1])]),
    )
