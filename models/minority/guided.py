"""Minority guidance: a model whose score is bent towards rare data by the gradient of a classifier of noisy states."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from ...errors import ArgumentError, NotFiniteError, ShapeError
from ..bound import Bound, Branches, Times
from ..interpolants import Interpolant, equal_noise
from ..trees import root, tree_map
from ..wrapping import BoundWrapped, WrappedModel


@dataclass(frozen=True, eq=False)
class MinorityGuided(WrappedModel):
    r"""A model of :math:`p_t(x) \, p(L - 1 | x_t)^w`: its score is :math:`s + w \nabla_x \log p(L - 1 | x, t)`.

    The gradient g goes into whatever the network predicts: :math:`D + w (\sigma^2 / \alpha) g`, which is
    :math:`v + w (W \sigma / \alpha) g` with the Wronskian :math:`W = \alpha' \sigma - \alpha \sigma'`. An evaluation
    costs one backward pass of the classifier and none of the network. All branches of a guided model get the same
    gradient, and their weights sum to one.

    Make one with ``MinorityGuided.around(model, classifier=..., scale=...)``.

    Attributes:
        classifier: ``classifier(x, t, **condition)`` returns logits [B, L] for states x on ``path`` at times t [B].
        scale: w, a number or a function of t; where it is 0 the classifier is not called.
        level: Whose probability is raised; None, the rarest, L - 1.
        start: First time of guidance. The exact gradient vanishes like alpha at t = 0, where it is multiplied by
            sigma / alpha; a learned one does not.
        path: The path of the states that the classifier knows; by default the model's.

    Raises:
        ArgumentError: No function, a scale that is not finite, a start outside [0, 1], and when called, logits that do
            not depend on the state.
        ShapeError: When called, logits that are not [B, L].
        NotFiniteError: When called, a gradient; names the time and the share of samples.

    Source:
        Dhariwal & Nichol 2021, section 4; Um, Lee & Ye 2023, section 4.3 (250 ancestral steps, w = 3.5).

    Example:
        >>> from pushforward.models import MixtureOracle
        >>> oracle = MixtureOracle([0.95, 0.05], [[-1.0], [1.0]], 0.09)
        >>> exact = lambda x, t: oracle.log_prob(x, t)[:, None] * torch.tensor([0.0, -1.0])  # rare: of low density
        >>> guided = MinorityGuided.around(oracle.model(), classifier=exact, scale=1.0)
        >>> x = torch.tensor([[-0.4]])
        >>> bool(guided.evaluate(x, 0.5)[0] > oracle.velocity(x, 0.5))
        True
    """

    classifier: Callable[..., Tensor] = field(kw_only=True)
    scale: float | Callable[[float], float] = field(default=1.0, kw_only=True)
    level: int | None = field(default=None, kw_only=True)
    start: float = field(default=0.1, kw_only=True)
    path: Interpolant | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if not callable(self.classifier):
            raise ArgumentError("classifier", got=type(self.classifier).__name__, expected="a function or a module")
        if not callable(self.scale) and not math.isfinite(self.scale):
            raise ArgumentError("scale", got=self.scale, expected="a finite number or a function of t")
        if not 0 <= self.start <= 1:
            raise ArgumentError("start", got=self.start, expected="a time in [0, 1]")
        if self.path is None:
            object.__setattr__(self, "path", self.inner.interpolant)

    def wrap(self, bound: Bound) -> Bound:
        """See :meth:`WrappedModel.wrap`."""
        return BoundMinorityGuided(self, bound)

    def numbers(self, t: float) -> tuple[float, float, float]:
        """What multiplies the gradient in the raw output, the classifier's time, and its multiple of the input."""
        weight = float(self.scale(t)) if callable(self.scale) else float(self.scale)
        alpha, sigma, _, _ = self.interpolant(t)
        if weight == 0 or t < self.start or alpha == 0 or sigma == 0:
            return 0.0, 0.5, 1.0
        time, ratio = equal_noise(self.interpolant, t, cast(Interpolant, self.path))
        read = self.prediction
        return weight * ratio * sigma**2 / (alpha * read.denoised(t).output), time, ratio / read.input_scale(t)


class BoundMinorityGuided(BoundWrapped):
    """One run of a :class:`MinorityGuided`."""

    def answer(self, x: Tensor, t: Times, branches: Branches) -> tuple[Tensor, ...]:
        """What the model inside answers, with the gradient in it."""
        outputs = super().answer(x, t, branches)
        distinct, which = np.unique(np.broadcast_to(np.asarray(t, dtype=np.float64), x.shape[:1]), return_inverse=True)
        model = cast(MinorityGuided, self._model)
        table = np.array([model.numbers(time) for time in distinct.tolist()]).reshape(-1, 3)
        if not table[:, 0].any():
            return outputs
        wide = torch.promote_types(x.dtype, torch.float32)
        factor, time, multiple = torch.from_numpy(table[which].T.copy()).to(x.device, wide)
        columns = (-1, *[1] * (x.ndim - 1))
        gradient = self._gradient(x.to(wide) * multiple.reshape(columns), time, float(distinct[0]))
        correction = (factor.reshape(columns) * gradient).to(x.dtype)
        return tuple(output + correction for output in outputs)

    def _gradient(self, state: Tensor, times: Tensor, t: float) -> Tensor:
        """Of the log-probability of the level, [B, *D]; part of the graph where the state is."""
        model, keep = cast(MinorityGuided, self._model), torch.is_grad_enabled() and state.requires_grad
        with torch.inference_mode(False), torch.enable_grad():
            if not keep:
                state = state.detach().clone().requires_grad_()
            logits = model.classifier(state, usable(times), **self._condition(len(state)))
            if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(state):
                got = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
                raise ShapeError("classifier output", got=got, expected=f"logits [{len(state)}, L]")
            level = logits.shape[1] - 1 if model.level is None else model.level
            if not 0 <= level < logits.shape[1]:
                raise ArgumentError("level", got=level, expected=f"one of the {logits.shape[1]} levels")
            chosen = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(1)[:, level].sum()
            found = None
            if chosen.requires_grad:
                (found,) = torch.autograd.grad(chosen, state, create_graph=keep, allow_unused=True)
        if found is None:
            hint = "Was it detached, or computed under torch.no_grad()?"
            raise ArgumentError("classifier", got="logits that do not depend on the state", expected="some", hint=hint)
        bad = ~found.detach().isfinite().flatten(1).all(1)
        if bool(bad.any()):
            got = f"NaN or infinity at t = {t:.4g} in {int(bad.sum())} of {len(bad)} samples"
            raise NotFiniteError("gradient of the classifier", got=got, expected="a finite one")
        return found

    def _condition(self, rows: int) -> dict[str, Any]:
        """The condition of the run, a row for each sample."""

        def expanded(path: str, leaf: Any) -> Any:
            if not isinstance(leaf, Tensor):
                return leaf
            shared = leaf.ndim == 0 or root(path) in self._model.shared or leaf.shape[0] == rows
            return usable(leaf if shared else leaf.expand(rows, *leaf.shape[1:]))

        return tree_map(expanded, self.conditions["cond"] or {})


def usable(tensor: Tensor) -> Tensor:
    """A tensor that autograd may keep, also where a run is in inference mode."""
    return tensor.clone() if tensor.is_inference() else tensor
