"""What :func:`pushforward.fit` returns: a solver for one model and budget, with what it was made for."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import CorruptFileError, GridError, UnknownNameError
from ...models import BranchWeights, Interpolant, Model, interpolant_from_config
from ...models.fingerprint import UNKNOWN, fingerprint
from ..ode.fitted import FittedMultistep, moved, same_levels
from ..pilot import Times
from ..plan import Channelwise, Coefficient, StepBuilder
from ..solver import FixedGridSolver, registered_options
from ..solver import solver as solver_of
from .report import FitReport, scale_of

FORMAT = "pushforward-fit/1"
Scale = float | str


class FitWarning(UserWarning):
    """A fitted plan that gained nothing, or that meets another model or guidance than it was fitted to."""


@dataclass(frozen=True)
class FittedPlan(FixedGridSolver):
    """A solver with its grid, made for one model, guidance and number of steps: pass it wherever a solver goes.

    Attributes:
        solver: The formula; the base solver where nothing was gained.
        times: Its grid.
        interpolant: The path of the times: the model's own.
        guidance: Scales that it was fitted for; more than one, for all between them. Text, of other guidance.
        fingerprint: Of the model; see :func:`pushforward.models.fingerprint`.
        report: Errors on held-out starts.

    Example:
        >>> import pushforward as pf
        >>> model = pf.models.reference_mixture().model()
        >>> fitted = pf.fit(model, 4, (2,), pairs=64, dtype=torch.float64)
        >>> pf.sample(model, (8, 2), solver=fitted, dtype=torch.float64).shape
        torch.Size([8, 2])
        >>> FittedPlan.from_json(fitted.to_json()) == fitted
        True
    """

    solver: FixedGridSolver
    times: Times
    interpolant: Interpolant
    guidance: tuple[Scale, ...]
    fingerprint: str
    report: FitReport

    @property
    def order(self) -> int:  # type: ignore[override]  # of what it holds
        """The formula's."""
        return self.solver.order

    @property
    def source(self) -> str:  # type: ignore[override]
        """The formula's."""
        return self.solver.source

    @property
    def denoises_last(self) -> bool:  # type: ignore[override]
        """The formula's."""
        return self.solver.denoises_last

    @property
    def starting_steps(self) -> int:
        """The formula's."""
        return self.solver.starting_steps

    @property
    def evaluations_per_step(self) -> int:
        """One."""
        return 1

    @property
    def steps(self) -> int:
        """Of its grid."""
        return len(self.times) - 1

    @property
    def gained(self) -> bool:
        """Whether the formula is a fitted one, and not the base solver."""
        return isinstance(self.solver, FittedMultistep)

    @property
    def noise_ratios(self) -> Times:
        """Noise ratios of its times, decreasing: what k-diffusion's functions take as ``sigmas``."""
        return tuple([self.interpolant.noise_ratio(t) for t in self.times])

    def times_on(self, interpolant: Interpolant) -> Times:
        """Its grid on a path: the times there with the same noise ratios."""
        return moved(self.times, self.interpolant, interpolant)

    def step(self, s: StepBuilder) -> None:
        """The formula's step."""
        if not self.gained and not same_levels(s.grid, s.interpolant, self.times, self.interpolant):
            raise GridError("grid", got=s.grid, expected=f"the times of {self}, {self.times_on(s.interpolant)}")
        self.solver.step(s)

    def fits(self, scale: Scale) -> bool:
        """Whether a guidance is one that it was fitted to, or between two."""
        scales = [s for s in self.guidance if not isinstance(s, str)]
        between = bool(scales) and not isinstance(scale, str) and min(scales) <= scale <= max(scales)
        return between or scale in self.guidance

    def check_use(self, model: Model, guidance: BranchWeights | float | None) -> None:
        """Warn where the plan meets another model, or a guidance that it was not fitted for."""
        found = fingerprint(model)
        if UNKNOWN not in (found, self.fingerprint) and found != self.fingerprint:
            told = f"model: got one with the fingerprint {found[:12]}, expected {self.fingerprint[:12]}"
            warnings.warn(f"{told}, which this plan was fitted to: its error is unknown", FitWarning, stacklevel=3)
        scale = scale_of(guidance)
        if self.fits(scale):
            return
        told = f"guidance: got {scale}, expected {', '.join(map(str, self.guidance))}"
        warnings.warn(f"{told}, which this plan was fitted to: its error is unknown", FitWarning, stacklevel=3)

    def __str__(self) -> str:
        inner = str(self.solver) if self.gained else f"{self.solver}, {self.steps} steps"
        return f"FittedPlan({inner})"

    # --- files -------------------------------------------------------------------------------------------------

    def to_config(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return {
            "format": FORMAT,
            "fingerprint": self.fingerprint,
            "guidance": list(self.guidance),
            "interpolant": self.interpolant.to_config(),
            "times": list(self.times),
            "solver": solver_config(self.solver),
            "report": self.report.to_config(),
        }

    def to_json(self, *, indent: int | None = None) -> str:
        """Everything as JSON; floats keep every bit."""
        return json.dumps(self.to_config(), indent=indent)

    @classmethod
    def from_config(cls, values: Mapping[str, Any]) -> FittedPlan:
        """Inverse of :meth:`to_config`, also after a trip through JSON.

        Raises:
            CorruptFileError: Values that are no fitted plan.
        """
        try:
            if values["format"] != FORMAT:
                raise CorruptFileError("fitted plan", got=values["format"], expected=FORMAT)
            times, path = tuple(values["times"]), interpolant_from_config(values["interpolant"])
            return cls(
                solver_from_config(values["solver"], times, path),
                times,
                path,
                tuple(values["guidance"]),
                values["fingerprint"],
                FitReport.from_config(values["report"]),
            )
        except (ValueError, KeyError, TypeError) as error:
            expected = "JSON that to_json wrote"
            raise CorruptFileError("fitted plan", got=f"{type(error).__name__}: {error}", expected=expected) from error

    @classmethod
    def from_json(cls, text: str, model: Model | None = None) -> FittedPlan:
        """Inverse of :meth:`to_json`.

        Args:
            text: What it returned.
            model: The model that it will be used with: warns if it was fitted to another.

        Raises:
            CorruptFileError: Text that is no fitted plan.
        """
        try:
            values = json.loads(text)
        except ValueError as error:
            raise CorruptFileError("fitted plan", got=f"{type(error).__name__}: {error}", expected="JSON") from error
        found = cls.from_config(values)
        if model is not None:
            first, *_ = found.guidance
            found.check_use(model, None if isinstance(first, str) else first)
        return found

    def save(self, path: str | Path) -> None:
        """Write :meth:`to_json` to a file."""
        Path(path).write_text(self.to_json(indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path, model: Model | None = None) -> FittedPlan:
        """Inverse of :meth:`save`; see :meth:`from_json`."""
        return cls.from_json(Path(path).read_text(encoding="utf-8"), model)


def solver_config(solver: FixedGridSolver) -> dict[str, Any]:
    """A formula, or a registered solver, ready for JSON."""
    if isinstance(solver, FittedMultistep):
        weights = [[plain(weight) for weight in row] for row in solver.weights]
        scales = [plain(a) for a in solver.scales]
        return {"weights": weights, "scales": scales, "quantity": solver.quantity, "opening": solver.opening}
    name, options = registered_options(solver)
    return {"name": name, "options": options}


def solver_from_config(config: dict[str, Any], times: Times, path: Interpolant) -> FixedGridSolver:
    """Inverse of :func:`solver_config`."""
    if "name" in config:
        try:
            return solver_of(config["name"], **config["options"])
        except UnknownNameError as error:
            raise CorruptFileError("fitted plan", got=config["name"], expected="a registered solver") from error
    weights = tuple(tuple(map(coefficient, row)) for row in config["weights"])
    scales = tuple(map(coefficient, config["scales"]))
    return FittedMultistep(times, weights, path, scales, config["quantity"], config.get("opening"))


def plain(value: Coefficient) -> float | list[float]:
    """A number, or a list of one for each channel."""
    return list(value.values) if isinstance(value, Channelwise) else value


def coefficient(value: float | list[float]) -> Coefficient:
    """Inverse of :func:`plain`."""
    return Channelwise(value) if isinstance(value, list) else float(value)
