"""What the sampling benchmarks solve: problems with exact answers, and one denoiser in whatever coordinates a peer has.

A run starts at a noise ratio nu = sigma / alpha from nu z (in coordinates where alpha is 1), and is measured against
the exact flow from that very start: it is the solver that is judged, not where it begins.
"""

from __future__ import annotations

import math
from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor

import pushforward as pf
from pushforward import models, solvers

DIGITS = "digits28-base"


class Problem:
    """Samples to draw, on one path.

    Attributes:
        name: For the tables.
        path: The interpolant on which ours and the peers' schedulers run.
        shape: Of the batch.
        calls: How often the network has been called by peers; set it to 0 to count.
    """

    def __init__(self, name: str, path: models.Interpolant, shape: tuple[int, ...]) -> None:
        self.name, self.path, self.shape, self.calls = name, path, shape, 0
        self._exact: dict[float, Tensor] = {}

    @cached_property
    def noise(self) -> Tensor:
        """z, float64; keyed by sample, so that more samples begin with the same."""
        kernels = pf.kernels
        draw = kernels.Draw(kernels.PURPOSE_INITIAL, 0)
        return kernels.normal(self.shape, seed=20, draw=draw, dtype=torch.float64)

    def model(self, dtype: torch.dtype) -> models.Model:
        """The model on ``path``."""
        raise NotImplementedError

    def linear(self, dtype: torch.dtype) -> models.BoundModel:
        """The same denoiser as a velocity on the linear path, its conditions bound."""
        raise NotImplementedError

    def bound(self, dtype: torch.dtype) -> models.BoundModel:
        """The model with its conditions."""
        return self.model(dtype).bind(self.condition)

    condition: dict[str, Any] | None = None
    wide = torch.float64  # of the exact solution
    reference = ("rk4", 1000)

    def exact(self, nu: float) -> Tensor:
        """The flow from ``nu z`` to data, float64: by the linear path, since the map does not depend on the path.

        Where networks of the problem's path are not trained down to no noise, the last step is the clean estimate at
        their smallest level: that is all there is to be exact about.
        """
        key = float(f"{nu:.9g}")
        if key not in self._exact:
            first = 1 / (1 + nu)
            name, steps = self.reference
            smallest = self.path.noise_range[0]
            last = 1 / (1 + smallest)
            grid = [first + (last - first) * i / steps for i in range(steps)] + [last, 1.0][smallest == 0 :]
            plan = solvers.plan(solvers.solver(name), grid, last_step="denoise" if smallest else "auto")
            plan = plan.lower(models.prediction("velocity", "linear")).optimise()
            start = ((1 - first) * self.noise).to(self.wide)
            self._exact[key] = solvers.Executor(plan, start).run(self.linear(self.wide).evaluate).double()
        return self._exact[key]

    def errors(self, x: Tensor, nu: float) -> tuple[float, float]:
        """Distance to the exact answers of that start: root mean square of all samples, and the median sample's."""
        squares = (x.double() - self.exact(nu)).square().flatten(1).mean(1)
        return squares.mean().sqrt().item(), squares.median().sqrt().item()

    # --- for peers -----------------------------------------------------------------------------------------------

    def velocity(self, x: Tensor, t: float) -> Tensor:
        """On the linear path, in the dtype of x."""
        self.calls += 1
        return self.linear(x.dtype).evaluate(x, min(max(t, 0.0), 1.0))[0]

    def estimates(self, x: Tensor, alpha: float, sigma: float) -> tuple[Tensor, Tensor]:
        """``(D, n)`` of a state with these scales, in the dtype of x: x / (alpha + sigma) lies on the linear path."""
        t = alpha / (alpha + sigma)
        wide = torch.float64 if x.dtype == torch.float64 else torch.float32
        state = x.to(wide) / (alpha + sigma)
        v = self.velocity(state.to(x.dtype), t).to(wide)
        return (state + (1 - t) * v).to(x.dtype), (state - t * v).to(x.dtype)


class Mixture(Problem):
    """The reference mixture, whose denoiser is exact."""

    dimension = 2

    def __init__(self, path: models.Interpolant, count: int) -> None:
        kind = "flow" if isinstance(path, models.Linear) else "diffusion"
        super().__init__(f"mixture, {kind}", path, (count, self.dimension))
        self.kind = "velocity" if kind == "flow" else "noise"

    def oracle(self, path: models.Interpolant) -> models.MixtureOracle:
        """The mixture on a path."""
        return models.reference_mixture(path)

    @cache  # noqa: B019  # a problem lives as long as the script
    def model(self, dtype: torch.dtype) -> models.Model:
        """A velocity on the linear path, a noise prediction elsewhere."""
        return self.oracle(self.path).model(self.kind)

    @cache  # noqa: B019
    def linear(self, dtype: torch.dtype) -> models.BoundModel:
        """The velocity."""
        return self.oracle(models.Linear()).model().bind()


class Digits(Problem):
    """The bundled digit model, class-conditional, unguided."""

    wide = torch.float32
    reference = ("ab2", 1000)

    def __init__(self, count: int) -> None:
        super().__init__("digits", models.Linear(), (count, 1, 28, 28))
        self.condition = {"label": torch.arange(count) % 10}

    @cache  # noqa: B019
    def model(self, dtype: torch.dtype) -> models.Model:
        """The network in this dtype."""
        return models.load(DIGITS, dtype=dtype)

    @cache  # noqa: B019
    def linear(self, dtype: torch.dtype) -> models.BoundModel:
        """The same with its labels."""
        return self.bound(dtype)


def level(alpha: float, sigma: float) -> float:
    """``sigma / alpha``, infinite at pure noise."""
    return sigma / alpha if alpha else math.inf
