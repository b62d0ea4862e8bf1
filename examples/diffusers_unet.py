"""A diffusers module and its scheduler's configuration: what the network predicts is read, not guessed.

The UNet is tiny and random, since nothing is downloaded; with a trained one the two lines that matter are the same.
Needs the optional package diffusers.
"""

from __future__ import annotations

import torch

import pushforward as pf


def main() -> None:
    import diffusers

    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(
        sample_size=16,
        in_channels=3,
        out_channels=3,
        layers_per_block=1,
        norm_num_groups=8,
        block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    ).eval()
    scheduler = diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction")

    model = pf.models.from_diffusers(unet, scheduler)
    print(model.prediction)
    x = pf.sample(model, (2, 3, 16, 16), solver="ddim", grid="karras", steps=8)
    print(f"samples {list(x.shape)}, finite: {bool(x.isfinite().all())}")


if __name__ == "__main__":
    main()
