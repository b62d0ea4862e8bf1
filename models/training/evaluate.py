"""Measures the bundled models and writes the numbers into their cards.

Run it as `python -m pushforward.models.training.evaluate`.

The judge is classifier B, which no training or selection of a velocity has seen; distances are measured against
held-out digits, and beside each stands what real data attains.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..bundled.loader import WEIGHTS, card, load
from ..nets import DigitClassifier, DigitDiT, DigitUNet
from . import metrics
from .digits import Digits, load_digits28
from .pack import write_card
from .train_digits import accuracy

Sampler = Callable[..., Tensor]
SEED = 2024
MODELS = ("digits28-classifier-a", "digits28-classifier-b", "digits28-base", "digits28-small", "digits28-dit")
REFERENCES = {
    "frechet_reference": "as many training digits, class-balanced, in the judge's features; 500 held-out are too few",
    "energy_distance_reference": "500 held-out digits, in pixels",
}
RUNS = (  # method, steps, guidance weight: 20 Heun steps as the reference, then ten evaluations, then ten passes
    ("heun", 20, 1.0),
    ("heun", 20, 2.0),
    ("euler", 10, 1.0),
    ("euler", 10, 2.0),
    ("heun", 5, 1.0),
    ("heun", 5, 2.0),
    ("euler", 5, 2.0),
)


@torch.no_grad()
def draw(
    net: DigitUNet | DigitDiT, labels: Tensor, *, seed: int, method: str, steps: int, guidance: float = 1.0
) -> Tensor:
    r"""Integrates the guided velocity from noise to data on a uniform grid, in batches of 250.

    .. math:: v = v_\varnothing + w (v_y - v_\varnothing)

    A stand-in with nothing but torch: pass another function of the same signature to `evaluate_velocity` to measure
    with it.

    Args:
        net: A `DigitUNet` or `DigitDiT`.
        labels: Classes to draw, [N], int64.
        seed: Of the initial noise, drawn for all samples at once, so that batches and methods share it.
        method: "euler" (one evaluation a step) or "heun" (two).
        steps: Number of steps.
        guidance: Weight w; other than 1, an evaluation is two forward passes.

    Returns:
        Images [N, 1, 28, 28], not clamped.
    """
    noise = torch.randn(len(labels), 1, 28, 28, generator=torch.Generator().manual_seed(seed))

    def velocity(x: Tensor, t: float, y: Tensor) -> Tensor:
        times = torch.full((len(x),), t)
        v = net(x, times, y)
        if guidance == 1:
            return v
        return torch.lerp(net(x, times, torch.full_like(y, net.null)), v, guidance)

    done = []
    for x, y in zip(noise.split(250), labels.split(250), strict=True):
        for i in range(steps):
            t, h = i / steps, 1 / steps
            v = velocity(x, t, y)
            if method == "heun":
                v = (v + velocity(x + h * v, t + h, y)) / 2
            x = x + h * v
        done.append(x)
    return torch.cat(done)


def evaluate_velocity(
    net: DigitUNet | DigitDiT,
    judge: DigitClassifier,
    train: Digits,
    held_out: Digits,
    *,
    sampler: Sampler = draw,
    count: int = 1000,
) -> dict[str, Any]:
    """All sample metrics of one velocity network.

    Args:
        net: A `DigitUNet` or `DigitDiT`.
        judge: The classifier that labels samples and gives features.
        train: Training digits.
        held_out: Held-out digits.
        sampler: Function with the signature of `draw`.
        count: Samples a run, a multiple of 10: count / 10 of each class.

    Returns:
        Plain numbers: one record a run, and the values real data attains.
    """
    labels = torch.arange(10).repeat(count // 10)
    report: dict[str, Any] = {"samples": count, "noise_seed": SEED, "judge": "digits28-classifier-b"} | REFERENCES
    report["runs"] = []
    for method, steps, guidance in RUNS:
        images = sampler(net, labels, seed=SEED, method=method, steps=steps, guidance=guidance).clamp(-1, 1)
        passes = steps * (2 if method == "heun" else 1) * (1 if guidance == 1 else 2)
        record = {"method": method, "steps": steps, "guidance": guidance, "passes": passes}
        report["runs"].append(record | _describe(images, labels, judge, train, held_out))
        print(report["runs"][-1], flush=True)
    report["euler_energy_distance"] = {
        str(n): _rounded(
            metrics.energy_distance(
                sampler(net, labels, seed=SEED, method="euler", steps=n).clamp(-1, 1).flatten(1),
                held_out.images.flatten(1),
            )
        )
        for n in (1, 2, 4, 8, 16)
    }
    report["real"] = _real(judge, train, held_out, count)
    print(report["euler_energy_distance"], report["real"], flush=True)
    return report


def _describe(
    images: Tensor, labels: Tensor, judge: DigitClassifier, train: Digits, held_out: Digits
) -> dict[str, Any]:
    agreement = metrics.class_agreement(judge(images), labels)
    features, real = judge.features(images), judge.features(held_out.images)
    flat, flat_held = images.flatten(1), held_out.images.flatten(1)
    half = _half(train, len(images), 0)
    recalls = metrics.per_class_recall(real, held_out.labels, features, labels)
    ratios = metrics.variance_ratio(train.images.flatten(1), train.labels, flat, labels)
    return {
        "agreement": _rounded(agreement.value),
        "agreement_error": _rounded(agreement.error),
        "energy_distance": _rounded(metrics.energy_distance(flat, flat_held)),
        "frechet": _rounded(metrics.frechet_distance(features, judge.features(half))),
        "nearest_neighbour_ratio": _rounded(metrics.nearest_neighbour_ratio(flat, train.images.flatten(1), flat_held)),
        "recall_mean": _rounded(sum(recalls) / len(recalls)),
        "recall_min": _rounded(min(recalls)),
        "variance_ratio_mean": _rounded(sum(ratios) / len(ratios)),
    }


def _real(judge: DigitClassifier, train: Digits, held_out: Digits, count: int) -> dict[str, float]:
    """The same distances between real sets of the same sizes, and from noise: the attainable and the worthless."""
    first, second = _half(train, count, 0), _half(train, count, 1)
    flat, flat_held = first.flatten(1), held_out.images.flatten(1)
    noise = torch.randn(count, 784, generator=torch.Generator().manual_seed(SEED)).clamp(-1, 1)
    return {
        "frechet_half_half": _rounded(metrics.frechet_distance(judge.features(first), judge.features(second))),
        "energy_distance_train_held_out": _rounded(metrics.energy_distance(flat, flat_held)),
        "energy_distance_null_quantile_95": _rounded(metrics.energy_null_quantile(flat, flat_held)),
        "energy_distance_noise": _rounded(metrics.energy_distance(noise, flat_held)),
    }


def _half(data: Digits, count: int, which: int) -> Tensor:
    """One of two disjoint sets of `count` images, class-balanced: rows of a class are already in random order."""
    each = count // 10
    rows = [(data.labels == c).nonzero()[which * each : (which + 1) * each, 0] for c in range(10)]
    return data.images[torch.cat(rows)]


@torch.no_grad()
def compare_velocities(first: nn.Module, second: nn.Module, data: Digits, count: int = 500) -> dict[str, float]:
    """Cosine similarity of two velocities at x_t of real digits, mean over samples, for t = 0.1, 0.2, 0.3, 0.5, 0.8."""
    generator = torch.Generator().manual_seed(SEED)
    rows = torch.randperm(len(data), generator=generator)[:count]
    x1, y = data.images[rows], data.labels[rows]
    x0 = torch.randn(x1.shape, generator=generator)
    similarity = {}
    for t in (0.1, 0.2, 0.3, 0.5, 0.8):
        x, times = torch.lerp(x0, x1, t), torch.full((len(x1),), t)
        pair = first(x, times, y).flatten(1), second(x, times, y).flatten(1)
        similarity[str(t)] = _rounded(torch.cosine_similarity(*pair).mean().item())
    return similarity


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def main() -> None:
    """Measures the models in a folder and rewrites their cards."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, default=WEIGHTS)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="*", default=MODELS, choices=MODELS, help="by default all of them")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.set_grad_enabled(False)
    train, held_out, _ = load_digits28()
    for name in (name for name in options.only if "classifier" in name):
        facts = card(name, folder=options.folder)
        facts["metrics"] = {"held_out_accuracy": accuracy(load(name, folder=options.folder), held_out)}
        write_card(facts, options.folder)
        print(name, facts["metrics"], flush=True)
    judge = cast(DigitClassifier, load("digits28-classifier-b", folder=options.folder))
    base = load("digits28-base", folder=options.folder)
    for name in (name for name in options.only if "classifier" not in name):
        net, facts = cast(DigitUNet | DigitDiT, load(name, folder=options.folder)), card(name, folder=options.folder)
        facts["metrics"] = evaluate_velocity(net, judge, train, held_out)
        if name != "digits28-base":
            facts["metrics"]["cosine_similarity_with_base"] = compare_velocities(net, base, held_out)
        write_card(facts, options.folder)


if __name__ == "__main__":
    main()
