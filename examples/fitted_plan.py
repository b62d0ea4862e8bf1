"""A solver made for the bundled digit model and six evaluations: `pushforward.fit`, its report, its file, its samples.

Fits a plan to `digits28-small`, saves it as JSON, loads it again, and draws the same digits with it, with its base
solver and with an accurate one; prints the errors of both, for samples that the fit has not seen, and their time.
Some tens of seconds; `--quick` fits four evaluations to few starts.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

import pushforward as pf

SHAPE, GUIDANCE, BASE = (1, 28, 28), 2.0, "unipc"


def main() -> None:
    """Fit, save, load, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("fitted_plan.json"))
    options = parser.parse_args()
    steps, pairs, fit = (4, 32, {"rounds": 0, "polish": 0, "reference_steps": 8}) if options.quick else (6, 256, {})
    model = pf.models.load("digits28-small")

    began = time.perf_counter()
    labels = {"label": torch.arange(pairs) % 10}
    fitted = pf.fit(model, steps, SHAPE, base=BASE, guidance=GUIDANCE, condition=labels, pairs=pairs, seed=1, **fit)
    print(f"fitted in {time.perf_counter() - began:.1f} s\n{fitted.report}\n")

    fitted.save(options.out)
    fitted = pf.FittedPlan.load(options.out, model)  # warns, were it another model's
    print(f"{options.out}: {options.out.stat().st_size} bytes\n")
    print(pf.make_plan(model, solver=fitted, guidance=GUIDANCE), "\n")

    digits = torch.arange(10 if options.quick else 100) % 10
    run = {"guidance": GUIDANCE, "condition": {"label": digits}, "seed": 2024}
    exact = pf.sample(model, (len(digits), *SHAPE), solver="rk4", steps=10 if options.quick else 50, **run)
    for name, solver in (("fitted", fitted), (BASE, pf.solver(BASE))):
        began = time.perf_counter()
        x = pf.sample(model, (len(digits), *SHAPE), solver=solver, steps=steps, **run)
        seconds, each = time.perf_counter() - began, (x - exact).flatten(1).square().mean(1).sqrt()
        error = each.square().mean().sqrt()
        print(f"{name:8} {steps} evaluations, {seconds:.2f} s: error {error:.4f}, median digit {each.median():.4f}")


if __name__ == "__main__":
    main()
