"""Any network, any solver: one distribution behind two dialects gives the same samples.

A mixture of three Gaussians stands for the data, and its exact velocity and noise prediction for two trained networks
of different families, on different paths. Prints how far apart their samples are, and how each solver does.
"""

from __future__ import annotations

import torch

import pushforward as pf


def main() -> None:
    oracle = pf.models.reference_mixture("vp")
    noise_model = oracle.model("noise")  # predicts the noise on the variance-preserving path
    edm_model = oracle.model("edm").on("vp")  # a preconditioned network, asked on that same path

    options = {"solver": "ddim", "grid": "log_snr", "steps": 20, "dtype": torch.float64}
    a, b = (pf.sample(model, (500, 2), **options) for model in (noise_model, edm_model))
    print(f"noise prediction against EDM: largest difference {(a - b).abs().max():.1e}")

    start = torch.randn(500, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    velocity = pf.models.reference_mixture("linear").model()
    exact = pf.sample(velocity, start, solver="rk4", steps=200)
    for solver, steps in (("euler", 20), ("heun", 10), ("ab2", 20), ("pseudo_corrector", 19)):
        plan = pf.make_plan(velocity, solver=solver, steps=steps)
        error = (pf.sample(velocity, start, solver=solver, steps=steps) - exact).square().mean().sqrt()
        print(f"{solver:17} {plan.nfe} network calls, error {error:.4f}, {plan.cost().passes} passes over memory")


if __name__ == "__main__":
    main()
