"""Families of diffusers modules on tiny random ones: what they are told, their sign, channels and guidance scale."""

import math
from types import SimpleNamespace

import pytest
import torch
from tiny_modules import (
    DDPM,
    FLOW,
    FURTHER,
    TIMES,
    diffusers,
    flux,
    flux_condition,
    hunyuan_video,
    normal,
    prompt,
    sana,
    unet,
    unet_condition,
)

from pushforward.errors import ArgumentError
from pushforward.models import Linear, from_diffusers
from pushforward.models.adapters.diffusers import FAMILIES

DATA_MINUS_NOISE = {"Lumina-Next", "Lumina2", "Z-Image", "Mochi"}
DISCRETE = {"HunyuanDiT", "CogVideoX"}


def randomised(module):
    """Without gradients, in eval mode, and with no parameter at zero, which would hide a wrong argument."""
    torch.manual_seed(0)
    for parameter in module.eval().requires_grad_(False).parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    return module


@pytest.mark.filterwarnings("ignore:In CPU autocast")  # of Mochi itself
@pytest.mark.parametrize("name", FURTHER)
def test_a_module_is_told_its_time_and_called_as_by_hand(name):
    torch.manual_seed(1)
    module, config, state, condition, clock, channels = FURTHER[name]()
    lists, seen = name == "Z-Image", []
    randomised(module).register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(args[1] if lists else kwargs["timestep"]), with_kwargs=True
    )
    model = from_diffusers(module, config)
    bound = model.bind(condition)
    for t in TIMES:
        (out,) = bound.evaluate(state, t)
        told = seen.pop()
        assert told.shape == (2,)
        assert told.dtype == torch.float32
        assert told.tolist() == pytest.approx([clock[t]] * 2, rel=1e-6, abs=1e-9)
        assert out.shape == state.shape
        assert out.std() > 1e-3
    by_hand_time = torch.full((2,), float(clock[0.3]))
    if lists:
        parts = module([*state[:, :, None]], by_hand_time, [*condition["cap_feats"]], return_dict=False)[0]
        by_hand = torch.stack(parts)[:, :, 0]
    else:
        given = condition | {"guidance": torch.full((2,), 2.5)} if "guidance" in condition else condition
        by_hand = module(state, timestep=by_hand_time, return_dict=False, **given)[0]
    (out,) = bound.evaluate(state, 0.3)
    assert torch.equal(out, by_hand if channels is None else by_hand[:, :channels])
    assert model.split_variance == (name in ("HunyuanDiT", "Lumina-Next"))
    if name not in DISCRETE:
        assert model.interpolant == Linear()
        assert model.prediction.velocity(0.3) == (0, 1 if name in DATA_MINUS_NOISE else -1)


@pytest.mark.parametrize("name", ["AuraFlow", "Wan", "Z-Image", "Lumina2", "CogView4"])
def test_guidance_of_a_family_is_one_call(name):
    torch.manual_seed(1)
    module, config, state, condition, _, _ = FURTHER[name]()
    key = "cap_feats" if name == "Z-Image" else "encoder_hidden_states"
    bound = from_diffusers(randomised(module), config, null={key: normal(1, 5, 8, seed=9)}).bind(condition)
    joint = bound.evaluate(state, 0.3, ("cond", "null"))
    assert (bound.calls, bound.rows) == (1, 4)
    for out, branch in zip(joint, ("cond", "null"), strict=True):
        (alone,) = bound.evaluate(state, 0.3, (branch,))
        assert (out - alone).abs().max() <= 1e-5 * (1 + alone.abs().max())
    assert (joint[0] - joint[1]).abs().max() > 1e-4


def scale_seen(module, model, state, condition, key):
    """What the module is given under ``key``, and what it returns."""
    seen = []
    handle = module.register_forward_pre_hook(lambda _, args, kwargs: seen.append(kwargs.get(key)), with_kwargs=True)
    (out,) = model.bind(condition).evaluate(state, 0.3)
    handle.remove()
    return seen[0], out


def latent_consistency_embedding(scale, size):
    """As the pipelines of latent consistency models make it."""
    rows = torch.arange(size // 2, dtype=torch.float64)
    angles = (scale - 1) * 1000 * torch.exp(-rows * math.log(10000) / (size // 2 - 1))
    return torch.cat([angles.sin(), angles.cos()])


def embedding_case(name):
    torch.manual_seed(1)
    if name == "Flux":
        return flux(guidance=True), FLOW, normal(2, 16, 16), flux_condition(3), "guidance", torch.tensor([2.0])
    if name == "HunyuanVideo":
        module, config, state, condition, _, _ = hunyuan_video(guidance=True)
        return module, config, state, condition, "guidance", torch.tensor([2000.0])
    if name == "Sana":
        module, config, state, condition, _, _ = sana(guidance_embeds=True)
        return module, config, state, condition, "guidance", torch.tensor([0.2])
    module = diffusers.UNet2DConditionModel(**dict(unet_condition().config) | {"time_cond_proj_dim": 16})
    return module, DDPM, normal(2, 4, 8, 8), prompt(3), "timestep_cond", latent_consistency_embedding(2.0, 16)[None]


@pytest.mark.parametrize("name", ["Flux", "HunyuanVideo", "Sana", "UNet2DCondition"])
def test_an_embedded_scale_reaches_the_module(name):
    module, config, state, condition, key, expected = embedding_case(name)
    randomised(module)
    seen, first = scale_seen(module, from_diffusers(module, config, embedded_guidance=2.0), state, condition, key)
    # A scale of 2 is told as 2,000, whose product with a frequency float32 knows to 1.2e-4, and so are its sines.
    torch.testing.assert_close(seen, expected.float().expand(2, *expected.shape[1:]), atol=2e-4, rtol=1e-6)
    _, second = scale_seen(module, from_diffusers(module, config, embedded_guidance=6.0), state, condition, key)
    assert (first - second).abs().max() > 1e-6
    rows = torch.tensor([2.0, 6.0])
    _, both = scale_seen(module, from_diffusers(module, config, embedded_guidance=rows), state, condition, key)
    # Float32 products of other batches sum in another order: about a hundred roundings of numbers of order one.
    torch.testing.assert_close(both, torch.stack([first[0], second[1]]), atol=1e-5, rtol=1e-5)
    model = from_diffusers(module, config)
    with pytest.raises(ArgumentError, match=r"embedded_guidance: got nothing.*Pass embedded_guidance=3\.5"):
        model.bind(condition).evaluate(state, 0.3)
    message = r"embeds its guidance scale \(pass embedded_guidance=3\.5\); guidance= would run.*needs null="
    with pytest.raises(ArgumentError, match=message):
        model.bind(condition, guidance=4.0)
    model.bind(condition, null={"encoder_hidden_states": normal(1, 5, 8)}, guidance=4.0)


def test_a_scale_for_a_module_without_an_embedding():
    with pytest.raises(ArgumentError, match=r"embedded_guidance: got 3\.5, expected None: FluxTransformer2DModel with"):
        from_diffusers(flux().eval(), FLOW, embedded_guidance=3.5)
    with pytest.raises(ArgumentError, match=r"embedded_guidance: got 3\.5, expected None: UNet2DModel embeds no"):
        from_diffusers(unet().eval(), DDPM, embedded_guidance=3.5)
    with pytest.raises(ArgumentError, match="embedded_guidance: got nan, expected finite"):
        from_diffusers(flux(guidance=True).eval(), FLOW, embedded_guidance=math.nan)
    bound = from_diffusers(flux().eval(), FLOW).bind(flux_condition(3, guidance=True))
    with pytest.raises(ArgumentError, match=r"got condition\['guidance'\], expected None: FluxTransformer2DModel"):
        bound.evaluate(normal(2, 16, 16), 0.3)


def test_channels_that_are_a_condition():
    module = randomised(unet(in_channels=7))
    model = from_diffusers(module, DDPM, concatenated=4)
    assert (model.channels, model.split_variance) == (3, False)
    state, known = normal(2, 3, 8, 8), normal(2, 4, 8, 8, seed=4)
    (out,) = model.bind({"concatenated": known}).evaluate(state, 0.3)
    index = torch.full((2,), 699.0)
    assert torch.equal(out, module(torch.cat([state, known], 1), timestep=index, return_dict=False)[0])
    with pytest.raises(ArgumentError, match=r"condition: got .*expected a tensor 'concatenated' to append"):
        model.evaluate(state, 0.3)
    assert from_diffusers(unet(in_channels=7, out_channels=6).eval(), DDPM, concatenated=4).split_variance
    with pytest.raises(ArgumentError, match=r"in_channels=7, out_channels=3.*concatenated=n"):
        from_diffusers(unet(in_channels=7).eval(), DDPM)


def test_a_pipeline_brings_its_network_and_its_scheduler():
    module = randomised(unet())
    pipeline = diffusers.DDPMPipeline(module, diffusers.DDPMScheduler(prediction_type="v_prediction"))
    model = from_diffusers(pipeline)
    assert model.network is module
    assert (model.prediction.kind, model.interpolant.levels) == ("v", 1000)
    assert from_diffusers(pipeline, DDPM).prediction.kind == "noise"
    parts = {"unet": module, "vae": torch.nn.Identity(), "scheduler": pipeline.scheduler}
    decoding = SimpleNamespace(components=parts, scheduler=pipeline.scheduler)
    assert (model.latent, from_diffusers(decoding).latent) == (False, True)
    for parts, message in (
        (
            {"transformer": module, "transformer_2": module},
            "module: got transformer, transformer_2, expected",
        ),
        ({"transformer": None}, "module: got no unet and no transformer"),
    ):
        with pytest.raises(ArgumentError, match=message):
            from_diffusers(SimpleNamespace(components=parts, scheduler=None))


def test_autocast_is_entered_around_the_module_alone():
    module, config, state, condition, _, _ = FURTHER["AuraFlow"]()
    seen = []
    randomised(module).register_forward_pre_hook(lambda *_: seen.append(torch.is_autocast_enabled("cpu")))
    (out,) = from_diffusers(module, config, autocast=torch.bfloat16).bind(condition).evaluate(state, 0.3)
    (plain,) = from_diffusers(module, config).bind(condition).evaluate(state, 0.3)
    assert seen == [True, False]
    assert out.dtype == torch.float32
    assert not torch.is_autocast_enabled("cpu")
    assert 0 < (out - plain).abs().max() < 0.1 * plain.abs().max()


def test_every_family_has_a_module_in_the_tests():
    built = {type(make()[0]).__name__ for make in FURTHER.values()}
    before = {"UNet2DModel", "UNet2DConditionModel", "DiTTransformer2DModel", "PixArtTransformer2DModel"}
    assert built | before | {"SD3Transformer2DModel", "FluxTransformer2DModel"} == {*FAMILIES}
