"""How good are the bundled model's digits at ten network evaluations, solver by solver?

1,000 class-conditional samples for each solver and guidance weight. Agreement is the share that classifier B, which no
training has seen, assigns to the class asked for. The Frechet distance is between its features on samples and on as
many training digits; two halves of the real digits stand below as the attainable value. Error is the root mean square
distance to the same samples at 25 steps of RK4 (100 evaluations). A guided evaluation is two forward passes.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

import pushforward as pf
from pushforward.models import bundled
from pushforward.models.training import metrics
from pushforward.models.training.digits import load_digits28

RUNS = [
    ("euler", 10, {}),
    ("heun", 5, {}),
    ("midpoint", 5, {}),
    ("ab2", 10, {}),
    ("pseudo_corrector", 10, {"terminal": "cached"}),
    ("euler_maruyama", 10, {}),
    ("euler_maruyama", 10, {"diffusion": 0.1}),
]


def draw(labels: torch.Tensor, solver: pf.solvers.FixedGridSolver, steps: int, guidance: float) -> torch.Tensor:
    """Samples in batches of 250, the same for each seed whatever the batch."""
    model = pf.models.load("digits28-base")
    return torch.cat([
        pf.sample(model, (len(ids), 1, 28, 28), solver=solver, steps=steps, guidance=guidance, seed=2024, samples=ids,
                  condition={"label": labels[ids]}).clamp(-1, 1)
        for ids in torch.arange(len(labels)).split(250)
    ])  # fmt: skip


def measure(count: int, weights: list[float]) -> list[dict]:
    """One row for each run and guidance weight, and one for the real digits."""
    labels = torch.arange(10).repeat(count // 10)
    judge = bundled.load("digits28-classifier-b")
    train, held_out, _ = load_digits28()
    real = train.images[torch.randperm(len(train.images), generator=torch.Generator().manual_seed(0))]
    features = judge.features(real[:count])
    rows = []
    for weight in weights:
        exact = draw(labels, pf.solver("rk4"), 25, weight)
        for name, steps, options in RUNS:
            solver = pf.solver(name, **options)
            samples = draw(labels, solver, steps, weight)
            model = pf.models.load("digits28-base")
            nfe = pf.make_plan(model, solver=solver, steps=steps, guidance=weight).nfe
            rows.append({
                "case": f"{solver} {steps} steps, guidance {weight:g}", "nfe": nfe, "guidance": weight,
                "agreement": metrics.class_agreement(judge(samples), labels).value,
                "frechet": metrics.frechet_distance(judge.features(samples), features),
                "energy": metrics.energy_distance(samples.flatten(1), held_out.images.flatten(1)),
                "error": (samples - exact).square().mean().sqrt().item() if not solver.stochastic else None,
            })  # fmt: skip
            print(rows[-1], flush=True)
    rows.append({
        "case": "real digits, half against half", "nfe": 0, "guidance": None,
        "agreement": metrics.class_agreement(judge(held_out.images), held_out.labels).value,
        "frechet": metrics.frechet_distance(judge.features(real[count : 2 * count]), features),
        "energy": metrics.energy_distance(real[:count].flatten(1), held_out.images.flatten(1)), "error": None,
    })  # fmt: skip
    return rows


def main() -> None:
    """Print the table, and write it as JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--quick", action="store_true", help="unguided only, 700 samples")
    options = parser.parse_args()
    torch.set_num_threads(2)
    with torch.no_grad():
        rows = measure(700 if options.quick else 1000, [1.0] if options.quick else [1.0, 2.0])
    table = Table("case", "NFE", "agreement", "Frechet", "energy", "error")
    for row in rows:
        error = "" if row["error"] is None else f"{row['error']:.4f}"
        table.add_row(row["case"], str(row["nfe"]), f"{row['agreement']:.3f}", f"{row['frechet']:.2f}",
                      f"{row['energy']:.3f}", error)  # fmt: skip
    Console(width=120).print(table)
    if options.json:
        options.json.write_text(
            json.dumps({"rows": rows, "machine": {"threads": 2, "torch": torch.__version__}}, indent=1)
        )


if __name__ == "__main__":
    main()
