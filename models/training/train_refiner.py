"""Trains the velocity refiner of a bundled digit model, on CPU.

`python -m pushforward.models.training.train_refiner --out DIR`, then `pack`.

The teacher's answers do not change while the student learns, so they are computed once, for a pool of pairs, and most
of the time goes into the student: about six minutes on one core.
"""

import argparse
import json
import platform
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ..bundled.loader import load
from ..nets import DigitUNet, VelocityRefiner
from .digits import Digits, load_digits28
from .train_digits import Recipe, batch_rows, learning_rate


@dataclass(frozen=True)
class RefinerRecipe(Recipe):
    """How a refiner is trained; stored in its card."""

    warmup: int = 100
    weight_decay: float = 0.0
    uniform_times: float = 1.0
    threads: int = 1
    teacher: str = "digits28-base"
    pairs: int = 20_000
    reach: float = 0.12


ARGUMENTS = {"width": 48, "embedding": 64, "classes": 10}
RECIPES = {"digits28-refiner": RefinerRecipe("VelocityRefiner", ARGUMENTS, 3000, 64, 2e-3, 5)}  # 9.6 epochs


class Pairs(NamedTuple):
    """Questions to a refiner and the answers of its teacher, a row each.

    Attributes:
        inputs: State and the velocity a moment earlier, [N, 2, 28, 28].
        times: Of the states, [N].
        labels: Of both evaluations, [N].
        changes: What became of the velocity, [N, 1, 28, 28].
    """

    inputs: Tensor
    times: Tensor
    labels: Tensor
    changes: Tensor


@torch.no_grad()
def pairs(teacher: DigitUNet, data: Digits, count: int, recipe: RefinerRecipe, seed: int) -> Pairs:
    r"""The training problem of FlowTurbo, without its network.

    .. math:: t \sim U(0, 1), \quad \delta \sim U(0, 0.12), \quad t' = \min(t + \delta, 1), \quad
        v_0 = v(x_t, t), \quad x' = x_t + (t' - t) v_0, \quad (x', t', v_0) \mapsto v(x', t') - v_0

    Every row has its own gap (the authors draw one a batch). Labels that are dropped are dropped for the teacher too,
    so that the student's unconditional branch learns the change of the unconditional velocity.

    Args:
        teacher: The network that is refined.
        data: Digits.
        count: How many.
        recipe: Gap and label dropout.
        seed: Of everything that is drawn.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(len(data), (count,), generator=generator)
    x1, labels = data.images[rows], data.labels[rows]
    labels = torch.where(torch.rand(count, generator=generator) < recipe.label_dropout, teacher.null, labels)
    t = torch.rand(count, generator=generator)
    later = (t + recipe.reach * torch.rand(count, generator=generator)).clamp(max=1)
    x = torch.lerp(torch.randn(x1.shape, generator=generator), x1, t[:, None, None, None])
    inputs, changes = torch.empty(count, 2, 28, 28), torch.empty_like(x)
    for part in torch.arange(count).split(100):
        first = teacher(x[part], t[part], labels[part])
        moved = x[part] + (later - t)[part, None, None, None] * first
        inputs[part] = torch.cat([moved, first], dim=1)
        changes[part] = teacher(moved, later[part], labels[part]) - first
    return Pairs(inputs, later, labels, changes)


def train(recipe: RefinerRecipe, problem: Pairs, report_every: int = 200) -> VelocityRefiner:
    """A refiner that minimises the mean squared error of the change; its averaged weights.

    AdamW with warm-up and a cosine, clipped gradients, an exponential moving average. Batches are pieces of one
    permutation an epoch.
    """
    torch.manual_seed(recipe.seed)
    net = VelocityRefiner(**recipe.arguments)
    average = {name: p.detach().clone() for name, p in net.named_parameters()}
    optimiser = torch.optim.AdamW(net.parameters(), betas=recipe.betas, weight_decay=recipe.weight_decay, fused=True)
    total = 0.0
    for step in range(recipe.steps):
        rows = batch_rows(len(problem.times), recipe.batch, recipe.seed, step)
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(recipe, step)
        optimiser.zero_grad(set_to_none=True)
        loss = F.mse_loss(net(problem.inputs[rows], problem.times[rows], problem.labels[rows]), problem.changes[rows])
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), recipe.clip)
        optimiser.step()
        decay = min(recipe.ema, (1 + step) / (10 + step))
        with torch.no_grad():
            for name, p in net.named_parameters():
                average[name].lerp_(p, 1 - decay)
        total += loss.item()
        if (step + 1) % report_every == 0:
            print(f"step {step + 1} loss {total / report_every:.5f}", flush=True)
            total = 0.0
    net.load_state_dict(average)
    return net.eval().requires_grad_(False)


@torch.no_grad()
def unexplained(net: VelocityRefiner, problem: Pairs) -> float:
    """Squared error of the refined velocities over that of the earlier ones as they are, which an untrained net has."""
    wrong = [
        (net(problem.inputs[r], problem.times[r], problem.labels[r]) - problem.changes[r]).square().sum()
        for r in torch.arange(len(problem.times)).split(250)
    ]
    return (torch.stack(wrong).sum() / problem.changes.square().sum()).item()


@torch.no_grad()
def share_of_operations(net: nn.Module, teacher: nn.Module) -> float:
    """Operations of the refiner for one row, over those of its teacher, as torch counts them.

    Attention is done as plain products for that: fused kernels, which depend on the layout, are not counted on a CPU.
    """
    counts = []
    for network, channels in ((net, 2), (teacher, 1)):
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            network(torch.zeros(1, channels, 28, 28), torch.zeros(1), torch.zeros(1, dtype=torch.int64))
        counts.append(counter.get_total_flops())
    return counts[0] / counts[1]


def main() -> None:
    """Trains one refiner and writes `NAME.safetensors` (averaged weights, float32) and `NAME.json` (run record)."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="digits28-refiner", choices=sorted(RECIPES))
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--steps", type=int, help="shorten the run, for a trial only")
    parser.add_argument("--pairs", type=int, help="a smaller pool, for a trial only")
    options = parser.parse_args()
    changes: dict[str, Any] = {key: value for key in ("steps", "pairs") if (value := getattr(options, key))}
    recipe = replace(RECIPES[options.model], **changes)
    folder = options.out / options.model
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(recipe.threads)
    data, held_out, digest = load_digits28()
    teacher = cast(DigitUNet, load(recipe.teacher))
    began = time.perf_counter()
    problem = pairs(teacher, data, recipe.pairs, recipe, recipe.seed)
    print(f"{recipe.pairs} pairs after {time.perf_counter() - began:.0f} s", flush=True)
    net = train(recipe, problem)
    seconds = time.perf_counter() - began
    save_file(dict(net.state_dict()), folder / f"{options.model}.safetensors")
    unseen = pairs(teacher, held_out, min(1000, recipe.pairs), recipe, recipe.seed + 1)
    record = {
        "name": options.model,
        "recipe": asdict(recipe),
        "data_sha256": digest,
        "images_per_second": round(recipe.steps * recipe.batch / seconds),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
        "metrics": {
            "unexplained_change": float(f"{unexplained(net, unseen):.4g}"),
            "unexplained_change_reference": "squared error over that of the earlier velocity, on unseen digits",
            "share_of_operations": float(f"{share_of_operations(net, teacher):.4g}"),
        },
    }
    (folder / f"{options.model}.json").write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(record, indent=2), file=sys.stderr)


if __name__ == "__main__":
    main()
