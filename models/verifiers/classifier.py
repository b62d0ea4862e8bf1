"""Class probability under a classifier: the reward of a class-conditional search, and its held-out judge."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import ArgumentError, DtypeError, ShapeError
from .. import bundled
from .context import tensor_entry
from .describe import Described


@dataclass(frozen=True, repr=False)
class ClassProbability(Described):
    r"""The probability of a class, or its logarithm, under a classifier.

    .. math:: r(x) = \log p(y \mid x) = z_y - \log \textstyle\sum_k e^{z_k}, \quad \text{or} \quad p(y \mid x)

    with z the logits at x clamped to [-1, 1], the range in which bundled models draw. Range: (-inf, 0], or [0, 1].
    Differentiable; a pixel outside the range has no gradient.

    Search with "digits28-classifier-a" and judge with "digits28-classifier-b", which differ in their seeds only: what
    was optimised for a classifier is no evidence for it.

    Args:
        classifier: A bundled classifier's name, or a module that maps x to logits [B, K]. A bundled one is loaded once
            for each device; it runs in float64 for float64 samples and in float32 else. A module runs where and in
            what dtype it is, and x is cast to it.
        label: The class y in [0, K); None reads ``context["label"]``, integers [B or 1].
        log: The logarithm (default) or the probability.

    Raises:
        UnknownNameError: No bundled network has this name.
        ArgumentError: It is no classifier; a label that is no class; when called, no label anywhere.
        ShapeError: When called, logits that are not [B, K]; samples that the classifier does not take.

    Example:
        >>> grey = torch.zeros(1, 1, 28, 28)
        >>> sum(ClassProbability(label=k, log=False)(grey) for k in range(10)).round(decimals=4)
        tensor([1.])
    """

    classifier: str | nn.Module = "digits28-classifier-a"
    label: int | None = None
    log: bool = True

    differentiable = True

    def __post_init__(self) -> None:
        if isinstance(self.classifier, str):
            card = bundled.card(self.classifier)
            if card["architecture"]["name"] != "DigitClassifier":
                expected = "a bundled classifier: digits28-classifier-a or digits28-classifier-b"
                raise ArgumentError("classifier", got=repr(self.classifier), expected=expected)
        elif not callable(self.classifier):
            got = type(self.classifier).__name__
            raise ArgumentError("classifier", got=got, expected="a bundled classifier's name or a module")
        if self.label is not None and (not isinstance(self.label, int) or self.label < 0):
            raise ArgumentError("label", got=repr(self.label), expected="a class >= 0, or None for the context's")

    def __call__(self, x: Tensor, context: Any = None) -> Tensor:
        """Rewards [B], in the dtype of the logits."""
        rows = x.shape[0]
        logits = self.logits(x)
        if logits.ndim != 2 or logits.shape[0] != rows:
            raise ShapeError("logits", got=list(logits.shape), expected=f"[{rows}, K], one row a sample")
        chosen = self._labels(context, rows, logits.shape[1]).to(logits.device)
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        values = wide.log_softmax(1).gather(1, chosen[:, None])[:, 0]
        return values if self.log else values.exp()

    def logits(self, x: Tensor) -> Tensor:
        """What the classifier says of pictures clamped to [-1, 1], [B, K]."""
        network = self.classifier
        if isinstance(network, str):
            if not x.is_floating_point():
                raise DtypeError("x", got=str(x.dtype), expected="a floating dtype, pixels in [-1, 1]")
            dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
            network = _loaded(network, str(x.device), dtype)
            return network(x.to(dtype).clamp(-1, 1))
        first = next(iter(network.parameters()), None) if isinstance(network, nn.Module) else None
        return network((x if first is None else x.to(first)).clamp(-1, 1))

    def _labels(self, context: Any, rows: int, classes: int) -> Tensor:
        if self.label is not None:
            labels = torch.full((rows,), self.label)
        else:
            labels = tensor_entry(context, "label", self, rows, ())
            if labels.is_floating_point() or labels.dtype == torch.bool:
                raise DtypeError("context['label']", got=str(labels.dtype), expected="integers")
        outside = (labels < 0) | (labels >= classes)
        if bool(outside.any()):
            row = int(outside.nonzero()[0])
            got = f"{int(labels[row])} in row {row}"
            hint = "The unconditional label of a model is no class"
            raise ArgumentError("label", got=got, expected=f"a class in [0, {classes})", hint=hint)
        return labels.long()


@lru_cache(maxsize=8)
def _loaded(name: str, device: str, dtype: torch.dtype) -> nn.Module:
    return bundled.load(name, device, dtype)
