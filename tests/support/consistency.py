"""The network that a solver wants: the oracle's velocity, or the end of its flow for consistency samplers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import linear_response
import torch

from pushforward import solvers
from pushforward.models import GaussianOracle, Interpolant, Model, prediction
from pushforward.solvers import FixedGridSolver


@dataclass(frozen=True)
class FlowEnd:
    """An oracle whose network returns the end of the flow's trajectory through (x, t), whatever it is asked."""

    oracle: GaussianOracle

    @property
    def interpolant(self) -> Interpolant:
        return self.oracle.interpolant

    @property
    def mean(self) -> torch.Tensor:
        return self.oracle.mean

    @property
    def covariance(self) -> torch.Tensor:
        return self.oracle.covariance

    def model(self) -> Model:
        return self.oracle.model()

    def velocity(self, x: torch.Tensor, t: float) -> torch.Tensor:
        return self.oracle.flow_map(x, t, 1.0)

    def network(self, kind: str) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
        del kind
        return lambda x, times: self.velocity(x, float(times[0]))


def statistics(solver: FixedGridSolver, grid: Sequence[float], oracle: GaussianOracle) -> tuple[float, float]:
    """Mean and variance of the solver's result, exactly; see :mod:`linear_response`."""
    read = prediction("denoised", oracle.interpolant) if solver.consistency else oracle.model().prediction
    plan = solvers.plan(solver, grid, oracle.interpolant, prediction=read).lower(read)
    return linear_response.response(plan, FlowEnd(oracle) if solver.consistency else oracle)
