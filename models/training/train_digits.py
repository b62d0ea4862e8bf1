"""Trains the bundled digit models, from scratch and on CPU.

`python -m pushforward.models.training.train_digits --model digits28-base --out DIR`, about 20 minutes on two cores.

One process, a fixed thread count, every random number from (seed, step): a run that was interrupted and resumed draws
the same batches. Bitwise equality across CPUs is not promised; the metrics in the cards are.
"""

import argparse
import json
import math
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from ..bundled.loader import ARCHITECTURES
from ..interpolants import Linear
from ..nets import DigitDiT, DigitUNet
from .contributions import training_times
from .digits import Digits, load_digits28
from .time_samplers import TIME_SAMPLERS, LogitNormalTimes, TimeSampler
from .weightings import WEIGHTINGS, weighting


@dataclass(frozen=True)
class Recipe:
    """How one model is trained; stored in its card."""

    architecture: str
    arguments: dict[str, int]
    steps: int
    batch: int
    rate: float
    seed: int
    final_rate: float = 1e-5
    warmup: int = 200
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.01
    clip: float = 1.0
    ema: float = 0.999
    label_dropout: float = 0.1
    uniform_times: float = 0.05
    smoothing: float = 0.0
    threads: int = 2
    times: str = "logit_normal"
    weighting: str = "uniform"


# 4500 images: 70 batches of 64 an epoch for the UNets (85 and 171 epochs), 140 of 32 for the transformer (36), 35 of
# 128 for the classifiers (60).
RECIPES = {
    "digits28-base": Recipe("DigitUNet", {"width": 48, "embedding": 192, "heads": 4, "classes": 10}, 6000, 64, 1e-3, 1),
    "digits28-small": Recipe(
        "DigitUNet", {"width": 16, "embedding": 64, "heads": 4, "classes": 10}, 12000, 64, 1e-3, 2
    ),
    "digits28-dit": Recipe(
        "DigitDiT",
        {"width": 64, "depth": 4, "heads": 4, "patch": 4, "classes": 10},
        5000,
        32,
        2e-3,
        5,
        weight_decay=0.0,
        threads=1,
    ),
    "digits28-classifier-a": Recipe(
        "DigitClassifier", {"classes": 10}, 2100, 128, 2e-3, 3, warmup=100, betas=(0.9, 0.999), smoothing=0.05
    ),
    "digits28-classifier-b": Recipe(
        "DigitClassifier", {"classes": 10}, 2100, 128, 2e-3, 4, warmup=100, betas=(0.9, 0.999), smoothing=0.05
    ),
}


def build(recipe: Recipe) -> nn.Module:
    """The untrained network of a recipe, initialised from the recipe's seed."""
    torch.manual_seed(recipe.seed)
    return ARCHITECTURES[recipe.architecture](**recipe.arguments)


def learning_rate(recipe: Recipe, step: int) -> float:
    """Linear warm-up, then a cosine from `rate` to `final_rate` that ends with the last step."""
    if step < recipe.warmup:
        return recipe.rate * (step + 1) / recipe.warmup
    progress = (step - recipe.warmup) / max(1, recipe.steps - 1 - recipe.warmup)
    return recipe.final_rate + (recipe.rate - recipe.final_rate) * (1 + math.cos(math.pi * progress)) / 2


def batch_rows(size: int, batch: int, seed: int, step: int) -> Tensor:
    """Rows of batch number `step`: consecutive pieces of one permutation an epoch; a short rest is dropped."""
    epoch, piece = divmod(step, size // batch)
    order = torch.randperm(size, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))
    return order[piece * batch : (piece + 1) * batch]


def draw_times(count: int, uniform: float, generator: torch.Generator, sampler: TimeSampler | None = None) -> Tensor:
    r"""Times in (0, 1): sigmoid of a standard normal, with a share `uniform` drawn uniformly; stratified.

    .. math:: t_i = F^{-1}((\pi(i) + u_i) / B)

    Args:
        count: How many.
        uniform: The share.
        generator: Of the draws.
        sampler: Another density in place of the logit-normal one.

    Returns:
        Times, [count], float32. Source: Esser et al. 2024 (SD3), logit-normal with location 0 and scale 1.
    """
    order = torch.randperm(count, generator=generator)
    u = (order + torch.rand(count, generator=generator, dtype=torch.float64)) / count
    drawn = (sampler or LogitNormalTimes()).quantile(u.clamp(1e-9, 1 - 1e-9))
    flat = torch.rand(count, generator=generator, dtype=torch.float64) < uniform
    return torch.where(flat, torch.rand(count, generator=generator, dtype=torch.float64), drawn).float()


def flow_loss(
    net: DigitUNet | DigitDiT, x1: Tensor, label: Tensor, recipe: Recipe, generator: torch.Generator
) -> Tensor:
    """Mean squared error of the velocity x_1 - x_0 at x_t = t x_1 + (1 - t) x_0 (Lipman et al. 2023).

    A share `label_dropout` of the labels becomes the null label (Ho & Salimans 2022). Times and weights of the errors
    are those that the recipe names.
    """
    x0 = torch.randn(x1.shape, generator=generator)
    t = draw_times(len(x1), recipe.uniform_times, generator, training_times(recipe.times))
    dropped = torch.rand(len(x1), generator=generator) < recipe.label_dropout
    w = t[:, None, None, None]
    prediction = net(torch.lerp(x0, x1, w), t, torch.where(dropped, net.null, label))
    return velocity_error(prediction, x1 - x0, t, recipe.weighting)


def velocity_error(prediction: Tensor, target: Tensor, t: Tensor, name: str = "uniform") -> Tensor:
    """Mean squared error of velocities of the linear path, each sample's with the weight of its time.

    Args:
        prediction, target: [B, *D].
        t: Times, [B]; weights other than 1 are taken at 1e-4 from the ends at least, where some are infinite.
        name: Of the weighting.
    """
    if name == "uniform":
        return F.mse_loss(prediction, target)
    weights = weighting(name)(Linear(), t.clamp(1e-4, 1 - 1e-4))
    return ((prediction - target).square().flatten(1).mean(1) * weights).mean()


def augment(x: Tensor, generator: torch.Generator) -> Tensor:
    """Shifts by up to 2 pixels, turns by up to 10 degrees and scales by up to 10 %, bilinear, one draw an image."""
    b = len(x)
    u = 2 * torch.rand(4, b, generator=generator) - 1
    angle, scale = u[0] * math.radians(10), 1 + 0.1 * u[1]
    shift = u[2:] * (2 / 14)  # the grid's unit is half the image: 14 pixels
    row0 = torch.stack([angle.cos() * scale, -angle.sin() * scale, shift[0]], dim=1)
    row1 = torch.stack([angle.sin() * scale, angle.cos() * scale, shift[1]], dim=1)
    grid = F.affine_grid(torch.stack([row0, row1], dim=1), list(x.shape), align_corners=False)
    return F.grid_sample(x + 1, grid, align_corners=False) - 1  # the padding is 0, and the background is -1


def class_loss(net: nn.Module, x: Tensor, label: Tensor, recipe: Recipe, generator: torch.Generator) -> Tensor:
    """Cross-entropy of augmented images, with label smoothing."""
    return F.cross_entropy(net(augment(x, generator)), label, label_smoothing=recipe.smoothing)


LOSSES: dict[str, Callable[..., Tensor]] = {
    "DigitUNet": flow_loss,
    "DigitDiT": flow_loss,
    "DigitClassifier": class_loss,
}


class Trainer:
    """AdamW with warm-up, cosine, clipping and an exponential moving average; resumable at any checkpoint.

    The average is decay_k = min(decay, (1 + k) / (10 + k)) at step k, which forgets the initial weights.

    Args:
        recipe: What to train.
        data: The training part of the digits.
        folder: Where `state.safetensors` is kept while training.
        loss: Function of (network, images, labels, recipe, generator); by default that of the architecture.
    """

    def __init__(self, recipe: Recipe, data: Digits, folder: Path, loss: Callable[..., Tensor] | None = None) -> None:
        """Builds network and optimiser and resumes from the folder's checkpoint if there is one."""
        self.loss = LOSSES[recipe.architecture] if loss is None else loss
        self.recipe, self.data, self.state = recipe, data, folder / "state.safetensors"
        self.net = build(recipe).train()
        self.parameters = dict(self.net.named_parameters())
        self.average = {name: p.detach().clone() for name, p in self.parameters.items()}
        self.optimiser = torch.optim.AdamW(
            self.parameters.values(), betas=recipe.betas, weight_decay=recipe.weight_decay, fused=True
        )
        self.step = 0
        if self.state.exists():
            self._resume()

    def train(self, report_every: int = 100, save_every: int = 500) -> None:
        """Runs to the last step, printing the mean loss and the images a second; saves a checkpoint now and then."""
        total, since, began = 0.0, self.step, time.perf_counter()
        while self.step < self.recipe.steps:
            total += self._advance()
            if self.step % report_every == 0:
                now = time.perf_counter()
                rate = (self.step - since) * self.recipe.batch / (now - began)
                print(f"step {self.step} loss {total / (self.step - since):.4f} images/s {rate:.0f}", flush=True)
                total, since, began = 0.0, self.step, now
            if self.step % save_every == 0:
                self._save()

    def _advance(self) -> float:
        recipe, step = self.recipe, self.step
        generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + 500_009 + step)
        rows = batch_rows(len(self.data), recipe.batch, recipe.seed, step)
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(recipe, step)
        self.optimiser.zero_grad(set_to_none=True)
        loss = self.loss(self.net, self.data.images[rows], self.data.labels[rows], recipe, generator)
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters.values(), recipe.clip)
        self.optimiser.step()
        decay = min(recipe.ema, (1 + step) / (10 + step))
        with torch.no_grad():
            for average, parameter in zip(self.average.values(), self.parameters.values(), strict=True):
                average.lerp_(parameter, 1 - decay)
        self.step += 1
        return loss.item()

    def _save(self) -> None:
        tensors = {"step": torch.tensor(self.step)}
        for name, p in self.parameters.items():
            moments = self.optimiser.state[p]
            tensors |= {f"net.{name}": p.detach(), f"average.{name}": self.average[name]}
            tensors |= {f"first.{name}": moments["exp_avg"], f"second.{name}": moments["exp_avg_sq"]}
        temporary = self.state.with_suffix(".part")
        save_file({key: value.contiguous() for key, value in tensors.items()}, temporary)
        temporary.replace(self.state)  # never a half-written checkpoint under the final name

    @torch.no_grad()
    def _resume(self) -> None:
        tensors = load_file(self.state)
        self.step = int(tensors["step"])
        for name, p in self.parameters.items():
            p.copy_(tensors[f"net.{name}"])
            self.average[name].copy_(tensors[f"average.{name}"])
            self.optimiser.state[p] = {
                "step": torch.tensor(float(self.step)),
                "exp_avg": tensors[f"first.{name}"],
                "exp_avg_sq": tensors[f"second.{name}"],
            }


@torch.no_grad()
def accuracy(net: nn.Module, data: Digits) -> float:
    """Share of the images whose largest logit is their label."""
    return (net(data.images).argmax(1) == data.labels).double().mean().item()


def main() -> None:
    """Trains one model and writes `NAME.safetensors` (averaged weights, float32) and `NAME.json` (run record)."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", required=True, choices=sorted(RECIPES))
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--steps", type=int, help="shorten the run, for a trial only: the schedule shrinks with it")
    parser.add_argument("--threads", type=int, help="on a busy machine, 1 is several times faster than 2")
    parser.add_argument("--times", choices=[*TIME_SAMPLERS, "contribution"], help="density of the training times")
    parser.add_argument("--weighting", choices=list(WEIGHTINGS), help="weight of the errors")
    options = parser.parse_args()
    keys = ("steps", "threads", "times", "weighting")
    changes = {key: value for key in keys if (value := getattr(options, key))}
    recipe = replace(RECIPES[options.model], **changes)
    folder = options.out / options.model
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(recipe.threads)
    train, held_out, digest = load_digits28()
    trainer = Trainer(recipe, train, folder)
    began, first = time.perf_counter(), trainer.step
    trainer.train()
    seconds = time.perf_counter() - began
    save_file(trainer.average, folder / f"{options.model}.safetensors")
    record = {
        "name": options.model,
        "recipe": asdict(recipe),
        "data_sha256": digest,
        "images_per_second": round((recipe.steps - first) * recipe.batch / seconds) if seconds > 1 else None,
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
    }
    if recipe.architecture == "DigitClassifier":
        trainer.net.load_state_dict(trainer.average)
        record["metrics"] = {"held_out_accuracy": accuracy(trainer.net.eval(), held_out)}
    (folder / f"{options.model}.json").write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(record, indent=2), file=sys.stderr)


if __name__ == "__main__":
    main()
