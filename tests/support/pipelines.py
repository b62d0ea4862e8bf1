"""Diffusers' own pipelines around the smallest random modules that they take; nothing is downloaded."""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

import torch

with warnings.catch_warnings():  # their import-time deprecations are not ours to act on
    warnings.simplefilter("ignore")
    import diffusers
    from diffusers import (
        AutoencoderKL,
        DDPMPipeline,
        DiTPipeline,
        FluxPipeline,
        PixArtAlphaPipeline,
        StableDiffusion3Img2ImgPipeline,
        StableDiffusion3Pipeline,
        StableDiffusionImg2ImgPipeline,
        StableDiffusionPipeline,
    )

STABLE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1}
DIMENSION = 8


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def seeded(make: Any, **options: Any) -> Any:
    """A module with the same random weights whenever it is made; weights of layers that start at 0 are made random."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = make(**options).eval()
        for parameter in module.parameters():
            if not parameter.any():
                parameter.data.normal_(std=0.1)
    return module


@cache
def vae(channels: int = 4) -> Any:
    return seeded(
        AutoencoderKL, block_out_channels=(4,), in_channels=3, out_channels=3, latent_channels=channels,
        down_block_types=("DownEncoderBlock2D",), up_block_types=("UpDecoderBlock2D",), norm_num_groups=2,
        sample_size=8, scaling_factor=0.5, shift_factor=0.1,
    )  # fmt: skip


@cache
def unet() -> Any:
    return seeded(
        diffusers.UNet2DModel, sample_size=8, in_channels=3, out_channels=3, block_out_channels=(8,),
        layers_per_block=1, norm_num_groups=4, down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",),
    )  # fmt: skip


@cache
def unet_condition() -> Any:
    return seeded(
        diffusers.UNet2DConditionModel, sample_size=8, in_channels=4, out_channels=4, block_out_channels=(8,),
        layers_per_block=1, norm_num_groups=4, cross_attention_dim=DIMENSION, attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D",), up_block_types=("CrossAttnUpBlock2D",),
    )  # fmt: skip


@cache
def dit() -> Any:
    return seeded(
        diffusers.DiTTransformer2DModel, num_attention_heads=2, attention_head_dim=4, in_channels=4, out_channels=8,
        num_layers=1, sample_size=8, patch_size=2, num_embeds_ada_norm=1000, norm_num_groups=4,
    )  # fmt: skip


@cache
def pixart() -> Any:
    return seeded(
        diffusers.PixArtTransformer2DModel, num_attention_heads=2, attention_head_dim=4, in_channels=4,
        out_channels=8, num_layers=1, sample_size=8, caption_channels=DIMENSION, cross_attention_dim=8,
        use_additional_conditions=False,
    )  # fmt: skip


@cache
def sd3() -> Any:
    return seeded(
        diffusers.SD3Transformer2DModel, sample_size=8, patch_size=2, in_channels=4, num_layers=1,
        attention_head_dim=4, num_attention_heads=2, joint_attention_dim=DIMENSION, caption_projection_dim=8,
        pooled_projection_dim=6, out_channels=4, pos_embed_max_size=8,
    )  # fmt: skip


@cache
def flux() -> Any:
    return seeded(
        diffusers.FluxTransformer2DModel, patch_size=1, in_channels=16, num_layers=1, num_single_layers=1,
        attention_head_dim=8, num_attention_heads=2, joint_attention_dim=DIMENSION, pooled_projection_dim=6,
        axes_dims_rope=(2, 2, 4),
    )  # fmt: skip


def quiet(pipeline: Any) -> Any:
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def prompts(rows: int = 2) -> dict[str, torch.Tensor]:
    return {
        "prompt_embeds": normal(rows, 5, DIMENSION, seed=1),
        "negative_prompt_embeds": normal(rows, 5, DIMENSION, seed=2),
    }


def ddpm(scheduler: Any, steps: int, **call: Any) -> torch.Tensor:
    call.setdefault("generator", torch.Generator().manual_seed(3))
    pipeline = quiet(DDPMPipeline(unet(), scheduler))
    return pipeline(batch_size=2, num_inference_steps=steps, output_type="pt", **call).images


def dit_images(scheduler: Any, steps: int, **call: Any) -> torch.Tensor:
    pipeline = quiet(DiTPipeline(dit(), vae(), scheduler))
    images = pipeline(
        [1, 2], guidance_scale=2.0, generator=torch.Generator().manual_seed(3), num_inference_steps=steps,
        output_type="np", **call,
    ).images  # fmt: skip
    return torch.from_numpy(images)


def stable(scheduler: Any, steps: int | None, **call: Any) -> torch.Tensor:
    pipeline = quiet(
        StableDiffusionPipeline(
            vae(), None, None, unet_condition(), scheduler, None, None, requires_safety_checker=False
        )
    )
    call = {"latents": normal(2, 4, 8, 8), "guidance_scale": 3.0, "height": 8, "width": 8} | call
    steps_given = {} if steps is None else {"num_inference_steps": steps}
    return pipeline(**prompts(), **steps_given, output_type="latent", **call).images


def stable_image(scheduler: Any, steps: int, **call: Any) -> torch.Tensor:
    pipeline = quiet(
        StableDiffusionImg2ImgPipeline(
            vae(), None, None, unet_condition(), scheduler, None, None, requires_safety_checker=False
        )
    )
    return pipeline(
        **prompts(), image=normal(2, 3, 8, 8, seed=5).clamp(-1, 1) / 2 + 0.5, num_inference_steps=steps,
        generator=torch.Generator().manual_seed(4), output_type="latent", **call,
    ).images  # fmt: skip


def pooled() -> dict[str, torch.Tensor]:
    both = {"pooled_prompt_embeds": normal(2, 6, seed=3), "negative_pooled_prompt_embeds": normal(2, 6, seed=4)}
    return prompts() | both


def stable3(scheduler: Any, steps: int, **call: Any) -> torch.Tensor:
    pipeline = quiet(StableDiffusion3Pipeline(sd3(), scheduler, vae(), *[None] * 6))
    call = {"latents": normal(2, 4, 8, 8), "height": 8, "width": 8} | call
    return pipeline(**pooled(), num_inference_steps=steps, output_type="latent", **call).images


def stable3_image(scheduler: Any, steps: int, **call: Any) -> torch.Tensor:
    pipeline = quiet(StableDiffusion3Img2ImgPipeline(sd3(), scheduler, vae(), *[None] * 6))
    return pipeline(
        **pooled(), image=normal(2, 3, 8, 8, seed=5).clamp(-1, 1) / 2 + 0.5, num_inference_steps=steps,
        height=8, width=8, generator=torch.Generator().manual_seed(4), output_type="latent", **call,
    ).images  # fmt: skip


def flux_tokens(scheduler: Any, steps: int, **call: Any) -> torch.Tensor:
    pipeline = quiet(FluxPipeline(scheduler, vae(), None, None, None, None, flux()))
    condition = {"prompt_embeds": normal(2, 5, DIMENSION, seed=1), "pooled_prompt_embeds": normal(2, 6, seed=3)}
    return pipeline(
        **condition,
        latents=normal(2, 16, 16),
        height=8,
        width=8,
        num_inference_steps=steps,
        output_type="latent",
        **call,
    ).images


def pixart_latents(scheduler: Any, steps: int, **call: Any) -> torch.Tensor:
    pipeline = quiet(PixArtAlphaPipeline(None, None, vae(), pixart(), scheduler))
    mask = torch.ones(2, 5, dtype=torch.int64)
    return pipeline(
        **prompts(), negative_prompt=None, prompt_attention_mask=mask, negative_prompt_attention_mask=mask,
        latents=normal(2, 4, 8, 8), height=8, width=8, num_inference_steps=steps, use_resolution_binning=False,
        output_type="latent", **call,
    ).images  # fmt: skip
