"""FlowTurbo on the bundled digits: Heun steps, pseudo-corrector steps, refined steps (Zhao et al. 2024).

Draws the same digits by Heun's method and by FlowTurbo's schedule of as many steps, and prints wall time, Frechet
distance in the features of a classifier that has met neither, and what the paper reports. `--quick` draws 20 digits and
leaves the distance out.
"""

from __future__ import annotations

import argparse
import time

import torch

import pushforward as pf
from pushforward.models import RefinedModel, bundled
from pushforward.models.training import metrics
from pushforward.solvers.ode import FlowTurbo

BATCH, STEPS = 100, 9


def main() -> None:
    """Both methods, and a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    model = RefinedModel.around(pf.models.load("digits28-base"), refiner=pf.models.load("digits28-refiner"))
    labels = torch.arange(10).repeat(2 if quick else 100)
    judge = bundled.load("digits28-classifier-b")
    features = None if quick else real_features(judge, len(labels))

    turbo = FlowTurbo(heun=2, pseudo=4, refine=3)
    print(pf.make_plan(model, solver=turbo, steps=STEPS), "\n")
    seconds, samples = {}, {}
    for solver in (pf.solver("heun"), turbo):
        pf.sample(model, (1, 1, 28, 28), solver=solver, steps=STEPS, condition={"label": labels[:1]})  # warm up
        parts, began = [], time.perf_counter()
        for ids in torch.arange(len(labels)).split(BATCH):
            run = {"steps": STEPS, "seed": 2024, "samples": ids, "condition": {"label": labels[ids]}}
            parts.append(pf.sample(model, (len(ids), 1, 28, 28), solver=solver, **run).clamp(-1, 1))
        seconds[solver], samples[solver] = time.perf_counter() - began, torch.cat(parts)
        rows = pf.make_plan(model, solver=solver, steps=STEPS).cost().branch_rows
        right = metrics.class_agreement(judge(samples[solver]), labels).value
        line = f"{solver!s:42} {rows} {seconds[solver]:6.2f} s, {right:.3f} recognised"
        if features is not None:
            line += f", Frechet {metrics.frechet_distance(judge.features(samples[solver]), features):.3f}"
        print(line)
    heun, fast = seconds
    saved = 1 - seconds[fast] / seconds[heun]
    apart = (samples[fast] - samples[heun]).square().mean().sqrt()
    print(f"\nsaved: {saved:.0%} of the time, samples {apart:.3f} apart (root mean square)")
    print("paper: 53.1 to 58.3 % less time, class-conditional SiT-XL/2 on ImageNet 256")


def real_features(judge: torch.nn.Module, count: int) -> torch.Tensor:
    """Of as many training digits."""
    from pushforward.models.training.digits import load_digits28

    data, _, _ = load_digits28()
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))
    return judge.features(data.images[order[:count]])


if __name__ == "__main__":
    main()
