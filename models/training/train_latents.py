"""Trains the bundled autoencoder and the flow of its latents: `python -m pushforward.models.training.train_latents`.

First the autoencoder, then, on its latents, the velocity; a quarter of an hour on one core. The velocity is told in
half of its rows a part of the latents and a mask, so that one network paints whole digits and completes given ones.
"""

import argparse
import json
import platform
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from ..bundled.loader import load
from ..nets import DigitAutoencoder, DigitClassifier, LatentUNet
from .contributions import training_times
from .digits import Digits, load_digits28
from .metrics import class_agreement
from .train_digits import Recipe, Trainer, augment, build, draw_times, velocity_error

AUTOENCODER, LATENT = "digits28-autoencoder", "digits28-latent"
KL_WEIGHT = 1e-3  # a latent's standard deviation comes out near a tenth of the latents' spread
KNOWN_SHARE = 0.5  # of the rows that are told a part of the latents
RECIPES = {
    AUTOENCODER: Recipe(
        "DigitAutoencoder", {"width": 32, "channels": 4}, 2000, 64, 2e-3, 7,
        warmup=100, betas=(0.9, 0.99), ema=0.99, label_dropout=0.0, uniform_times=0.0, threads=1,
    ),
    LATENT: Recipe(
        "LatentUNet", {"width": 32, "embedding": 128, "heads": 4, "channels": 4, "classes": 10}, 3200, 64, 2e-3, 8,
        warmup=100, ema=0.995, threads=1,
    ),
}  # fmt: skip


def autoencoder_loss(net: nn.Module, x: Tensor, label: Tensor, recipe: Recipe, generator: torch.Generator) -> Tensor:
    r"""Squared error a pixel and :math:`10^{-3}` times the divergence :math:`KL(q(z | x), N(0, I))` a latent."""
    coder, images = cast(DigitAutoencoder, net), augment(x, generator)
    mean, log_variance = coder.encode(images)
    z = mean + (log_variance / 2).exp() * torch.randn(mean.shape, generator=generator)
    divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)
    return F.mse_loss(coder.decode(z), images) + KL_WEIGHT * divergence.mean()


def draw_known(z: Tensor, generator: torch.Generator) -> Tensor:
    """What rows are told of their latents, [B, C + 1, h, w]: latents outside a mask, and the mask; or nothing.

    The mask hides the rows of pixels below a line, or above, or the columns right or left of one.
    """
    b, _, h, w = z.shape
    side = torch.randint(4, (b,), generator=generator)
    rows, columns = torch.arange(h)[None, :, None], torch.arange(w)[None, None, :]
    cut = (1 + torch.randint(min(h, w) - 1, (b,), generator=generator))[:, None, None]
    halves = torch.stack([(rows >= cut).expand(b, h, w), (rows < cut).expand(b, h, w),
                          (columns >= cut).expand(b, h, w), (columns < cut).expand(b, h, w)])  # fmt: skip
    mask = halves[side, torch.arange(b)][:, None]
    told = (torch.rand(b, generator=generator) < KNOWN_SHARE)[:, None, None, None]
    mask = (mask | ~told).to(z.dtype)
    return torch.cat([z * (1 - mask), mask], dim=1)


def latent_loss(net: nn.Module, z: Tensor, label: Tensor, recipe: Recipe, generator: torch.Generator) -> Tensor:
    """Mean squared error of the velocity z_1 - z_0, with labels dropped and parts of the latents told."""
    flow = cast(LatentUNet, net)
    mean, spread = z.chunk(2, dim=1)
    z1 = mean + spread * torch.randn(mean.shape, generator=generator)
    z0 = torch.randn(mean.shape, generator=generator)
    t = draw_times(len(z1), recipe.uniform_times, generator, training_times(recipe.times))
    dropped = torch.rand(len(z1), generator=generator) < recipe.label_dropout
    state = torch.lerp(z0, z1, t[:, None, None, None])
    prediction = flow(torch.cat([state, draw_known(z1, generator)], dim=1), t, torch.where(dropped, flow.null, label))
    return velocity_error(prediction, z1 - z0, t, recipe.weighting)


@torch.no_grad()
def latents(net: DigitAutoencoder, data: Digits) -> tuple[Digits, dict[str, list[float]]]:
    """Means and standard deviations of the latents as 2 C channels, scaled, and the numbers of the scaling."""
    found = [net.encode(part) for part in data.images.split(500)]
    mean = torch.cat([m for m, _ in found])
    spread = torch.cat([(v / 2).exp() for _, v in found])
    shift, scale = mean.mean((0, 2, 3)), 1 / mean.std((0, 2, 3))
    numbers = {"latent_shift": shift.tolist(), "latent_scale": scale.tolist()}
    shift, scale = shift[None, :, None, None], scale[None, :, None, None]
    return Digits(torch.cat([(mean - shift) * scale, spread * scale], dim=1), data.labels), numbers


@torch.no_grad()
def autoencoder_metrics(net: DigitAutoencoder, held_out: Digits) -> dict[str, Any]:
    """Reconstruction of held-out digits, beside what is left of them without it."""
    error = F.mse_loss(net(held_out.images), held_out.images).item()
    variance = held_out.images.var(0, correction=0).mean().item()
    return {"held_out_squared_error": float(f"{error:.4g}"), "held_out_variance": float(f"{variance:.4g}")}


@torch.no_grad()
def latent_metrics(flow: LatentUNet, coder: DigitAutoencoder, numbers: dict[str, list[float]]) -> dict[str, Any]:
    """How often the judge sees the label in 500 decoded samples, in 10 steps of Heun, by guidance weight."""
    judge, labels = cast(DigitClassifier, load("digits28-classifier-b")), torch.arange(500) % 10
    shift, scale = (torch.tensor(numbers[f"latent_{key}"])[None, :, None, None] for key in ("shift", "scale"))
    found: dict[str, Any] = {"samples": len(labels), "method": "heun", "steps": 10, "judge": "digits28-classifier-b"}

    def velocity(z: Tensor, t: float, weight: float) -> Tensor:
        times = torch.full((len(z),), t)
        null = flow(z, times, torch.full_like(labels, flow.null))
        return torch.lerp(null, flow(z, times, labels), weight)

    for weight in (1.0, 2.0):
        z = torch.randn(len(labels), flow.channels, 7, 7, generator=torch.Generator().manual_seed(2024))
        for i in range(10):
            v = velocity(z, i / 10, weight)
            z = z + 0.05 * (v + velocity(z + 0.1 * v, (i + 1) / 10, weight))
        share = class_agreement(judge(coder.decode(z / scale + shift).clamp(-1, 1)), labels)
        found[f"agreement_guidance_{weight:g}"] = float(f"{share.value:.4g}")
    return found


def main() -> None:
    """Trains what is not there yet, and writes weights and run records as `train_digits` does."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--steps", type=int, help="shorten both runs, for a trial only")
    options = parser.parse_args()
    train, held_out, digest = load_digits28()
    numbers: dict[str, list[float]] = {}
    for name, recipe in RECIPES.items():
        recipe = recipe if options.steps is None else replace(recipe, steps=options.steps)
        torch.set_num_threads(recipe.threads)
        folder = options.out / name
        folder.mkdir(parents=True, exist_ok=True)
        coder = cast(DigitAutoencoder, build(RECIPES[AUTOENCODER]).eval())
        data, metrics = train, {}
        if name == LATENT:
            coder.load_state_dict(load_file(options.out / AUTOENCODER / f"{AUTOENCODER}.safetensors"))
            data, numbers = latents(coder, train)
        if not (folder / f"{name}.safetensors").exists():
            trainer = Trainer(recipe, data, folder, autoencoder_loss if name == AUTOENCODER else latent_loss)
            trainer.train()
            save_file(trainer.average, folder / f"{name}.safetensors")
        if name == AUTOENCODER:
            coder.load_state_dict(load_file(folder / f"{name}.safetensors"))
            _, numbers = latents(coder, train)
            metrics = autoencoder_metrics(coder, held_out)
        else:
            flow = cast(LatentUNet, build(recipe).eval())
            flow.load_state_dict(load_file(folder / f"{name}.safetensors"))
            metrics = latent_metrics(flow, coder, numbers)
        record = {
            "name": name,
            "recipe": asdict(recipe),
            "data_sha256": digest,
            "facts": numbers,
            "metrics": metrics,
            "images_per_second": None,
            "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
        }
        (folder / f"{name}.json").write_text(json.dumps(record, indent=2) + "\n")
        print(json.dumps(record, indent=2), file=sys.stderr)


if __name__ == "__main__":
    main()
