"""Codecs between data and latents."""

import math
from types import SimpleNamespace

import pytest
import torch
from tiny_modules import diffusers, normal

from pushforward.errors import ArgumentError, ShapeError
from pushforward.models import LatentCodec

BLOCKS = {"block_out_channels": (8,), "norm_num_groups": 4, "latent_channels": 4}
CONSTANTS = {
    "Stable Diffusion": {"scaling_factor": 0.18215},
    "SD3": {"scaling_factor": 1.5305, "shift_factor": 0.0609},
}


@pytest.mark.parametrize("name", CONSTANTS)
def test_the_constants_of_an_autoencoder_are_those_of_its_configuration(name):
    vae = diffusers.AutoencoderKL(**BLOCKS, **CONSTANTS[name]).eval().requires_grad_(False)
    codec = LatentCodec.from_vae(vae)
    scale, shift = CONSTANTS[name]["scaling_factor"], CONSTANTS[name].get("shift_factor", 0.0)
    assert (codec.scale, codec.shift) == (scale, shift)
    x = normal(2, 3, 8, 8)
    z = codec.encode(x)
    torch.testing.assert_close(z, (vae.encode(x).latent_dist.mode() - shift) * scale)
    torch.testing.assert_close(codec.decode(z), vae.decode(z / scale + shift).sample)
    assert codec.decode(z.double()).dtype == torch.float64


def test_other_autoencoders():
    tiny = diffusers.AutoencoderTiny(
        encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8), num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
    ).eval().requires_grad_(False)  # fmt: skip
    x = normal(1, 3, 8, 8)
    codec = LatentCodec.from_vae(tiny)
    torch.testing.assert_close(codec.encode(x), tiny.encode(x).latents)
    assert codec.decode(codec.encode(x)).shape == x.shape


def wan(**config):
    """An autoencoder whose configuration has a mean and a deviation for each channel (Wan, LTX, Qwen-Image)."""
    constants = {"latents_mean": [0.5, -1.0], "latents_std": [2.0, 4.0]} | config
    return SimpleNamespace(
        config=constants,
        encode=lambda x: SimpleNamespace(latent=3 * x),
        decode=lambda z, return_dict: (z / 3,),
    )


def test_constants_of_each_channel():
    codec = LatentCodec.from_vae(wan(scaling_factor=0.5))
    assert (codec.scale, codec.shift) == ((0.25, 0.125), (0.5, -1.0))
    x = normal(2, 2, 1, 3, 3)
    mean, deviation = (torch.tensor(one).reshape(1, 2, 1, 1, 1) for one in ([0.5, -1.0], [2.0, 4.0]))
    torch.testing.assert_close(codec.encode(x), 0.5 * (3 * x - mean) / deviation)
    torch.testing.assert_close(codec.decode(codec.encode(x)), x)
    with pytest.raises(ShapeError, match=r"latents: got \[2, 3\], expected \[B, 2, .*since shift has 2 numbers"):
        codec.encode(normal(2, 3))


def test_gradients_pass():
    z = torch.ones(1, 2, requires_grad=True)
    LatentCodec(abs, lambda latents: latents**2, scale=0.5).decode(z).sum().backward()
    assert torch.equal(z.grad, torch.full((1, 2), 8.0))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LatentCodec(abs, abs, 0.0), "scale: got 0.0, expected finite numbers other than 0"),
        (lambda: LatentCodec(abs, abs, (1.0, 0.0)), "scale: got"),
        (lambda: LatentCodec(abs, abs, ()), "scale: got"),
        (lambda: LatentCodec(abs, abs, 1.0, math.inf), "shift: got inf, expected finite numbers"),
        (lambda: LatentCodec(3, abs), "encoder: got int, expected a function"),
        (lambda: LatentCodec(abs, None), "decoder: got NoneType"),
        (lambda: LatentCodec.from_vae(abs), "vae: got builtin_function_or_method, expected an autoencoder"),
        (lambda: LatentCodec.from_vae(wan(latents_std=None)), "vae.config: got .*'latents_mean' and 'latents_std'"),
        (
            lambda: LatentCodec.from_vae(
                SimpleNamespace(config={}, encode=lambda x: x, decode=lambda z: z),
            ),
            "vae.config: got .*'scaling_factor'",
        ),
        (
            lambda: LatentCodec.from_vae(
                SimpleNamespace(config={"scaling_factor": 1.0}, encode=lambda x: x, decode=lambda z: z)
            ).encode(torch.ones(1, 2)),
            "vae.encode: got Tensor, expected something with latent_dist",
        ),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ArgumentError, match=message):
        make()
