"""Directions that nobody labelled: embeddings learned by contrast, and added to a generated digit.

Dalva & Yanardag 2023 (NoiseCLR) learn edit directions of Stable Diffusion from 100 images of a domain and show that
they are consistent and can be combined. Here the network is the bundled digit network, its condition table has eight
new rows, and training sees images only.

Printed: the contrastive loss (-2 is perfect), how parallel the effects of one direction are on new images and those of
different ones, and how consistently a direction decides which digit an unlabelled sample becomes.
"""

from __future__ import annotations

import argparse

import torch

import pushforward as pf
from pushforward.models.nets import DigitUNet
from pushforward.models.training.digits import load_digits28
from pushforward.models.training.directions import direction_contrast

DIRECTIONS, CONTRASTED, BATCH, RATE = 8, 5, 8, 2e-2


def with_directions(seed: int) -> DigitUNet:
    """The bundled network with further rows in its table of labels: 10 .. 17 are directions, 18 is no class."""
    bundled = pf.models.bundled.load("digits28-base")
    assert isinstance(bundled, DigitUNet)
    weights = bundled.state_dict()
    table = weights["label.weight"]
    generator = torch.Generator().manual_seed(seed)
    new = table[10] + 0.1 * table.std() * torch.randn(DIRECTIONS, table.shape[1], generator=generator)
    net = DigitUNet(bundled.width, bundled.embedding, bundled.heads, classes=10 + DIRECTIONS)
    net.load_state_dict({**weights, "label.weight": torch.cat([table[:10], new, table[10:]])})
    return net.eval().requires_grad_(False)


def effects(net: DigitUNet, images: torch.Tensor, directions: list[int], t: float, seed: int) -> torch.Tensor:
    """Differences to the unconditional velocity, [K, B, 1, 28, 28], in one call; noise is keyed by the seed."""
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))
    x = t * images + (1 - t) * noise
    labels = torch.tensor([*directions, net.null]).repeat_interleave(len(x))
    out = net(x.repeat(len(directions) + 1, 1, 1, 1), torch.full((len(labels),), t), labels)
    out = out.view(len(directions) + 1, *images.shape)
    return out[:-1] - out[-1:]


def train(net: DigitUNet, images: torch.Tensor, iterations: int) -> list[float]:
    """Learn the rows of the directions, and nothing else."""
    generator, losses = torch.Generator().manual_seed(0), []
    table = net.label.weight.requires_grad_(True)
    optimiser = torch.optim.AdamW([table], lr=RATE, weight_decay=0.0)
    learned = torch.zeros(len(table), 1)
    learned[10:-1] = 1
    for iteration in range(iterations):
        order = (10 + torch.randperm(DIRECTIONS, generator=generator)[:CONTRASTED]).tolist()
        rows = torch.randperm(len(images), generator=generator)[:BATCH]
        t = 0.05 + 0.9 * float(torch.rand((), generator=generator))
        loss = direction_contrast(effects(net, images[rows], order, t, iteration))
        optimiser.zero_grad()
        loss.backward()
        assert table.grad is not None
        table.grad *= learned
        optimiser.step()
        losses.append(float(loss.detach()))
    table.requires_grad_(False)
    return losses


def cosines(net: DigitUNet, images: torch.Tensor) -> tuple[float, float]:
    """Mean cosine of the effects of one direction on different images, and of different directions on one image."""
    units = torch.nn.functional.normalize(
        effects(net, images, list(range(10, 10 + DIRECTIONS)), 0.4, 99).flatten(2), dim=2
    )
    within = torch.einsum("kbd,kcd->kbc", units, units)
    across = torch.einsum("kbd,lbd->bkl", units, units)
    b, k = len(images), DIRECTIONS
    return float((within.sum() - b * k) / (k * b * (b - 1))), float((across.sum() - b * k) / (b * k * (k - 1)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few iterations: a look, not a measurement")
    options = parser.parse_args()
    torch.set_num_threads(2)
    iterations, samples = (3, 4) if options.quick else (150, 32)
    images = torch.zeros(32, 1, 28, 28) if options.quick else load_digits28()[0].images
    net = with_directions(seed=0)
    held_out = images[-16:]
    before = cosines(net, held_out)
    losses = train(net, images[:-16], iterations)
    after = cosines(net, held_out)
    last = sum(losses[-10:]) / len(losses[-10:])
    print(f"contrastive loss: {losses[0]:.2f} at first, {last:.2f} after {iterations} iterations (-2 is perfect)")
    print(f"cosine of effects on new images: {before[0]:.2f} -> {after[0]:.2f} within a direction, ", end="")
    print(f"{before[1]:.2f} -> {after[1]:.2f} between directions")

    model = pf.models.adapt(net, "velocity", "linear", null={"label": torch.tensor([net.null])}, channels=1)
    names = [f"direction{k}" for k in range(DIRECTIONS)]
    model = model.with_branches(**{name: {"label": torch.tensor([10 + k])} for k, name in enumerate(names)})
    judge, agreed = pf.models.bundled.load("digits28-classifier-b"), []
    for name in names:
        edit = pf.models.Directions({name: 3.0}, base=0.0)
        condition = {"label": torch.full((samples,), net.null)}
        x = pf.sample(model, (samples, 1, 28, 28), solver="ab2", steps=12, guidance=edit, condition=condition, seed=1)
        with torch.no_grad():
            classes = judge(x.clamp(-1, 1)).argmax(1)
        agreed.append(float(torch.bincount(classes, minlength=10).max()) / samples)
    mean = sum(agreed) / len(agreed)
    print(
        f"samples of a direction that are its most frequent digit: {mean:.0%} (of digits drawn at random: about 20 %)"
    )
    print("NoiseCLR's claim: directions of a domain are found without labels, are consistent, and combine")


if __name__ == "__main__":
    main()
