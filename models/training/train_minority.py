"""Trains the classifier of rarity that minority guidance needs: `python -m pushforward.models.training.train_minority`.

Scores 4500 digits with the bundled base model (22,500 evaluations), sorts those of each class into levels of equal
size, and trains a classifier of the level of noisy digits: a few minutes on one core.
"""

import argparse
import json
import platform
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from ..minority import minority_edges, minority_labels, minority_score
from ..pretrained import load
from .digits import Digits, load_digits28
from .train_digits import Recipe, Trainer

NAME = "digits28-minority"
LEVELS = 10
SCORE = {"model": "digits28-base", "t": 0.25, "draws": 5, "seed": 0, "levels": "of equal size within each class"}
# 4500 digits are soon learned by heart at little noise, and a classifier that is sure of everything guides badly: it
# stops after 17 epochs, where the cross-entropy of held-out digits is least.
RECIPE = Recipe(
    "NoisyClassifier",
    {"levels": LEVELS, "classes": 10, "width": 16, "embedding": 64},
    600,
    128,
    2e-3,
    5,
    warmup=50,
    betas=(0.9, 0.999),
    weight_decay=0.05,
    ema=0.99,
    smoothing=0.05,
    threads=1,
)


def digit_scores(data: Digits, first: int) -> Tensor:
    """Minority scores of digits given their class, float64 [N]; their ids begin at ``first``."""
    ids, condition = first + torch.arange(len(data)), {"label": data.labels}
    options = {"draws": SCORE["draws"], "seed": SCORE["seed"], "condition": condition, "samples": ids}
    return minority_score(load(SCORE["model"]), data.images, SCORE["t"], **options)


def class_levels(scores: Tensor, labels: Tensor, edges: list[Tensor]) -> Tensor:
    """Levels within each class, int64 [N]."""
    levels = torch.empty(len(labels), dtype=torch.int64)
    for c, of_class in enumerate(edges):
        levels[labels == c] = minority_labels(scores[labels == c], of_class)
    return levels


def level_loss(net: nn.Module, x1: Tensor, labels: Tensor, recipe: Recipe, generator: torch.Generator) -> Tensor:
    """Cross-entropy of the level at x_t = t x_1 + (1 - t) x_0, t uniform; ``labels`` [N, 2] are classes and levels."""
    t = torch.rand(len(x1), generator=generator)
    x = torch.lerp(torch.randn(x1.shape, generator=generator), x1, t[:, None, None, None])
    return F.cross_entropy(net(x, t, labels[:, 0]), labels[:, 1], label_smoothing=recipe.smoothing)


@torch.no_grad()
def held_out_metrics(net: nn.Module, data: Digits, levels: Tensor) -> dict[str, dict[str, float]]:
    """Cross-entropy in nats, and correlation of the expected level with the level, at some times."""
    found: dict[str, dict[str, float]] = {"cross_entropy": {}, "correlation": {}}
    places = torch.arange(LEVELS).double()
    for t in (0.1, 0.25, 0.5, 0.75, 1.0):
        noise = torch.randn(data.images.shape, generator=torch.Generator().manual_seed(0))
        logits = net(torch.lerp(noise, data.images, t), torch.full((len(data),), t), data.labels).double()
        expected = logits.softmax(1) @ places
        pair = torch.stack([expected, levels.double()])
        found["cross_entropy"][str(t)] = round(F.cross_entropy(logits, levels).item(), 3)
        found["correlation"][str(t)] = round(torch.corrcoef(pair)[0, 1].item(), 3)
    return found


def main() -> None:
    """Writes `digits28-minority.safetensors` (averaged weights, float32) and `digits28-minority.json` (run record)."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--steps", type=int, help="shorten the run, for a trial only: the schedule shrinks with it")
    options = parser.parse_args()
    recipe = replace(RECIPE, steps=options.steps or RECIPE.steps)
    folder = options.out / NAME
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(recipe.threads)
    train, held_out, digest = load_digits28()
    scores = digit_scores(train, 0)
    edges = [minority_edges(scores[train.labels == c], LEVELS) for c in range(10)]
    targets = torch.stack([train.labels, class_levels(scores, train.labels, edges)], dim=1)
    trainer = Trainer(recipe, Digits(train.images, targets), folder, level_loss)
    trainer.train()
    save_file(trainer.average, folder / f"{NAME}.safetensors")
    trainer.net.load_state_dict(trainer.average)
    levels = class_levels(digit_scores(held_out, len(train)), held_out.labels, edges)
    record = {
        "name": NAME,
        "recipe": asdict(recipe),
        "data_sha256": digest,
        "images_per_second": None,
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
        "facts": {"score": SCORE},
        "metrics": held_out_metrics(trainer.net.eval(), held_out, levels),
    }
    (folder / f"{NAME}.json").write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(record, indent=2), file=sys.stderr)


if __name__ == "__main__":
    main()
