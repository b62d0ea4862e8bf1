"""Similarity of pictures and texts under a model with two towers, such as CLIP in transformers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...errors import ArgumentError, ShapeError
from .context import entry, tensor_entry
from .describe import Described
from .images import ink_of

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True, repr=False, eq=False)
class CLIPSimilarity(Described):
    r"""Cosine of the features of a picture and of a text.

    .. math:: r(x) = \frac{\langle f(x), g(y) \rangle}{|f(x)| |g(y)|}

    Range: [-1, 1]. Differentiable in x if the model is; texts get no gradient. CLIPScore is 2.5 max(r, 0).

    The picture [B, 1 or 3, H, W] in [-1, 1] is brought to [0, 1], resized by an antialiased bicubic filter so that its
    short side is ``size``, cropped to its middle square and normalised, all in torch; a processor for files also rounds
    to eight bits, which has no gradient. A text is encoded once a call, however many rows share it.

    Args:
        model: An object with ``get_image_features(pixel_values=)`` and ``get_text_features(input_ids=, ...)``, which
            return features [B, F] or an output whose ``pooler_output`` they are: ``CLIPModel`` of transformers, or
            your own. Left where it is and in its dtype; x is moved to it.
        tokenizer: ``tokenizer(texts, padding=True, truncation=True, return_tensors="pt")`` returns the arguments of
            ``get_text_features``. Needed for texts; without it the context brings ``input_ids`` [B or 1, L] and perhaps
            ``attention_mask``.
        prompt: The text for all rows; None reads ``context["prompt"]``, a string or one a row, if there is a tokenizer.
        size: Side of the model's pictures; by default that of ``model.config.vision_config.image_size``.
        mean: Of the channels, in [0, 1]: those of CLIP by default.
        std: Of the channels.
        crop: Whether to keep proportions and crop (CLIP) or to stretch to the square (SigLIP).

    Raises:
        ArgumentError: The model lacks one of the two methods, nobody knows the size, a prompt without a tokenizer; when
            called, no text in the context.
        ShapeError: When called, pictures that are not [B, 1 or 3, H, W], features of another number of rows.

    Source:
        Radford et al. 2021, CLIP (constants of its preprocessing); Hessel et al. 2021, CLIPScore.
    """

    model: Any
    tokenizer: Callable[..., Mapping[str, Any]] | None = None
    prompt: str | None = None
    size: int | None = None
    mean: Sequence[float] = CLIP_MEAN
    std: Sequence[float] = CLIP_STD
    crop: bool = True

    differentiable = True

    def __post_init__(self) -> None:
        for method in ("get_image_features", "get_text_features"):
            if not callable(getattr(self.model, method, None)):
                raise ArgumentError("model", got=type(self.model).__name__, expected=f"an object with {method}")
        if self.size is None:
            vision = getattr(getattr(self.model, "config", None), "vision_config", None)
            size = getattr(vision, "image_size", None)
            if not isinstance(size, int):
                hint = "model.config.vision_config.image_size does not say it"
                raise ArgumentError("size", got=self.size, expected="the side of the model's pictures", hint=hint)
            object.__setattr__(self, "size", size)
        if self.prompt is not None and self.tokenizer is None:
            raise ArgumentError("tokenizer", got=None, expected="a tokenizer, as there is a prompt")

    @classmethod
    def from_processor(cls, model: Any, processor: Any, prompt: str | None = None) -> CLIPSimilarity:
        """With the tokenizer, size, mean and standard deviation of a processor (``CLIPProcessor`` of transformers).

        Raises:
            ArgumentError: The processor lacks one of them, or crops to another size than it resizes to.
        """
        pictures = getattr(processor, "image_processor", None)
        facts: dict[str, Any] = {name: getattr(pictures, name, None) for name in ("image_mean", "image_std", "size")}
        facts["tokenizer"] = getattr(processor, "tokenizer", None)
        missing = [name for name, fact in facts.items() if fact is None]
        if missing:
            raise ArgumentError("processor", got=f"one without {', '.join(missing)}", expected="a CLIPProcessor")
        crop = "shortest_edge" in facts["size"]
        side = facts["size"]["shortest_edge" if crop else "height"]
        cropped = getattr(pictures, "crop_size", None)
        if crop and cropped is not None and cropped["height"] != side:
            expected = f"the size it resizes to, {side}, as CLIP has it"
            raise ArgumentError("processor.crop_size", got=cropped["height"], expected=expected)
        mean, std = tuple(facts["image_mean"]), tuple(facts["image_std"])
        return cls(model, facts["tokenizer"], prompt, side, mean, std, crop)

    def __call__(self, x: Tensor, context: Any = None) -> Tensor:
        """Rewards [B], on the model's device."""
        rows = x.shape[0]
        images = _features(self.model.get_image_features(pixel_values=self.pixels(x)), rows, "image")
        with torch.no_grad():
            texts = self._texts(context, rows)
        return functional.cosine_similarity(images, texts.to(images), dim=1)

    def pixels(self, x: Tensor) -> Tensor:
        """What the image tower is given, [B, 3, size, size]."""
        ink = ink_of(x)
        if ink.shape[1] not in (1, 3):
            raise ShapeError("x", got=list(x.shape), expected="[B, 1 or 3, H, W]")
        assert self.size is not None
        size, sides = self.size, list(ink.shape[2:])
        short = min(sides)
        target = [side * size // short for side in sides] if self.crop else [size, size]
        if target != sides:  # the filter overshoots at edges, and pictures of eight bits saturate
            ink = functional.interpolate(ink, size=target, mode="bicubic", antialias=True).clamp(0, 1)
        top, left = ((side - size) // 2 for side in target)
        ink = ink[..., top : top + size, left : left + size].expand(-1, 3, -1, -1)
        mean, std = (torch.tensor(values, dtype=ink.dtype, device=ink.device) for values in (self.mean, self.std))
        return ((ink - mean[:, None, None]) / std[:, None, None]).to(self._like(ink))

    def _like(self, ink: Tensor) -> Tensor:
        """A tensor of the model's device and dtype; the pictures' if it has no parameters."""
        return next(self.model.parameters(), ink) if isinstance(self.model, nn.Module) else ink

    def _texts(self, context: Any, rows: int) -> Tensor:
        """Features of the rows' texts, [rows, F]: every distinct text is encoded once."""
        device = self._like(torch.empty(0)).device
        if self.tokenizer is None:
            ids = tensor_entry(context, "input_ids", self, rows, (None,))
            mask = torch.ones_like(ids)
            if "attention_mask" in context:
                mask = tensor_entry(context, "attention_mask", self, rows, (ids.shape[1],)).to(ids)
            distinct, which = torch.stack([ids, mask], 1).unique(dim=0, return_inverse=True)
            given = {"input_ids": distinct[:, 0].to(device), "attention_mask": distinct[:, 1].to(device)}
            return _features(self.model.get_text_features(**given), len(distinct), "text")[which.to(device)]
        prompts = [self.prompt] if self.prompt is not None else entry(context, "prompt", self)
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        if len(prompts) not in (1, rows) or not all(isinstance(prompt, str) for prompt in prompts):
            raise ShapeError("context['prompt']", got=f"{len(prompts)} entries", expected=f"{rows} strings, or one")
        texts = list(dict.fromkeys(prompts))
        encoded = self.tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        given = {key: value.to(device) for key, value in encoded.items()}
        features = _features(self.model.get_text_features(**given), len(texts), "text")
        return features[[texts.index(prompt) for prompt in prompts]].expand(rows, -1)


def _features(output: Any, rows: int, tower: str) -> Tensor:
    """The tensor [rows, F] of an output; transformers 5 wraps it."""
    features = output if isinstance(output, Tensor) else getattr(output, "pooler_output", None)
    if not isinstance(features, Tensor):
        raise ArgumentError(f"{tower} features", got=type(output).__name__, expected="a tensor, or a pooler_output")
    if features.ndim != 2 or features.shape[0] != rows:
        raise ShapeError(f"{tower} features", got=list(features.shape), expected=f"[{rows}, F]")
    return features
