"""Adapters: towers of images and texts, and decoders of latents."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pushforward.errors import ArgumentError, ShapeError
from pushforward.models.verifiers import CLIPSimilarity, Decoded, Ink, evaluate, evaluate_with_graph
from pushforward.models.verifiers.clip import CLIP_MEAN, CLIP_STD

SIZE = 8


class Towers(nn.Module):
    """Random linear maps of pixels and of counts of tokens: features of four numbers."""

    def __init__(self, wrapped: bool = False) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.image = nn.Parameter(torch.randn(3 * SIZE * SIZE, 4, generator=generator))
        self.text = nn.Parameter(torch.randn(11, 4, generator=generator))
        self.config = SimpleNamespace(vision_config=SimpleNamespace(image_size=SIZE))
        self.wrapped, self.encoded = wrapped, 0

    def get_image_features(self, pixel_values: Tensor) -> Any:
        return self.out(pixel_values.flatten(1) @ self.image)

    def get_text_features(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        self.encoded += len(input_ids)
        return self.out((self.text[input_ids] * attention_mask[..., None]).sum(1))

    def out(self, features: Tensor) -> Any:
        return SimpleNamespace(pooler_output=features) if self.wrapped else features


def tokenizer(texts: list[str], padding: bool, truncation: bool, return_tensors: str) -> dict[str, Tensor]:
    assert (padding, truncation, return_tensors) == (True, True, "pt")
    length = max(map(len, texts))
    ids = torch.tensor([[ord(letter) % 11 for letter in text.ljust(length)] for text in texts])
    mask = torch.tensor([[1] * len(text) + [0] * (length - len(text)) for text in texts])
    return {"input_ids": ids, "attention_mask": mask}


def images(count: int, channels: int = 3, height: int = SIZE, width: int = SIZE) -> Tensor:
    return 1.8 * torch.rand(count, channels, height, width, generator=torch.Generator().manual_seed(1)) - 0.9


def by_hand(towers: Towers, x: Tensor, texts: list[str]) -> np.ndarray:
    """The cosine, in NumPy, of pictures that need no resizing; each text by itself."""
    pixels = ((x.double().numpy() + 1) / 2 - np.reshape(CLIP_MEAN, (3, 1, 1))) / np.reshape(CLIP_STD, (3, 1, 1))
    f = pixels.reshape(len(x), -1) @ towers.image.detach().double().numpy()
    g = np.stack([towers.text.detach().double().numpy()[[ord(c) % 11 for c in text]].sum(0) for text in texts])
    return (f * g).sum(1) / np.linalg.norm(f, axis=1) / np.linalg.norm(g, axis=1)


@pytest.mark.parametrize("wrapped", [False, True])
def test_the_score_is_the_cosine_of_the_features(wrapped: bool) -> None:
    towers, x, texts = Towers(wrapped), images(4), ["a cat", "dog", "a cat", "two dogs"]
    reward = CLIPSimilarity(towers, tokenizer)
    np.testing.assert_allclose(evaluate(reward, x, {"prompt": texts}), by_hand(towers, x, texts), atol=2e-6)
    assert towers.encoded == 3, "every text once"
    for context, prompt in (({"prompt": "dog"}, None), ({"prompt": ["dog"]}, None), (None, "dog")):
        told = evaluate(CLIPSimilarity(towers, tokenizer, prompt), x, context)
        np.testing.assert_allclose(told, by_hand(towers, x, ["dog"] * 4), atol=2e-6)
    towers.encoded = 0
    tokens = tokenizer(texts, True, True, "pt")
    np.testing.assert_allclose(evaluate(CLIPSimilarity(towers), x, dict(tokens)), by_hand(towers, x, texts), atol=2e-6)
    assert towers.encoded == 3


def test_gradients_reach_the_picture_alone() -> None:
    towers = Towers().double()
    x = images(2).double().requires_grad_()
    reward = CLIPSimilarity(towers, tokenizer, "dog")
    assert torch.autograd.gradcheck(lambda x: evaluate_with_graph(reward, x), (x,), fast_mode=True)
    evaluate_with_graph(reward, x).sum().backward()
    assert towers.text.grad is None
    assert towers.image.grad is not None
    large = images(1, 1, 12, 10).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: evaluate_with_graph(reward, x), (large,), fast_mode=True)


def test_pictures_are_brought_to_the_size_and_channels_of_the_model() -> None:
    reward = CLIPSimilarity(Towers(), tokenizer, "dog")
    grey = images(2, 1)
    assert torch.equal(reward.pixels(grey), reward.pixels(grey.expand(-1, 3, -1, -1)))
    constant = torch.full((1, 3, 20, 30), 0.5)
    expected = (0.75 - torch.tensor(CLIP_MEAN)) / torch.tensor(CLIP_STD)
    for crop in (True, False):
        pixels = CLIPSimilarity(Towers(), size=5, crop=crop).pixels(constant)
        assert pixels.shape == (1, 3, 5, 5)
        torch.testing.assert_close(pixels, expected[None, :, None, None].expand(1, 3, 5, 5), rtol=1e-5, atol=1e-6)
    edge = torch.ones(1, 3, 6, 6)
    edge[..., :3] = -1  # the filter would overshoot black and white
    seen = CLIPSimilarity(Towers(), size=20, mean=(0, 0, 0), std=(1, 1, 1)).pixels(edge)
    assert (seen.min(), seen.max()) == (0, 1)
    wide = torch.full((1, 3, 8, 24), -0.9)
    wide[..., 8:16] = 0.9
    assert CLIPSimilarity(Towers(), size=8).pixels(wide).flatten(2).std(2).max() == 0, "only the middle square is left"
    assert CLIPSimilarity(Towers(), size=8, crop=False).pixels(wide).flatten(2).std(2).min() > 0.1


def test_preprocessing_is_that_of_transformers() -> None:
    """Its filter runs on bytes, rounding after each of two passes: within 1.5 levels of 255, here of 1 / std each."""
    pytest.importorskip("transformers")
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    processor = CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    y, x = np.mgrid[0:40, 0:57]
    waves = [np.sin(x / a + y / b) for a, b in ((6.0, 9.0), (11.0, 5.0), (7.0, -8.0))]
    levels = np.stack([np.round(127.5 + 100 * wave) for wave in waves], -1).astype(np.uint8)
    expected = torch.as_tensor(np.array(processor(images=levels, return_tensors="np")["pixel_values"]))
    picture = torch.from_numpy(levels).permute(2, 0, 1)[None].float() / 127.5 - 1
    wrapped = SimpleNamespace(image_processor=processor, tokenizer=tokenizer)
    reward = CLIPSimilarity.from_processor(Towers(), wrapped, "dog")
    assert (reward.size, reward.crop, reward.mean) == (16, True, CLIP_MEAN)
    assert (reward.pixels(picture) - expected).abs().max() < 1.5 / 255 / min(CLIP_STD)


def test_a_model_of_transformers_serves() -> None:
    pytest.importorskip("transformers")
    from transformers import CLIPConfig, CLIPModel

    side = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {"vocab_size": 20, "max_position_embeddings": 8, "eos_token_id": 19, "bos_token_id": 0, "pad_token_id": 1}
    config = CLIPConfig(
        text_config=side | text, vision_config=side | {"image_size": 16, "patch_size": 8}, projection_dim=6
    )
    torch.manual_seed(0)
    model = CLIPModel(config).eval()
    ids = torch.tensor([[0, 5, 7, 19], [0, 9, 3, 19], [0, 5, 7, 19]])
    x = images(3, 3, 16, 16)
    reward = CLIPSimilarity(model)
    told = evaluate(reward, x, {"input_ids": ids})
    with torch.no_grad():
        whole = model(input_ids=ids, pixel_values=reward.pixels(x), attention_mask=torch.ones_like(ids))
    expected = (whole.image_embeds * whole.text_embeds).sum(1).double()
    torch.testing.assert_close(told, expected, rtol=0, atol=1e-5)
    x = x.requires_grad_()
    (slope,) = torch.autograd.grad(evaluate_with_graph(reward, x, {"input_ids": ids}).sum(), x)
    assert slope.abs().amax((1, 2, 3)).min() > 0


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda t: CLIPSimilarity(nn.Identity()), "model: got Identity, expected an object with get_image_features"),
        (lambda t: CLIPSimilarity(t, prompt="dog"), "tokenizer: got None|tokenizer: expected"),
        (lambda t: CLIPSimilarity.from_processor(t, object()), "one without image_mean, image_std, size, tokenizer"),
        (lambda t: evaluate(CLIPSimilarity(t, tokenizer), images(2)), r"context\['prompt'\]"),
        (lambda t: evaluate(CLIPSimilarity(t), images(2), {}), r"context\['input_ids'\]"),
        (lambda t: evaluate(CLIPSimilarity(t, tokenizer, "dog"), images(2, 2)), r"x: got \[2, 2, 8, 8\]"),
        (
            lambda t: CLIPSimilarity(t, tokenizer)(images(3), {"prompt": ["a", "b"]}),
            "got 2 entries, expected 3 strings",
        ),
    ],
)
def test_what_does_not_fit_is_refused(call: Any, said: str) -> None:
    with pytest.raises(ArgumentError, match=said):
        call(Towers())


def test_what_towers_return_is_checked() -> None:
    towers = Towers()
    del towers.config
    with pytest.raises(ArgumentError, match=r"size: .*vision_config.image_size does not say it"):
        CLIPSimilarity(towers, tokenizer)
    reward = CLIPSimilarity(towers, tokenizer, "dog", size=SIZE)
    towers.get_image_features = lambda pixel_values: pixel_values  # type: ignore[method-assign]
    with pytest.raises(ShapeError, match=r"image features: got \[2, 3, 8, 8\], expected \[2, F\]"):
        reward(images(2))
    towers.get_image_features = lambda pixel_values: "no"  # type: ignore[method-assign]
    with pytest.raises(ArgumentError, match="image features: got str"):
        reward(images(2))
    assert repr(reward) == f"CLIPSimilarity(model=Towers, tokenizer=tokenizer, prompt='dog', size={SIZE})"


# --- latents ------------------------------------------------------------------------------------------------------


def test_a_reward_of_decoded_latents() -> None:
    reward = Decoded(Ink(), lambda z: z.repeat_interleave(2, -1))
    assert evaluate(reward, torch.zeros(3, 1, 4, 4)).tolist() == [0.5] * 3
    assert reward.differentiable is True
    assert Decoded(lambda x, context: x.sum(1), torch.exp).differentiable is None
    with pytest.raises(ShapeError, match=r"decoded samples: got .*, expected a tensor of 3 rows"):
        evaluate(Decoded(Ink(), lambda z: z[:1]), torch.zeros(3, 1, 4, 4))
    with pytest.raises(ArgumentError, match="decode: got int"):
        Decoded(Ink(), 3)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="vae: got Identity, expected an autoencoder with encode, decode"):
        Decoded.from_vae(Ink(), nn.Identity())


def test_an_autoencoder_of_diffusers_decodes_scaled_latents() -> None:
    pytest.importorskip("diffusers")
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, latent_channels=2, scaling_factor=0.25).eval()
    z = torch.randn(2, 2, 4, 4, generator=torch.Generator().manual_seed(2))
    for shift in (None, 0.1):
        vae.register_to_config(shift_factor=shift)
        with torch.no_grad():
            pictures = vae.decode(z / 0.25 + (shift or 0.0)).sample
        assert torch.equal(evaluate(Decoded.from_vae(Ink(), vae), z), evaluate(Ink(), pictures))
    reward = Decoded.from_vae(Ink(), vae)
    z = z.requires_grad_()
    (slope,) = torch.autograd.grad(evaluate_with_graph(reward, z).sum(), z)
    assert slope.abs().amax((1, 2, 3)).min() > 0
    assert repr(reward) == "Decoded(reward=Ink(), decode=LatentCodec.decode)"
