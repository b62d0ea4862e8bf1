"""Trains noise experts of the digit classifier without data or labels (PPAP).

Run it as `python -m pushforward.models.training.train_experts --out DIR`.

Pictures are drawn from the unconditional model; on each, an expert that sees it under noise of its range learns to say
what the frozen classifier says of the clean one. Only low-rank adapters, biases and norms are trained and stored.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ...errors import ArgumentError
from .. import bundled
from ..guided import NoiseExperts
from ..nets import DigitUNet
from .evaluate import draw
from .low_rank import adapter_state, attach, load_adapter, merged

SHARPENING = 0.25  # what the teacher's logits are divided by


def transfer_set(count: int, seed: int = 0, network: str = "digits28-small", steps: int = 8) -> Tensor:
    """Pictures of the unconditional model, [count, 1, 28, 28] in [-1, 1]: 2 steps network calls each, by Heun."""
    net = cast(DigitUNet, bundled.load(network))
    return draw(net, torch.full((count,), net.null), seed=seed, method="heun", steps=steps).clamp(-1, 1)


def divergence(teacher: Tensor, student: Tensor) -> Tensor:
    r"""Kullback-Leibler divergence of the student's softmax from the teacher's sharpened one, [B].

    .. math:: \sum_k p_k (\log p_k - \log q_k), \quad p = \mathrm{softmax}(z / 0.25), \quad q = \mathrm{softmax}(z')

    Args:
        teacher, student: Logits [B, K].
    """
    wanted = (teacher / SHARPENING).log_softmax(1)
    return (wanted.exp() * (wanted - student.log_softmax(1))).sum(1)


def noised(clean: Tensor, times: tuple[float, float], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """States of the linear path at times uniform in a range, and the times, [B]."""
    t = times[0] + (times[1] - times[0]) * torch.rand(len(clean), generator=generator)
    noise = torch.randn(clean.shape, generator=generator)
    return torch.lerp(noise, clean, t.reshape(-1, *[1] * (clean.ndim - 1))), t


def train_expert(
    teacher: nn.Module,
    pictures: Tensor,
    times: tuple[float, float],
    *,
    updates: int,
    batch: int = 128,
    rate: float = 2e-3,
    rank: int = 8,
    seed: int = 0,
    start: dict[str, Tensor] | None = None,
) -> nn.Module:
    """An expert for states at times in a range, trained from the teacher itself.

    AdamW with a rate that falls linearly to zero and weight decay 0.05.

    Args:
        teacher: The frozen classifier of clean pictures; not changed.
        pictures: The transfer set.
        times: ``(lo, hi)`` on the linear path.
        updates, batch, rate, rank, seed: Of the training.
        start: Adapters to go on from, as :func:`adapter_state` returns them; those of the teacher itself by default.

    Returns:
        The network with its adapters attached.

    Raises:
        ArgumentError: Times that are no range.
    """
    lo, hi = times
    if not 0 <= lo < hi <= 1:
        raise ArgumentError("times", got=times, expected="0 <= lo < hi <= 1")
    expert, generator = attach(teacher, rank, seed=seed), torch.Generator().manual_seed(seed)
    if start is not None:
        load_adapter(expert, start)
    optimiser = torch.optim.AdamW([p for p in expert.parameters() if p.requires_grad], lr=rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, updates)
    with torch.no_grad():
        answers = torch.cat([teacher(part) for part in pictures.split(1000)])
    for _ in range(updates):
        rows = torch.randint(len(pictures), (batch,), generator=generator)
        states, _ = noised(pictures[rows], times, generator)
        loss = divergence(answers[rows], expert(states)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return expert


def train_experts(
    teacher: nn.Module, pictures: Tensor, count: int, *, updates: int, inherit: bool = False, **options: Any
) -> list[nn.Module]:
    """One expert for each of ``count`` equal parts of the times, each with its share of ``updates``.

    Args:
        teacher, pictures: As in :func:`train_expert`.
        count: Number of experts, from the noisiest range to the cleanest.
        updates: Of all of them together.
        inherit: Train the cleanest range first, and every other one on from its cleaner neighbour's adapters. All
            start from the teacher itself otherwise.
        **options: Of :func:`train_expert`.
    """
    experts: list[nn.Module] = []
    for k in reversed(range(count)):
        start = adapter_state(experts[-1]) if inherit and experts else None
        times = (k / count, (k + 1) / count)
        experts.append(train_expert(teacher, pictures, times, updates=updates // count, seed=k, start=start, **options))
    return experts[::-1]


@torch.no_grad()
def mean_divergence(
    experts: NoiseExperts, teacher: nn.Module, pictures: Tensor, levels: int = 20, seed: int = 1
) -> float:
    """The divergence of :func:`divergence`, averaged over pictures and equally spaced times."""
    generator, total = torch.Generator().manual_seed(seed), 0.0
    answers = teacher(pictures)
    for k in range(levels):
        t = (k + 0.5) / levels
        states, _ = noised(pictures, (t, t), generator)
        total += divergence(answers, experts(states, t)).mean().item() / levels
    return total


def main() -> None:
    """Trains experts and writes their adapters, with a card."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--experts", type=int, default=5)
    parser.add_argument("--updates", type=int, default=3000, help="of all experts together")
    parser.add_argument("--pictures", type=int, default=4000)
    options = parser.parse_args()
    teacher = bundled.load("digits28-classifier-a")
    pictures = transfer_set(options.pictures)
    trained = train_experts(teacher, pictures, options.experts, updates=options.updates)
    state = {f"{k}.{name}": value for k, net in enumerate(trained) for name, value in adapter_state(net).items()}
    experts = NoiseExperts.equal([merged(net) for net in trained])
    card = {
        "name": f"digits28-experts-{options.experts}",
        "of": "digits28-classifier-a",
        "ranges": [experts.range_of(k) for k in range(options.experts)],
        "updates": options.updates,
        "pictures": options.pictures,
        "divergence": mean_divergence(experts, teacher, transfer_set(500, seed=1)),
    }
    options.out.mkdir(parents=True, exist_ok=True)
    save_file(state, options.out / f"{card['name']}.safetensors")
    (options.out / f"{card['name']}.json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(card))


if __name__ == "__main__":
    main()
