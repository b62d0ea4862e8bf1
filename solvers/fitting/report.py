"""How good a fitted plan is, on starts that nothing was fitted to or chosen by."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import PushforwardError
from ...models import BranchWeights, Guidance, Model
from ...models.guidance import as_guidance
from ..grids import GRIDS, grid
from ..ode.fitted import FittedMultistep
from ..pilot import Times
from ..solver import FixedGridSolver, solver
from .measured import Measured, measure, squared_errors
from .starts import Starts

STANDARD = ("ab2", "ab3_ramp", "unipc", "unipc3", "dpmpp_2m", "plms")
STANDARD_GRIDS = ("uniform", "beta", "cosine", "log_snr")
MOST_CONDITIONS = 64  # values of a condition that are told apart


@dataclass(frozen=True)
class FitReport:
    """Errors of a fitted plan on held-out starts, beside those of its base and of the standard solvers.

    Errors are distances to the exact samples, root mean square over all elements.

    Attributes:
        nfe: Network evaluations per sample.
        fitted, base, standard: Of the plan, of the base solver on the base grid, and of the best of the registered
            solvers with one evaluation a step on four grids.
        base_by_nfe: (evaluations, error) of the base solver with more steps.
        by_condition: (value of the condition, error of the plan, of the base), where the condition is an integer a row.
        by_guidance: (guidance, error of the plan, of the base).
        reference_error: A bound of the error of what is called exact.
        held_out: Starts that were measured.
        evaluations: Calls of the network on all starts, for the whole fit.
        method, memory, power, seed, pairs: Options of the fit.
        ridges: Of each step.
    """

    nfe: int
    fitted: Measured
    base: Measured
    standard: Measured
    base_by_nfe: tuple[tuple[int, float], ...]
    by_condition: tuple[tuple[int, float, float], ...]
    by_guidance: tuple[tuple[float | str, float, float], ...]
    reference_error: float
    held_out: int
    evaluations: int
    method: str
    memory: int | None
    power: float
    seed: int
    pairs: int
    ridges: tuple[float, ...]

    @property
    def gain(self) -> float:
        """By what factor the plan's error is smaller than the base's."""
        return self.base.error / self.fitted.error if self.fitted.error else 1.0

    def __str__(self) -> str:
        rows = [
            f"{self.nfe} NFE, {self.held_out} held-out starts, exact to {self.reference_error:.1g}:",
            f"  {'fitted':28s} {self.fitted}",
            *(f"  {kind + ' ' + found.name:28s} {found}" for kind, found in
              (("base", self.base), ("best standard", self.standard))),
            "  base with more evaluations: " + ", ".join(f"{nfe}: {error:.4g}" for nfe, error in self.base_by_nfe),
        ]  # fmt: skip
        for title, some in (("condition", self.by_condition), ("guidance", self.by_guidance)):
            if len(some) > 1:
                rows.append(f"  by {title} (base): " + ", ".join(f"{v}: {e:.3g} ({b:.3g})" for v, e, b in some))
        return "\n".join(rows)

    def to_config(self) -> dict[str, Any]:
        """Ready for JSON; :meth:`from_config` is the inverse."""
        return dataclasses.asdict(self)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> FitReport:
        """Inverse of :meth:`to_config`, also after a trip through JSON."""
        values: dict[str, Any] = dict(config)
        for name in ("fitted", "base", "standard"):
            values[name] = Measured(**values[name])
        for name in ("base_by_nfe", "by_condition", "by_guidance"):
            values[name] = tuple(tuple(row) for row in values[name])
        values["ridges"] = tuple(values["ridges"])
        return cls(**values)


@dataclass(frozen=True)
class Reporter:
    """What a fit is measured with.

    Attributes:
        model, solver, times: The model, the base and its grid.
        held_out: One set of starts for each guidance.
        exact_to: Error of the exact samples.
    """

    model: Model
    solver: FixedGridSolver
    times: Times
    held_out: Sequence[Starts]
    exact_to: float

    def report(self, fitted: FittedMultistep | None, evaluations: Callable[[], int], **options: Any) -> FitReport:
        """Errors of the formula, of the base and of the standard solvers; ``options`` are the report's own fields."""
        base = self.squares(self.solver, self.times)
        found = base if fitted is None else self.squares(fitted, fitted.times)
        steps, measured = len(self.times) - 1, Measured.of(str(self.solver), base)
        return FitReport(
            nfe=steps,
            fitted=Measured.of("fitted", found),
            base=measured,
            standard=best_standard(self.model, self.held_out, steps, self.times[0]),
            base_by_nfe=tuple(self.base_errors(steps, measured)),
            by_condition=by_condition([some.condition[0] for some in self.held_out], found, base),
            by_guidance=self.by_guidance(found, base),
            reference_error=self.exact_to,
            held_out=len(base),
            evaluations=evaluations(),
            **options,
        )

    def squares(self, solver: FixedGridSolver, times: Times) -> Tensor:
        """Squared errors of a solver that has to run."""
        found = squared_errors(solver, times, self.held_out)
        assert found is not None
        return found

    def base_errors(self, steps: int, base: Measured) -> Iterator[tuple[int, float]]:
        """Of the base, and with up to twice as many evaluations, on its grid with the same shape."""
        yield steps, base.error
        for nfe in dict.fromkeys((math.ceil(1.5 * steps), 2 * steps)):
            places = np.linspace(0, steps, nfe + 1)
            times = np.interp(places, range(steps + 1), self.times).tolist()
            found = measure("base", self.solver, tuple(times), self.held_out)
            if found is not None:
                yield nfe, found.error

    def by_guidance(self, found: Tensor, base: Tensor) -> tuple[tuple[float | str, float, float], ...]:
        """Errors for each guidance."""
        sizes, rows = [len(some.noise) for some in self.held_out], []
        for some, *squares in zip(self.held_out, found.split(sizes), base.split(sizes), strict=True):
            rows.append((scale_of(some.guidance), *(s.mean().sqrt().item() for s in squares)))
        return tuple(rows)


def scale_of(guidance: BranchWeights | float | None) -> float | str:
    """A guidance as a fitted plan keeps it: a number, or in words."""
    if guidance is None:
        return 1.0
    if isinstance(guidance, Guidance) and isinstance(guidance.weight, int | float):
        guidance = float(guidance.weight) if guidance == as_guidance(guidance.weight) else guidance
    return float(guidance) if isinstance(guidance, int | float) else str(guidance)


def best_standard(model: Model, groups: Sequence[Starts], steps: int, first: float) -> Measured:
    """The registered solver and grid with the least error, of those with one evaluation a step.

    Grids begin where the fitted plan does, so that all have the same samples to find.
    """
    found = standard_squares(model, groups, steps, first)
    return min((Measured.of(name, squares) for name, squares in found), key=lambda m: m.error)


def standard_squares(model: Model, groups: Sequence[Starts], steps: int, first: float) -> Iterator[tuple[str, Tensor]]:
    """What each standard solver is called, and its squared errors [B]; of those that can run."""
    for method, name, times in candidates(model, steps, first):
        squares = squared_errors(method, times, groups)
        if squares is not None:
            yield f"{method} on {name}", squares


def candidates(model: Model, steps: int, first: float) -> Iterator[tuple[FixedGridSolver, str, Times]]:
    """Standard solvers on standard grids, as far as the path has them."""
    for name in STANDARD_GRIDS:
        assert name in GRIDS
        try:
            times = grid(name, steps, model.interpolant)
        except PushforwardError:
            continue
        for method in STANDARD:
            yield solver(method), name, (first, *times[1:])


def by_condition(
    conditions: Sequence[Mapping[str, Any] | None], fitted: Tensor, base: Tensor
) -> tuple[tuple[int, float, float], ...]:
    """Errors for each value of the first integer condition that has a row a sample.

    Args:
        conditions: Of each group of starts.
        fitted, base: Squared errors [B] of all groups.
    """
    values = []
    for condition in conditions:
        whole = [v for v in (condition or {}).values() if is_class(v)]
        values += [whole[0].flatten().cpu()] if whole else []
    joined = torch.cat(values) if values else torch.empty(0)
    if len(joined) != len(fitted) or len(joined.unique()) > MOST_CONDITIONS:
        return ()
    rows = []
    for value in joined.unique().tolist():
        mine, others = (some[joined == value].mean().sqrt().item() for some in (fitted, base))
        rows.append((int(value), mine, others))
    return tuple(rows)


def is_class(value: object) -> bool:
    """Whether it is an integer for each of several rows."""
    return isinstance(value, Tensor) and not value.is_floating_point() and value.ndim == 1 and len(value) > 1
