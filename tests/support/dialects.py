"""One mixture of Gaussians behind the interface of every family that has an adapter.

Each network undoes its own dialect by hand: time, levels, input scale, order and names of the arguments, conditions,
sign, channels. None of it is taken from the library, so that an adapter and its network can only agree on what is so.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pushforward import models
from pushforward.models import DiscreteDDPM, MixtureOracle, Model

ROWS, CHANNELS, SIZE = 4, 4, 2
DIMENSIONS = CHANNELS * SIZE * SIZE
IMAGE, VIDEO = (ROWS, CHANNELS, SIZE, SIZE), (ROWS, CHANNELS, 1, SIZE, SIZE)
FRAMES, TOKENS = (ROWS, 1, CHANNELS, SIZE, SIZE), (ROWS, SIZE * SIZE, CHANNELS)
LABELS = torch.tensor([0, 1, 1, 0])
ANY = -1  # the label that means none
VARIANCES = (0.05, 0.1, 0.2, 0.3)
WEIGHTS = (0.3, 0.2, 0.4, 0.1)  # the first two components are class 0, the others class 1
MEANS = torch.randn(4, DIMENSIONS, generator=torch.Generator().manual_seed(5), dtype=torch.float64)

# Only D(x_t) on the straight path is taken from the oracle: everything else is arithmetic of this file.
ORACLES = {
    ANY: MixtureOracle(WEIGHTS, MEANS, list(VARIANCES)),
    0: MixtureOracle(WEIGHTS[:2], MEANS[:2], list(VARIANCES[:2])),
    1: MixtureOracle(WEIGHTS[2:], MEANS[2:], list(VARIANCES[2:])),
}


def estimates(x: Tensor, alpha: Tensor, sigma: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """``E[x_1 | x]`` and ``E[x_0 | x]`` for x = alpha x_1 + sigma x_0 of any shape, in float64, row by row."""
    flat, label = x.double().reshape(len(x), -1), label.expand(len(x))
    alpha, sigma = (torch.as_tensor(one, dtype=torch.float64).expand(len(x))[:, None] for one in (alpha, sigma))
    straight = flat / (alpha + sigma)
    time = (alpha / (alpha + sigma))[:, 0]
    clean = torch.zeros_like(flat)
    for name, oracle in ((name, ORACLES[name]) for name in set(label.tolist())):
        clean = torch.where((label == name)[:, None], oracle.denoised(straight, time), clean)
    return clean.reshape(x.shape), ((flat - alpha * clean) / sigma).reshape(x.shape)


def column(value: Tensor, like: Tensor) -> Tensor:
    return value.double().reshape(-1, *[1] * (like.ndim - 1))


def cumulative(betas: np.ndarray) -> np.ndarray:
    return np.cumprod(1 - betas)


def level_of_index(index: Tensor, products: np.ndarray) -> tuple[Tensor, Tensor]:
    """Alpha and sigma at a fractional index: log(sigma / alpha) is linear between levels."""
    curve = 0.5 * np.log((1 - products) / products)
    log_nu = torch.from_numpy(np.interp(index.double().numpy(), np.arange(len(products)), curve))
    nu = log_nu.exp()
    return 1 / (1 + nu**2).sqrt(), nu / (1 + nu**2).sqrt()


DDPM = cumulative(np.linspace(1e-4, 0.02, 1000))
SHORT = cumulative(np.linspace(2e-4, 0.04, 500))


def straight_level(time: Tensor) -> tuple[Tensor, Tensor]:
    t = time.double()
    return t, 1 - t


class Labelled(nn.Module):
    """A table of labels as DiT has it; its last row is the dropped label."""

    def __init__(self) -> None:
        super().__init__()
        self.y_embedder = SimpleNamespace(num_classes=2, embedding_table=SimpleNamespace(num_embeddings=3))

    @staticmethod
    def said(y: Tensor) -> Tensor:
        return torch.where(y == 2, ANY, y)


class EDM(nn.Module):
    """``net(x / alpha, sigma, class_labels)`` with one-hot labels; zeros mean none."""

    sigma_min, sigma_max, img_channels, label_dim = 0, math.inf, CHANNELS, 2

    @staticmethod
    def label(class_labels: Tensor) -> Tensor:
        return torch.where(class_labels.sum(1) == 0, ANY, class_labels.argmax(1))

    def forward(self, x: Tensor, sigma: Tensor, class_labels: Tensor) -> Tensor:
        return estimates(x, torch.ones(len(x)), sigma, self.label(class_labels))[0].to(x.dtype)


class RawEDM(EDM):
    """F inside the preconditioning, ``D = c_skip x + c_out F(c_in x, log(sigma) / 4)``."""

    def forward(self, x: Tensor, c_noise: Tensor, class_labels: Tensor) -> Tensor:
        sigma = (4 * c_noise.double()).exp()
        total = column((sigma**2 + 0.25).sqrt(), x)
        state = x.double() * total
        clean, _ = estimates(state, torch.ones(len(x)), sigma, self.label(class_labels))
        scale = column(sigma, x) * 0.5 / total
        return ((clean - 0.25 / total**2 * state) / scale).to(x.dtype)


class ADM(nn.Module):
    """``model(x, timesteps, y)`` told the index, times ``scale``; noise, or the clean picture, and a variance."""

    in_channels, out_channels = CHANNELS, 2 * CHANNELS

    def __init__(self, products: np.ndarray = DDPM, clean: bool = False) -> None:
        super().__init__()
        self.products, self.clean, self.scale = products, clean, 1000 / len(products)

    def forward(self, x: Tensor, timesteps: Tensor, y: Tensor) -> Tensor:
        level = level_of_index(timesteps.double() / self.scale, self.products)
        clean, noise = estimates(x, *level, self.said(y))
        answer = (clean if self.clean else noise).to(x.dtype)
        return torch.cat([answer, answer + 7], dim=1)

    @staticmethod
    def said(y: Tensor) -> Tensor:
        return y


class DiT(Labelled):
    """ADM's interface, and a table of labels."""

    in_channels, out_channels = CHANNELS, 2 * CHANNELS

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        _, noise = estimates(x, *level_of_index(t, DDPM), self.said(y))
        return torch.cat([noise, noise - 3], dim=1).to(x.dtype)


class SiT(Labelled):
    """``model(x, t, y)``, the data at 1, on three paths."""

    def __init__(self, path: str = "Linear", predicts: str = "velocity") -> None:
        super().__init__()
        self.path, self.predicts = path, predicts

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        t = t.double()
        quarter = math.pi / 2
        if self.path == "Linear":
            alpha, sigma, d_alpha, d_sigma = t, 1 - t, torch.ones_like(t), -torch.ones_like(t)
        elif self.path == "GVP":
            alpha, sigma = (quarter * t).sin(), (quarter * t).cos()
            d_alpha, d_sigma = quarter * sigma, -quarter * alpha
        else:
            log_alpha = -0.25 * (1 - t) ** 2 * (20 - 0.1) - 0.5 * (1 - t) * 0.1
            alpha, sigma = log_alpha.exp(), (1 - (2 * log_alpha).exp()).sqrt()
            d_alpha = alpha * (0.5 * (1 - t) * (20 - 0.1) + 0.05)
            d_sigma = -alpha * d_alpha / sigma
        clean, noise = estimates(x, alpha, sigma, self.said(y))
        velocity = column(d_alpha, x) * clean + column(d_sigma, x) * noise
        score = -noise / column(sigma, x)
        return {"velocity": velocity, "noise": noise, "score": score}[self.predicts].to(x.dtype)


class LFM(Labelled):
    """``model(t, x, y)``: the noise at 1, and noise minus data."""

    def forward(self, t: Tensor, x: Tensor, y: Tensor) -> Tensor:
        clean, noise = estimates(x, 1 - t.double(), t.double(), self.said(y))
        return (noise - clean).to(x.dtype)


class MetaVelocity(nn.Module):
    """``model(x=x, t=t, **extras)``."""

    def forward(self, *, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        clean, noise = estimates(x, *straight_level(t), label)
        return (clean - noise).to(x.dtype)


def velocity_function(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
    """``f(x, t, y)``."""
    clean, noise = estimates(x, *straight_level(t), y)
    return (clean - noise).to(x.dtype)


class KDenoiser(nn.Module):
    """``denoiser(x, sigma, **extra)``."""

    sigma_min, sigma_max = torch.tensor(0.01), torch.tensor(160.0)

    def forward(self, x: Tensor, sigma: Tensor, cond: Tensor) -> Tensor:
        return estimates(x, torch.ones(len(x)), sigma, cond)[0].to(x.dtype)


class CrossFlow(nn.Module):
    """A list of scales, of a network that is told to heed the source or not; what it heeds is in its x elsewhere."""

    def __init__(self, log_snr: bool = False) -> None:
        super().__init__()
        self.told_log_snr = log_snr

    def forward(self, x: Tensor, t: Any = None, log_snr: Any = None, null_indicator: Any = None) -> list[Tensor]:
        assert (log_snr is not None) == self.told_log_snr
        assert null_indicator.dtype == torch.bool
        time = (4 - log_snr.double()) / 8 if self.told_log_snr else t
        label = torch.where(null_indicator, ANY, LABELS.repeat(len(x) // ROWS))
        clean, noise = estimates(x, *straight_level(time), label)
        return [x[..., ::2], (clean - noise).to(x.dtype)]


class Score(nn.Module):
    """The score of a variance-exploding path, told its noise level."""

    def forward(self, x: Tensor, sigma: Tensor, y: Tensor) -> Tensor:
        _, noise = estimates(x, torch.ones(len(x)), sigma, y)
        return (-noise / column(sigma, x)).to(x.dtype)


class Diffusers(nn.Module):
    """A diffusers module by its class name: time and output as its family has them, a prompt that says the label."""

    def __init__(self, family: str, clock: Callable[[Tensor], tuple[Tensor, Tensor]], says: str, **config: Any) -> None:
        super().__init__()
        self.clock, self.says = clock, says
        self.config = {"_class_name": family, "in_channels": CHANNELS} | config
        self.doubled = config.get("out_channels") == 2 * CHANNELS or config.get("learn_sigma", False)
        self.eval()

    def forward(self, hidden_states: Tensor, timestep: Tensor, return_dict: bool = True, **condition: Any) -> Any:
        assert not return_dict
        x = hidden_states
        assert timestep.shape == (len(x),)
        if "class_labels" in condition:
            label = condition["class_labels"]
            label = torch.where(label == self.config.get("num_embeds_ada_norm", ANY), ANY, label)
        else:
            label = condition["encoder_hidden_states"].reshape(len(x)).long()
        alpha, sigma = self.clock(timestep)
        clean, noise = estimates(x, alpha, sigma, label)
        a, s = column(alpha, x), column(sigma, x)
        answer = {
            "epsilon": noise,
            "sample": clean,
            "v_prediction": a * noise - s * clean,
            "noise minus data": noise - clean,
            "data minus noise": clean - noise,
        }[self.says].to(x.dtype)
        return (torch.cat([answer, answer + 9], dim=1) if self.doubled else answer,)


class ZImage(nn.Module):
    """Lists in, lists out: a picture [C, 1, H, W] and a caption [L, D] a row."""

    config: dict[str, Any]

    def __init__(self) -> None:
        super().__init__()
        self.config = {"_class_name": "ZImageTransformer2DModel", "in_channels": CHANNELS}
        self.eval()

    def forward(self, x: list[Tensor], t: Tensor, cap_feats: list[Tensor], return_dict: bool = True) -> Any:
        assert not return_dict
        assert x[0].shape == (CHANNELS, 1, SIZE, SIZE)
        assert len(x) == len(cap_feats) == len(t)
        label = torch.stack([one[0, 0] for one in cap_feats]).long()
        clean, noise = estimates(torch.stack(x), *straight_level(t), label)
        return (list((clean - noise).to(x[0].dtype)),)


class TorchMixture(nn.Module):
    """The velocity in operations of torch alone, for compilers: ``network(x, t, y)``."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("means", MEANS)
        self.register_buffer("variances", torch.tensor(VARIANCES, dtype=torch.float64))
        groups = {0: (0, 1), 1: (2, 3), ANY: (0, 1, 2, 3)}
        shares = [[WEIGHTS[k] if k in groups[name] else 0.0 for k in range(4)] for name in (0, 1, ANY)]
        self.register_buffer("log_shares", torch.tensor(shares, dtype=torch.float64).log())

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        t = t[:, None]
        spread = t**2 * self.variances + (1 - t) ** 2
        centred = x.flatten(1)[:, None] - t[:, :, None] * self.means
        logs = self.log_shares[y] - 0.5 * (centred.square().sum(2) / spread + DIMENSIONS * spread.log())
        shares = torch.softmax(logs, dim=1)[:, :, None]
        pull = ((t * self.variances - (1 - t)) / spread)[:, :, None]
        return (shares * (self.means + pull * centred)).sum(1).reshape(x.shape)


@dataclass
class Dialect:
    """A network in an interface: its model, the shape of its states, its condition and null condition."""

    make: Callable[[torch.dtype], Model]
    shape: tuple[int, ...] = IMAGE
    condition: dict[str, Any] = field(default_factory=lambda: {"y": LABELS})
    null: dict[str, Any] | None = None
    doubles_only: bool = False


Y_NULL = {"y": torch.tensor([ANY])}
ONE_HOT = {"class_labels": torch.nn.functional.one_hot(LABELS, 2).double()}
PROMPT = {"encoder_hidden_states": LABELS.double().reshape(ROWS, 1, 1)}
NO_PROMPT = {"encoder_hidden_states": torch.full((1, 1, 1), float(ANY))}
CAPTION = {"cap_feats": LABELS.double().reshape(ROWS, 1, 1).expand(ROWS, 3, 2)}
NO_CAPTION = {"cap_feats": torch.full((1, 3, 2), float(ANY))}
INDEX = {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02, "num_train_timesteps": 1000}
FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 3.0}


def by_index(time: Tensor) -> tuple[Tensor, Tensor]:
    return level_of_index(time, DDPM)


def falling(scale: float) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    return lambda time: (1 - time.double() / scale, time.double() / scale)


def rising(scale: float) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    return lambda time: (time.double() / scale, 1 - time.double() / scale)


def prompted(
    family: str, scheduler: dict[str, Any], clock: Any, says: str, shape: Any = IMAGE, **config: Any
) -> Dialect:
    if scheduler is INDEX:
        scheduler = INDEX | {"prediction_type": says}
    return Dialect(
        lambda dtype: models.from_diffusers(Diffusers(family, clock, says, **config), scheduler, null=NO_PROMPT),
        shape,
        PROMPT,
    )


def classes(family: str, says: str, **config: Any) -> Dialect:
    null = None if "num_embeds_ada_norm" in config else {"class_labels": torch.tensor([ANY])}
    return Dialect(
        lambda dtype: models.from_diffusers(
            Diffusers(family, by_index, says, **config), INDEX | {"prediction_type": says}, null=null
        ),
        condition={"class_labels": LABELS},
    )


def exported(dtype: torch.dtype) -> Model:
    example = (torch.zeros(3, *IMAGE[1:]).double(), torch.full((3,), 0.5).double(), torch.zeros(3, dtype=torch.int64))
    return models.from_export(torch.export.export(TorchMixture(), example), null=Y_NULL)


def there_and_back(dtype: torch.dtype) -> Model:
    """Ours, offered as a denoiser of k-diffusion, and adapted again."""
    ours = models.from_sit(SiT("GVP"), "GVP")
    return models.from_k_diffusion(models.to_k_diffusion(ours), 0.01, 160.0, null={"y": torch.tensor([2])})


NOISE_DATA, DATA_NOISE = "noise minus data", "data minus noise"
DIALECTS: dict[str, Dialect] = {
    "plain function": Dialect(
        lambda dtype: models.adapt(lambda x, t, y: MetaVelocity()(x=x, t=t, label=y), null=Y_NULL)
    ),
    "EDM": Dialect(lambda dtype: models.from_edm(EDM(), dtype=dtype), condition=ONE_HOT),
    "EDM, raw": Dialect(
        lambda dtype: models.adapt(RawEDM(), "edm", "edm", null={"class_labels": torch.zeros(1, 2)}), condition=ONE_HOT
    ),
    "ADM": Dialect(lambda dtype: models.from_adm(ADM(), DiscreteDDPM.linear(), null=Y_NULL)),
    "ADM, clean, times rescaled": Dialect(
        lambda dtype: models.from_adm(
            ADM(SHORT, clean=True),
            DiscreteDDPM.linear(500, 2e-4, 0.04),
            "denoised",
            rescale_timesteps=True,
            null=Y_NULL,
        )
    ),
    "DiT": Dialect(lambda dtype: models.from_adm(DiT(), DiscreteDDPM.linear())),
    "SiT": Dialect(lambda dtype: models.from_sit(SiT())),
    "SiT, GVP": Dialect(lambda dtype: models.from_sit(SiT("GVP"), "GVP")),
    "SiT, VP, noise": Dialect(lambda dtype: models.from_sit(SiT("VP", "noise"), "VP", "noise")),
    "SiT, VP, score": Dialect(lambda dtype: models.from_sit(SiT("VP", "score"), "VP", "score")),
    "LFM": Dialect(lambda dtype: models.from_lfm(LFM())),
    "flow_matching": Dialect(
        lambda dtype: models.from_flow_matching(MetaVelocity(), null={"label": torch.tensor([ANY])}),
        condition={"label": LABELS},
    ),
    "k-diffusion": Dialect(
        lambda dtype: models.from_k_diffusion(KDenoiser(), null={"cond": torch.tensor([ANY])}),
        condition={"cond": LABELS},
    ),
    "k-diffusion, ours": Dialect(there_and_back),
    "score SDE": Dialect(
        lambda dtype: models.adapt(Score(), "score", models.VE(0.01, 160.0), time="nu", null=Y_NULL),
    ),
    "CrossFlow": Dialect(lambda dtype: models.from_crossflow(CrossFlow()), condition={}),
    "CrossFlow, log SNR": Dialect(
        lambda dtype: models.from_crossflow(CrossFlow(log_snr=True), log_snr_input=True), condition={}
    ),
    "torch.export": Dialect(exported, doubles_only=True),
    "UNet2D": classes("UNet2DModel", "epsilon"),
    "UNet2D, sample": classes("UNet2DModel", "sample"),
    "DiT of diffusers": classes("DiTTransformer2DModel", "epsilon", out_channels=2 * CHANNELS, num_embeds_ada_norm=2),
    "UNet2DCondition": prompted("UNet2DConditionModel", INDEX, by_index, "v_prediction"),
    "PixArt": prompted("PixArtTransformer2DModel", INDEX, by_index, "epsilon", out_channels=2 * CHANNELS),
    "HunyuanDiT": prompted("HunyuanDiT2DModel", INDEX, by_index, "v_prediction", learn_sigma=True),
    "SD3": prompted("SD3Transformer2DModel", FLOW, falling(1000.0), NOISE_DATA),
    "Flux": prompted("FluxTransformer2DModel", FLOW, falling(1.0), NOISE_DATA, TOKENS),
    "Flux2": prompted("Flux2Transformer2DModel", FLOW, falling(1.0), NOISE_DATA, TOKENS),
    "Chroma": prompted("ChromaTransformer2DModel", FLOW, falling(1.0), NOISE_DATA, TOKENS),
    "Qwen-Image": prompted("QwenImageTransformer2DModel", FLOW, falling(1.0), NOISE_DATA, TOKENS),
    "AuraFlow": prompted("AuraFlowTransformer2DModel", FLOW, falling(1.0), NOISE_DATA),
    "CogView4": prompted("CogView4Transformer2DModel", FLOW, falling(1000.0), NOISE_DATA),
    "Sana": prompted("SanaTransformer2DModel", FLOW, falling(1.0), NOISE_DATA, timestep_scale=0.001),
    "Lumina-Next": prompted("LuminaNextDiT2DModel", FLOW, rising(1.0), DATA_NOISE, learn_sigma=True),
    "Lumina2": prompted("Lumina2Transformer2DModel", FLOW, rising(1.0), DATA_NOISE),
    "Z-Image": Dialect(lambda dtype: models.from_diffusers(ZImage(), FLOW, null=NO_CAPTION), condition=CAPTION),
    "Wan": prompted("WanTransformer3DModel", FLOW, falling(1000.0), NOISE_DATA, VIDEO),
    "HunyuanVideo": prompted("HunyuanVideoTransformer3DModel", FLOW, falling(1000.0), NOISE_DATA, VIDEO),
    "LTX": prompted("LTXVideoTransformer3DModel", FLOW, falling(1000.0), NOISE_DATA, TOKENS),
    "Mochi": prompted("MochiTransformer3DModel", FLOW | {"invert_sigmas": True}, rising(1000.0), DATA_NOISE, VIDEO),
    "CogVideoX": prompted("CogVideoXTransformer3DModel", INDEX, by_index, "v_prediction", FRAMES),
}
