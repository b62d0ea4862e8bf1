"""A digit out of its label, without noise as the start.

Liu et al. 2024 (CrossFlow) let a flow begin at the encoded text itself, so that the network needs no text input, and
guide it by an indicator that was trained on mismatched pairs; the result is on par with flows from noise. Here the
text is a label, the encoder a table of means and variances in pixel space, and the network the bundled small one, whose
label is replaced by the indicator; both are trained for a minute.

Printed: how often classifier B sees the label in samples, by the weight of the indicator guidance, and how far a
mixture of two sources is seen as either label (CrossFlow edits by arithmetic on x_0).
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import pushforward as pf
from pushforward.models.nets import DigitUNet
from pushforward.models.training.crossflow import contrast, indicator_targets, source_penalty
from pushforward.models.training.digits import Digits, load_digits28
from pushforward.models.training.finetune import finetune
from pushforward.models.training.train_digits import RECIPES, draw_times

ROUGH, PENALTY, CONTRAST, IGNORED = 7, 1e-2, 0.02, 0.15


class LabelFlow(nn.Module):
    """An encoder of labels, and a velocity that is told only whether to ignore what it started from."""

    def __init__(self, net: DigitUNet) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.net = net
        self.mean = nn.Parameter(torch.randn(10, 1, ROUGH, ROUGH, generator=generator))
        self.log_variance = nn.Parameter(torch.zeros(10, 1, ROUGH, ROUGH))

    def encode(self, label: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of x_0, patterns of 7 x 7 patches."""
        grown = [F.interpolate(table[label], size=(28, 28)) for table in (self.mean, self.log_variance)]
        return grown[0], grown[1]

    def forward(self, x: Tensor, t: Tensor, ignore: Tensor) -> Tensor:
        """The velocity; the network's first label stands for "heed", its null label for "ignore"."""
        return self.net(x, t, torch.where(ignore, self.net.null, 0))


def loss(flow: LabelFlow, x1: Tensor, label: Tensor, generator: torch.Generator) -> Tensor:
    """Flow matching from the encoded label, with its penalty and its contrast."""
    mean, log_variance = flow.encode(label)
    x0 = mean + (log_variance / 2).exp() * torch.randn(mean.shape, generator=generator)
    t = draw_times(len(x1), 0.1, generator)
    ignore = torch.rand(len(x1), generator=generator) < IGNORED
    target = indicator_targets(x1, ignore)
    velocity = flow(torch.lerp(x0, target, t[:, None, None, None]), t, ignore)
    apart = contrast(flow.mean.flatten(1), torch.eye(10) @ flow.mean.detach().flatten(1))
    return F.mse_loss(velocity, target - x0) + PENALTY * source_penalty(mean, log_variance) + CONTRAST * apart


def generated(count: int) -> Digits:
    """Digits of the bundled network: enough to see that the example runs."""
    labels = torch.arange(count) % 10
    model = pf.models.load("digits28-small")
    return Digits(pf.sample(model, (count, 1, 28, 28), solver="euler", steps=4, condition={"label": labels}), labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two steps on generated digits: a look only")
    parser.add_argument("--steps", type=int, default=500)
    options = parser.parse_args()
    torch.set_num_threads(1 if options.quick else 2)
    train = generated(16) if options.quick else load_digits28()[0]
    steps, batch, samples = (2, 16, 10) if options.quick else (options.steps, 64, 300)
    weights = (1.0, 3.0) if options.quick else (1.0, 2.0, 3.0, 5.0, 7.0)

    start = DigitUNet(**RECIPES["digits28-small"].arguments)
    start.load_state_dict(pf.models.bundled.load("digits28-small").state_dict())
    with torch.no_grad():
        start.label.weight[0] = start.label.weight[start.null]
    flow = finetune(LabelFlow(start), train, loss, steps=steps, batch=batch, rate=2e-3)

    source = pf.models.EncodedSource(flow.encode, ("label",))
    model = pf.models.adapt(flow, source_is_noise=False, null={"ignore": torch.tensor([True])})
    judge = pf.models.bundled.load("digits28-classifier-b")
    labels = torch.arange(samples) % 10
    condition = {"label": labels, "ignore": torch.tensor([False])}
    print("guidance   share of samples that show their label (chance 10 %; CrossFlow: w = 7, 50 Euler steps)")
    for weight in weights:
        images = pf.sample(model, source, solver="heun", steps=5, guidance=weight, condition=condition)
        seen = judge(images.clamp(-1, 1)).argmax(1)
        print(f"{weight:8g}   {(seen == labels).double().mean():.1%}")
    mean, log_variance = flow.encode(labels)
    print(f"source: means of size {mean.square().mean().sqrt():.2f}, deviation {(log_variance / 2).exp().mean():.2f}")

    first, second = (source.sample(1, None, {"label": torch.full((samples,), c)}) for c in (1, 0))
    told = {"ignore": torch.tensor([False])}
    for share in (0.0, 0.5, 1.0):
        x = pf.sample(model, torch.lerp(first, second, share), solver="heun", steps=5, guidance=3.0, condition=told)
        seen = judge(x.clamp(-1, 1)).argmax(1)
        print(f"{share:.0%} of the way from 1 to 0: {(seen == 1).double().mean():.0%} ones, "
              f"{(seen == 0).double().mean():.0%} zeros")  # fmt: skip


if __name__ == "__main__":
    main()
