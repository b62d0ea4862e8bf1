"""Flows in latent spaces: exact where the codec is a rotation, and the bundled autoencoder and flow of digits."""

from __future__ import annotations

import pytest
import torch

import pushforward as pf
from pushforward.errors import ArgumentError, DtypeError, ShapeError
from pushforward.models import GaussianOracle, Guidance, LatentCodec, MixtureOracle, bundled
from pushforward.models.nets import DigitAutoencoder, LatentUNet
from pushforward.models.training.train_latents import RECIPES as LATENT_RECIPES
from pushforward.models.training.train_latents import draw_known, latent_loss

A, _ = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64))
MEAN = torch.tensor([0.7, -0.4, 1.5], dtype=torch.float64)
COVARIANCE = torch.tensor([[0.3, 0.1, 0.0], [0.1, 0.5, -0.2], [0.0, -0.2, 0.9]], dtype=torch.float64)
START = torch.randn(6, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def test_sampling_latents_and_decoding_is_sampling_data() -> None:
    """z = s (A x - b) with orthogonal A: a rotation turns the whole flow; s and b move data and noise alike.

    Noise is rotated and scaled with the data where s = 1 and b = 0; the latent scale changes the path of a sample, and
    its law stays: mean and covariance of the decoded flow, which is affine in the start, are the data's.
    """
    codec = LatentCodec(lambda x: x @ A.T, lambda z: z @ A)
    data, latent = GaussianOracle(MEAN, COVARIANCE), GaussianOracle(A @ MEAN, A @ COVARIANCE @ A.T)
    for solver, steps in (("heun", 7), ("dpmpp_2m", 9)):
        x = pf.sample(data.model(), START, solver=solver, steps=steps, last_step="denoise")
        z = pf.sample(latent.model(), START @ A.T, solver=solver, steps=steps, last_step="denoise")
        assert (codec.decode(z) - x).abs().max() < 1e-8
        assert (codec.encode(codec.decode(z)) - z).abs().max() < 1e-13
    adaptive = pf.solve_ode(latent.model(), START @ A.T, [0.0, 1.0], rtol=1e-10, atol=1e-10).x[-1]
    exact = pf.sample(data.model(), START, solver="rk4", steps=100)
    assert (codec.decode(adaptive) - exact).abs().max() < 1e-8
    scaled = LatentCodec(codec.encoder, codec.decoder, scale=0.4, shift=1.5)
    moved = GaussianOracle(0.4 * (A @ MEAN - 1.5), 0.16 * A @ COVARIANCE @ A.T)
    basis = torch.cat([torch.zeros(1, 3), torch.eye(3)]).double()
    ends = scaled.decode(pf.solve_ode(moved.model(), basis, [0.0, 1.0], rtol=1e-10, atol=1e-10).x[-1])
    root = (ends[1:] - ends[:1]).T
    assert (ends[0] - MEAN).abs().max() < 1e-8
    assert (root @ root.T - COVARIANCE).abs().max() < 1e-8


def test_adaptive_sampling_with_guidance_keeps_its_tolerance() -> None:
    """dopri5 of two guided mixtures: the error at the end is below 50 tolerances, at both tolerances."""
    spreads = [[[0.1, 0.0], [0.0, 0.2]], [[0.2, 0.0], [0.0, 0.1]]]
    parts = {
        label: MixtureOracle([0.6, 0.4], [[centre, 0.0], [0.0, 1.0]], spreads)
        for label, centre in (("cond", 1.5), ("null", 0.5))
    }
    model = pf.models.composed(parts["cond"].model(), other=parts["null"].model())
    guided = Guidance(1.5, against="other")
    start = START[:, :2].contiguous()
    exact = pf.solve_ode(model, start, [0.0, 1.0], rtol=1e-11, atol=1e-11, guidance=guided).x[-1]
    for tolerance in (1e-4, 1e-6):
        x = pf.solve_ode(model, start, [0.0, 1.0], rtol=tolerance, atol=tolerance, guidance=guided).x[-1]
        assert (x - exact).abs().max() < 50 * tolerance


def test_the_bundled_autoencoder_gives_digits_back_and_its_latents_are_scaled() -> None:
    codec, model = pf.models.latent_codec(), pf.models.load("digits28-small")
    labels = torch.arange(20) % 10
    digits = pf.sample(model, (20, 1, 28, 28), solver="heun", steps=4, guidance=2.0, condition={"label": labels})
    z = codec.encode(digits.clamp(-1, 1))
    back = codec.decode(z)
    assert back.shape == digits.shape
    assert (back - digits.clamp(-1, 1)).square().mean() < 0.1 * digits.var()
    assert 0.6 < z.std() < 1.6, "twenty digits: about the spread of all"
    judge = bundled.load("digits28-classifier-b")
    assert (judge(back.clamp(-1, 1)).argmax(1) == labels).double().mean() >= 0.8


def test_the_bundled_flow_of_latents_makes_the_digit_asked_for() -> None:
    """Thirty digits with guidance: the share has a standard error of 0.09 at most; one in ten by chance."""
    labels = torch.arange(30) % 10
    z = pf.sample(pf.models.load("digits28-latent"), (30, 4, 7, 7), solver="heun", steps=6, guidance=2.0,
                  condition={"label": labels})  # fmt: skip
    seen = bundled.load("digits28-classifier-b")(pf.models.latent_codec().decode(z).clamp(-1, 1)).argmax(1)
    assert (seen == labels).double().mean() > 0.6


def test_what_is_known_reaches_the_network_and_nothing_known_is_the_default() -> None:
    torch.manual_seed(0)
    net = LatentUNet(width=16, embedding=32).double()
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.2)
    model = pf.models.adapt(net.requires_grad_(False), null={"label": torch.tensor([10])})
    painter = pf.models.ConcatCondition("known", 4, 5).on(model)
    x, label = torch.randn(2, 4, 7, 7).double(), {"label": torch.tensor([3, 4])}
    nothing = torch.cat([torch.zeros(1, 4, 7, 7), torch.ones(1, 1, 7, 7)], 1).double()
    plain = model.evaluate(x, 0.5, label)[0]
    assert torch.equal(painter.evaluate(x, 0.5, {**label, "known": nothing})[0], plain)
    assert not torch.equal(painter.evaluate(x, 0.5, {**label, "known": 1 - nothing})[0], plain)
    with pytest.raises(ShapeError, match=r"x: got 8 channels, expected 4 = state, or 9 = 4 state \+ 5 condition"):
        net(x.repeat(1, 2, 1, 1), torch.zeros(2), label["label"])
    with pytest.raises(ShapeError, match="label"):
        net(x, torch.zeros(2), label["label"][:1])
    with pytest.raises(DtypeError, match=r"x: got torch\.float32"):
        net(x.float(), torch.zeros(2), label["label"])
    for wrong in ({"width": 12}, {"heads": 3}):
        with pytest.raises(ArgumentError):
            LatentUNet(**wrong)


def test_training_shows_the_network_masks_of_all_four_sides() -> None:
    z = torch.ones(400, 4, 7, 7)
    known = draw_known(z, torch.Generator().manual_seed(0))
    latents, mask = known[:, :4], known[:, 4:]
    assert torch.equal(latents, 1 - mask.expand_as(latents))
    told = mask.flatten(1).mean(1) < 1
    assert 0.4 < told.double().mean() < 0.6  # four standard errors of a half
    corners = {tuple(m[0, [0, 0, 6, 6], [0, 6, 0, 6]].tolist()) for m in mask[told]}
    assert corners == {(0.0, 0.0, 1.0, 1.0), (1.0, 1.0, 0.0, 0.0), (0.0, 1.0, 0.0, 1.0), (1.0, 0.0, 1.0, 0.0)}


def test_the_loss_of_an_untrained_flow_is_that_of_the_zero_velocity() -> None:
    """Two variances of one: 2 per element, within four standard errors of 12,544 elements' squares."""
    torch.manual_seed(0)
    mean = torch.randn(64, 4, 7, 7)
    packed = torch.cat([mean, torch.zeros_like(mean)], 1)
    recipe = LATENT_RECIPES["digits28-latent"]
    net = LatentUNet(width=16, embedding=32)
    loss = latent_loss(net, packed, torch.zeros(64, dtype=torch.int64), recipe, torch.Generator().manual_seed(1))
    assert loss.item() == pytest.approx(2.0, abs=4 * 2 * (2 / mean.numel()) ** 0.5)


def test_bad_images_and_latents_are_named() -> None:
    net = DigitAutoencoder()
    with pytest.raises(ShapeError, match="height: got 30, expected a multiple of the autoencoder's stride 4"):
        net.encode(torch.zeros(1, 1, 30, 28))
    with pytest.raises(ShapeError, match=r"x: got \[1, 3, 28, 28\], expected \[B, 1, H, W\]"):
        net.encode(torch.zeros(1, 3, 28, 28))
    with pytest.raises(ShapeError, match=r"z: got \[1, 3, 7, 7\], expected \[B, 4, h, w\]"):
        net.decode(torch.zeros(1, 3, 7, 7))
    with pytest.raises(DtypeError, match=r"z: got torch\.float64"):
        net.decode(torch.zeros(1, 4, 7, 7, dtype=torch.float64))
    with pytest.raises(ArgumentError, match="width"):
        DigitAutoencoder(width=24)
    with pytest.raises(ArgumentError, match="channels"):
        DigitAutoencoder(channels=0)
    with pytest.raises(ArgumentError, match="name: got 'digits28-small', expected an autoencoder"):
        pf.models.latent_codec("digits28-small")
    with pytest.raises(ArgumentError, match="name: got 'digits28-autoencoder', expected a velocity network"):
        pf.models.load("digits28-autoencoder")
