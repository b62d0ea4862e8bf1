"""Tiny randomly initialised modules of diffusers, one of each family, and how each is called."""

import warnings

import torch

with warnings.catch_warnings():  # of the libraries' own imports
    warnings.simplefilter("ignore", DeprecationWarning)
    warnings.simplefilter("ignore", FutureWarning)
    import diffusers

TIMES = (0.0, 0.3, 1.0)
UNET = {"block_out_channels": (8, 8), "layers_per_block": 1, "norm_num_groups": 4, "sample_size": 8}
BLOCKS = {"down_block_types": ("DownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "UpBlock2D")}
FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 3.0}
DDPM = {
    "beta_schedule": "linear",
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
}


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def unet(**options):
    return diffusers.UNet2DModel(**({"in_channels": 3, "out_channels": 3} | UNET | BLOCKS | options))


def unet_condition():
    blocks = {
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    }
    options = UNET | blocks | {"cross_attention_dim": 8, "attention_head_dim": 4}
    return diffusers.UNet2DConditionModel(in_channels=4, out_channels=4, **options)


def dit(**options):
    sizes = {"num_attention_heads": 2, "attention_head_dim": 4, "num_layers": 1, "sample_size": 8, "patch_size": 2}
    given = {"in_channels": 4, "out_channels": 8, "num_embeds_ada_norm": 10, "norm_num_groups": 4} | sizes | options
    return diffusers.DiTTransformer2DModel(**given)


def pixart():
    return diffusers.PixArtTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=4,
        in_channels=4,
        out_channels=8,
        num_layers=1,
        sample_size=8,
        caption_channels=6,
        cross_attention_dim=8,
    )


def sd3():
    return diffusers.SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        num_layers=1,
        attention_head_dim=4,
        num_attention_heads=2,
        joint_attention_dim=8,
        caption_projection_dim=8,
        pooled_projection_dim=6,
        out_channels=4,
        pos_embed_max_size=8,
    )


def flux(guidance=False):
    return diffusers.FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=8,
        pooled_projection_dim=6,
        guidance_embeds=guidance,
        axes_dims_rope=(2, 2, 4),
    )


def prompt(seed, rows=2):
    return {"encoder_hidden_states": normal(rows, 5, 8, seed=seed)}


def flux_condition(seed, guidance=False):
    condition = prompt(seed) | {"pooled_projections": normal(2, 6, seed=seed + 1)}
    ids = {"img_ids": torch.zeros(16, 3), "txt_ids": torch.zeros(5, 3)}
    return condition | ids | ({"guidance": torch.tensor([3.5])} if guidance else {})


def case(name):
    """Module, scheduler configuration, state, condition, unconditional condition or None, clock, channels kept."""
    image, latent, tokens = normal(2, 3, 8, 8), normal(2, 4, 8, 8), normal(2, 16, 16)
    index = {0.0: 999.0, 0.3: 699.0, 1.0: 0.0}
    match name:
        case "UNet2D":
            return unet(), DDPM, image, {}, None, index, 3
        case "UNet2D with classes":
            return unet(num_class_embeds=5), DDPM, image, {"class_labels": torch.tensor([1, 2])}, None, index, 3
        case "UNet2D with variance":
            return unet(out_channels=6), DDPM, image, {}, None, index, 3
        case "UNet2DCondition":
            null = {"encoder_hidden_states": normal(1, 5, 8, seed=9)}
            return unet_condition(), DDPM | {"prediction_type": "v_prediction"}, latent, prompt(3), null, index, 4
        case "DiT":
            return dit(), DDPM, latent, {"class_labels": torch.tensor([1, 2])}, None, index, 4
        case "PixArt":
            condition = {"encoder_hidden_states": normal(2, 5, 6)}
            return pixart(), DDPM, latent, condition, {"encoder_hidden_states": normal(1, 5, 6, seed=2)}, index, 4
        case "SD3":
            clock = {t: 1000 * (1 - t) for t in TIMES}
            condition = prompt(3) | {"pooled_projections": normal(2, 6)}
            null = {"encoder_hidden_states": normal(1, 5, 8, seed=9), "pooled_projections": normal(1, 6, seed=8)}
            return sd3(), FLOW, latent, condition, null, clock, 4
        case "Flux":
            clock = {t: 1 - t for t in TIMES}
            return flux(), FLOW, tokens, flux_condition(3), None, clock, None
        case "Flux with guidance":
            clock = {t: 1 - t for t in TIMES}
            return flux(guidance=True), FLOW, tokens, flux_condition(3, guidance=True), None, clock, None
    raise AssertionError(name)


UNETS = ["UNet2D", "UNet2D with classes", "UNet2D with variance", "UNet2DCondition"]
CASES = [*UNETS, "DiT", "PixArt", "SD3", "Flux", "Flux with guidance"]


def words(seed=3, length=5, size=8, rows=2):
    return normal(rows, length, size, seed=seed)


def masked(key="encoder_attention_mask", seed=3, size=8, dtype=torch.int64):
    return {"encoder_hidden_states": words(seed, size=size), key: torch.ones(2, 5, dtype=dtype)}


HEADS = {"num_attention_heads": 2, "attention_head_dim": 8}
STEPS = {t: 1000 * (1 - t) for t in TIMES}
LEVEL = {t: 1 - t for t in TIMES}
OURS = {t: t for t in TIMES}
INDEX = {0.0: 999.0, 0.3: 699.0, 1.0: 0.0}
V_DDPM = DDPM | {"prediction_type": "v_prediction"}


def hunyuan_dit():
    module = diffusers.HunyuanDiT2DModel(
        **HEADS, in_channels=4, patch_size=2, sample_size=8, hidden_size=16, num_layers=2, cross_attention_dim=8,
        cross_attention_dim_t5=8, pooled_projection_dim=8, text_len=5, text_len_t5=5,
        use_style_cond_and_image_meta_size=False, activation_fn="gelu-approximate",
    )  # fmt: skip
    masks = {"text_embedding_mask": torch.ones(2, 5), "text_embedding_mask_t5": torch.ones(2, 5)}
    condition = {"encoder_hidden_states": words(), "encoder_hidden_states_t5": words(4)} | masks
    ids = (torch.ones(16, 8), torch.zeros(16, 8))
    return module, V_DDPM, normal(2, 4, 8, 8), condition | {"image_rotary_emb": ids}, INDEX, 4


def chroma():
    with warnings.catch_warnings():  # of a name that diffusers itself still uses
        warnings.simplefilter("ignore", FutureWarning)
        module = diffusers.ChromaTransformer2DModel(
            **HEADS, patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, joint_attention_dim=8,
            axes_dims_rope=(2, 2, 4), approximator_num_channels=8, approximator_hidden_dim=16, approximator_layers=1,
        )  # fmt: skip
    ids = {"img_ids": torch.zeros(16, 3), "txt_ids": torch.zeros(5, 3)}
    return module, FLOW, normal(2, 16, 16), prompt(3) | ids, LEVEL, None


def flux2():
    module = diffusers.Flux2Transformer2DModel(
        **HEADS, patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, joint_attention_dim=8,
        timestep_guidance_channels=16, axes_dims_rope=(2, 2, 2, 2), guidance_embeds=True,
    )  # fmt: skip
    ids = {"img_ids": torch.zeros(16, 4), "txt_ids": torch.zeros(5, 4), "guidance": torch.tensor([2.5])}
    return module, FLOW, normal(2, 16, 16), prompt(3) | ids, LEVEL, None


def qwen():
    module = diffusers.QwenImageTransformer2DModel(
        **HEADS, patch_size=2, in_channels=16, out_channels=4, num_layers=1, joint_attention_dim=8,
        axes_dims_rope=(2, 2, 4),
    )  # fmt: skip
    condition = {"encoder_hidden_states_mask": torch.ones(2, 5, dtype=torch.bool), "img_shapes": [[(1, 4, 4)]] * 2}
    return module, FLOW, normal(2, 16, 16), prompt(3) | condition, LEVEL, None


def aura():
    module = diffusers.AuraFlowTransformer2DModel(
        **HEADS, sample_size=8, num_mmdit_layers=1, num_single_dit_layers=1, joint_attention_dim=8,
        caption_projection_dim=16, pos_embed_max_size=16,
    )  # fmt: skip
    return module, FLOW, normal(2, 4, 8, 8), prompt(3), LEVEL, 4


def cogview4():
    module = diffusers.CogView4Transformer2DModel(
        **HEADS, in_channels=4, out_channels=4, num_layers=1, text_embed_dim=8, time_embed_dim=8, condition_dim=4,
        pos_embed_max_size=8, sample_size=8, rope_axes_dim=(8, 8),
    )  # fmt: skip
    sizes = {name: torch.full((2, 2), 8.0) for name in ("original_size", "target_size", "crop_coords")}
    return module, FLOW, normal(2, 4, 8, 8), prompt(3) | sizes, STEPS, 4


def sana(**options):
    module = diffusers.SanaTransformer2DModel(
        in_channels=4, out_channels=4, **HEADS, num_layers=1, num_cross_attention_heads=2, cross_attention_head_dim=8,
        cross_attention_dim=16, caption_channels=8, sample_size=8, timestep_scale=0.001, **options,
    )  # fmt: skip
    flow = {"_class_name": "DPMSolverMultistepScheduler", "prediction_type": "flow_prediction"}
    return module, FLOW | flow, normal(2, 4, 8, 8), prompt(3), LEVEL, 4


def lumina_next():
    module = diffusers.LuminaNextDiT2DModel(
        sample_size=8, in_channels=4, hidden_size=16, num_layers=1, num_attention_heads=2, num_kv_heads=2,
        multiple_of=8, cross_attention_dim=8, qk_norm=True,
    )  # fmt: skip
    from diffusers.models.embeddings import get_2d_rotary_pos_embed_lumina

    ids = {"image_rotary_emb": get_2d_rotary_pos_embed_lumina(8, 8, 8), "cross_attention_kwargs": {}}
    return module, FLOW, normal(2, 4, 8, 8), masked("encoder_mask") | ids, OURS, 4


def lumina2():
    module = diffusers.Lumina2Transformer2DModel(
        sample_size=8, in_channels=4, hidden_size=16, num_layers=1, num_refiner_layers=1, num_attention_heads=2,
        num_kv_heads=1, multiple_of=8, axes_dim_rope=(4, 2, 2), axes_lens=(16, 8, 8), cap_feat_dim=8,
    )  # fmt: skip
    return module, FLOW, normal(2, 4, 8, 8), masked(dtype=torch.bool), OURS, 4


def z_image():
    module = diffusers.ZImageTransformer2DModel(
        in_channels=4, dim=256, n_layers=1, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=8,
        axes_dims=[64, 32, 32], axes_lens=[64, 16, 16],
    )  # fmt: skip
    return module, FLOW, normal(2, 4, 8, 8), {"cap_feats": words()}, OURS, 4


def wan():
    module = diffusers.WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=8, freq_dim=8,
        ffn_dim=16, num_layers=1, rope_max_seq_len=16,
    )  # fmt: skip
    return module, FLOW, normal(2, 4, 2, 4, 4), prompt(3), STEPS, 4


def hunyuan_video(guidance=False):
    module = diffusers.HunyuanVideoTransformer3DModel(
        in_channels=4, out_channels=4, **HEADS, num_layers=1, num_single_layers=1, num_refiner_layers=1,
        guidance_embeds=guidance, text_embed_dim=8, pooled_projection_dim=6, rope_axes_dim=(2, 2, 4),
    )  # fmt: skip
    condition = masked(dtype=torch.bool) | {"pooled_projections": normal(2, 6)}
    return module, FLOW, normal(2, 4, 2, 4, 4), condition, STEPS, 4


def ltx():
    module = diffusers.LTXVideoTransformer3DModel(
        in_channels=4, out_channels=4, **HEADS, cross_attention_dim=16, num_layers=1, caption_channels=8
    )
    sizes = {"num_frames": 2, "height": 2, "width": 2}
    return module, FLOW, normal(2, 8, 4), masked(dtype=torch.bool) | sizes, STEPS, None


def mochi():
    module = diffusers.MochiTransformer3DModel(
        **HEADS, num_layers=2, pooled_projection_dim=8, in_channels=4, text_embed_dim=8, time_embed_dim=8,
        max_sequence_length=5,
    )  # fmt: skip
    clock = {t: 1000 * t for t in TIMES}
    return module, FLOW | {"invert_sigmas": True}, normal(2, 4, 2, 4, 4), masked(dtype=torch.bool), clock, 4


def cogvideox():
    module = diffusers.CogVideoXTransformer3DModel(
        **HEADS, in_channels=4, out_channels=4, time_embed_dim=4, text_embed_dim=8, num_layers=1, sample_width=4,
        sample_height=4, sample_frames=5, max_text_seq_length=5,
    )  # fmt: skip
    return module, V_DDPM, normal(2, 2, 4, 4, 4), prompt(3), INDEX, None


# Module, scheduler configuration, state, condition, clock, channels kept.
FURTHER = {
    "HunyuanDiT": hunyuan_dit,
    "Chroma": chroma,
    "Flux2": flux2,
    "Qwen-Image": qwen,
    "AuraFlow": aura,
    "CogView4": cogview4,
    "Sana": sana,
    "Lumina-Next": lumina_next,
    "Lumina2": lumina2,
    "Z-Image": z_image,
    "Wan": wan,
    "HunyuanVideo": hunyuan_video,
    "LTX": ltx,
    "Mochi": mochi,
    "CogVideoX": cogvideox,
}
