"""A solver of your own in ten lines, with everything the library's solvers have.

Two-stage methods of order 2 form a family with one parameter; this registers all of it, prints the program that a
member becomes for a guided noise-prediction network, and measures its order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

import pushforward as pf
from pushforward.solvers import FixedGridSolver, StepBuilder, register


@register("two_stage")
@dataclass(frozen=True)
class TwoStage(FixedGridSolver):
    """Midpoint at ``node`` 1/2, Ralston at 2/3, Heun at 1."""

    node: float = 0.75
    order, source = 2, "Butcher 2016, Numerical Methods for Ordinary Differential Equations, section 232"

    def step(self, s: StepBuilder) -> None:
        """One stage at the start, one at the node."""
        v0 = s.velocity(s.x, s.t)
        v1 = s.velocity(s.x + self.node * s.h * v0, s.time(self.node))
        weight = 1 / (2 * self.node)
        s.advance(s.x + s.h * ((1 - weight) * v0 + weight * v1))


def main() -> None:
    noise_network = pf.models.adapt(torch.nn.Identity(), "noise", "cosine", null={})
    print(pf.make_plan(noise_network, solver="two_stage", grid=[0.2, 0.4, 0.6], guidance=3.0))

    oracle = pf.models.GaussianOracle([0.7, -0.4], [[0.09, 0.03], [0.03, 0.2]], "trigonometric")
    start = oracle.sample(64, seed=1, t=0.1)
    exact = oracle.flow_map(start, 0.1, 0.8)
    errors = []
    for steps in (32, 64):
        grid = [0.1 + 0.7 * i / steps for i in range(steps + 1)]
        errors.append((pf.sample(oracle.model(), start, solver="two_stage", grid=grid) - exact).abs().max().item())
    print(f"order measured: {math.log2(errors[0] / errors[1]):.2f}")


if __name__ == "__main__":
    main()
