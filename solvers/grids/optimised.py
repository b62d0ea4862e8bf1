"""What :func:`optimise_grid` returns: times, and what they gain."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass

from ...errors import GridError
from ...models import Interpolant, interpolant_from_config


@dataclass(frozen=True)
class OptimisedGrid:
    """Times that :func:`optimise_grid` found, and what they gain; pass it as ``grid=`` where it was made for.

    Attributes:
        times: From noise to data.
        solver: The method it was made for, as printed.
        base: The grid it is compared with, and which it is if nothing was gained.
        nfe: Network evaluations of a run.
        error, base_error: Mean distance to the exact samples on held-out starts, with these times and with the base
            grid's: the root mean square, or the mean of the power that was minimised.
        pilot_error, pilot_base_error: The same on the starts of the search.
        reference_error: Of the exact samples, from a run with half as many steps: differences below it mean nothing.
        evaluations: Rows that the network saw in all, over rows of a batch: its calls for one batch of starts.
        interpolant: Of the model.

    """

    times: tuple[float, ...]
    solver: str
    base: str
    nfe: int
    error: float
    base_error: float
    pilot_error: float
    pilot_base_error: float
    reference_error: float
    evaluations: int
    interpolant: Interpolant

    @property
    def steps(self) -> int:
        """How many steps the grid has."""
        return len(self.times) - 1

    @property
    def gain(self) -> float:
        """By what factor the error on held-out starts is smaller than the base grid's; 1 if it is the base grid."""
        return self.base_error / self.error if self.error else 1.0

    def __call__(self, steps: int, interpolant: Interpolant) -> tuple[float, ...]:
        """The times.

        Raises:
            GridError: Another number of steps, or another path, than those it was made for.
        """
        if steps != self.steps:
            raise GridError("steps", got=steps, expected=f"{self.steps}, for which the grid was made (or None)")
        if interpolant != self.interpolant:
            raise GridError("grid", got=f"one for {self.interpolant}", expected=f"one for {interpolant}")
        return self.times

    def __str__(self) -> str:
        change = f"{self.gain:.2f} times less than {self.base}'s" if self.gain > 1 else f"the grid is {self.base}"
        return (
            f"grid for {self.solver}, {self.steps} steps, {self.nfe} evaluations: error {self.error:.3g} on held-out "
            f"starts ({change}; reference good to {self.reference_error:.1g}), {self.evaluations} evaluations spent\n"
            + "  ".join(f"{t:.5f}" for t in self.times)
        )

    def to_json(self) -> str:
        """Everything as JSON; :meth:`from_json` is the inverse."""
        return json.dumps(dataclasses.asdict(self) | {"interpolant": self.interpolant.to_config()})

    @classmethod
    def from_json(cls, text: str) -> OptimisedGrid:
        """Inverse of :meth:`to_json`."""
        values = json.loads(text)
        path = interpolant_from_config(values["interpolant"])
        return cls(**values | {"times": tuple(values["times"]), "interpolant": path})
