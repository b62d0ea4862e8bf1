"""Flow matching in the latent space of an autoencoder: whole digits, and the missing half of given ones.

Dao et al. 2023 (LFM) sample latents of Stable Diffusion's autoencoder with dopri5 at tolerances of 1e-5 or with Heun in
50 steps, guide class-conditional velocities with w = 1.25 to 1.5, and paint missing parts by appending the known
latents and a mask as channels. Here autoencoder and flow are the bundled ones for digits, 4 x 7 x 7 latents.

Printed: how often classifier B sees the label in decoded samples, by solver and guidance, with the evaluations spent;
and how often it sees the label of a digit whose lower half was painted anew.
"""

from __future__ import annotations

import argparse

import torch

import pushforward as pf
from pushforward.models.training.metrics import class_agreement

SHAPE = (4, 7, 7)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few samples: a look, not a measurement")
    parser.add_argument("--samples", type=int, default=120)
    options = parser.parse_args()
    torch.set_num_threads(1 if options.quick else 2)
    torch.set_grad_enabled(False)
    samples, tolerance, steps = (10, 1e-2, 4) if options.quick else (options.samples, 1e-4, 50)
    model, codec = pf.models.load("digits28-latent"), pf.models.latent_codec()
    judge = pf.models.bundled.load("digits28-classifier-b")
    labels = torch.arange(samples) % 10
    condition = {"label": labels}
    start = pf.models.GaussianSource(SHAPE).sample(0, torch.arange(samples))

    def shown(latents: torch.Tensor) -> str:
        share = class_agreement(judge(codec.decode(latents).clamp(-1, 1)), labels)
        return f"{share.value:.1%} ± {share.error:.1%}"

    print("guidance   solver              evaluations   show their label   (LFM: w = 1.25 to 1.5)")
    for weight in (1.0, 1.5, 3.0) if not options.quick else (1.5,):
        run = pf.solve_ode(model, start, [0.0, 1.0], rtol=tolerance, atol=tolerance, condition=condition,
                           guidance=weight)  # fmt: skip
        print(f"{weight:8g}   dopri54, {tolerance:g}   {run.nfe.mean():12.0f}   {shown(run.x[-1])}")
        if weight != 1.5:
            continue
        z = pf.sample(model, start, solver="heun", steps=steps, condition=condition, guidance=weight)
        apart = (z - run.x[-1]).square().mean().sqrt()
        print(f"{weight:8g}   heun   {2 * steps:23}   {shown(z)}, {apart:.4f} from the other")

    painter = pf.models.ConcatCondition("known", 4, 5).on(model)
    digits = pf.sample(pf.models.load("digits28-small"), (samples, 1, 28, 28), solver="heun", steps=5, seed=9,
                       guidance=2.0, condition=condition).clamp(-1, 1)  # fmt: skip
    mask = torch.zeros(1, 1, 7, 7)
    mask[:, :, 4:] = 1
    known = pf.models.painting_condition(codec.encode(digits), mask)
    z = pf.sample(painter, start, solver="heun", steps=10, condition={**condition, "known": known})
    pixels = mask.repeat_interleave(4, 2).repeat_interleave(4, 3)
    painted = codec.decode(z) * pixels + digits * (1 - pixels)
    share = class_agreement(judge(painted.clamp(-1, 1)), labels)
    seam = (painted - digits)[:, :, 16:].square().mean().sqrt()
    hidden = class_agreement(judge(digits * (1 - pixels) - pixels), labels)
    print(f"lower half painted anew: {share.value:.1%} ± {share.error:.1%} show their label (left blank: "
          f"{hidden.value:.1%}); new pixels differ by {seam:.2f}")  # fmt: skip


if __name__ == "__main__":
    main()
