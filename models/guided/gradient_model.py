"""Models moved by a gradient: the machinery that gradient guidance and steering share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from ...errors import ArgumentError, NotFiniteError, ShapeError
from ..bound import Bound, Branches, Index, Times
from ..branch_weights import CONDITIONAL
from ..spaces import Scalar, column, combined, on_device, read_as
from ..trees import tree_map
from ..wrapping import BoundWrapped, WrappedModel

Factor: TypeAlias = float | np.ndarray
"""A number for all rows, or float64 [B] on the host."""

STATE, DENOISER, ESTIMATE = "state", "denoiser", "estimate"


@dataclass(frozen=True, eq=False)
class GradientModel(WrappedModel):
    """A model whose output is moved along the gradient of a number a sample: one backward pass an evaluation.

    A subclass says what is differentiated and by which factor the gradient enters the output.
    """

    @property
    @abstractmethod
    def differentiates(self) -> str:
        """By what: "state", "denoiser" (the state, through the network) or "estimate" (the clean estimate)."""

    @property
    def of_unit_norm(self) -> bool:
        """Whether a sample's gradient by its state, or by its estimate, is divided by its own norm."""
        return False

    @property
    @abstractmethod
    def given(self) -> Mapping[str, Any]:
        """What the objective is given besides the point and the time: tensors of batch B or 1, or trees of them."""

    @abstractmethod
    def factor(self, t: float) -> float:
        """What multiplies the gradient in the network's output at ``t``; 0 where nothing need be differentiated."""

    def seen(self, t: float) -> tuple[float, float]:
        """When, and at which multiple of the state, a gradient by the state is taken; ``t`` and 1 by default."""
        return t, 1.0

    def told(self, bound: Bound, rows: int, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """What the objective of ``rows`` rows is told: what it is given, and what else it takes of the run."""
        del bound, rows
        return given

    @abstractmethod
    def objective(self, point: Tensor, t: Times, given: Mapping[str, Any]) -> Tensor:
        """The number to follow, [B]; ``point`` is the state or the clean estimate."""

    def wrap(self, bound: Bound) -> Bound:
        """See :meth:`WrappedModel.wrap`."""
        return BoundGradient(self, bound, self.given)


class BoundGradient(BoundWrapped):
    """What a run evaluates of a :class:`GradientModel`.

    Attributes:
        backwards: How often a gradient was taken so far.
    """

    def __init__(self, model: GradientModel, inner: Bound, given: Mapping[str, Any]) -> None:
        super().__init__(model, inner)
        self.steered, self.given, self.backwards = model, given, 0

    def select(self, index: Index) -> Bound:
        """See :meth:`Bound.select`: what the objective is given is gathered as conditions are."""
        chosen = torch.as_tensor(index, dtype=torch.int64)

        def gather(path: str, leaf: Any) -> Any:
            del path
            rows = isinstance(leaf, Tensor) and leaf.ndim > 0 and leaf.shape[0] > 1
            return leaf.index_select(0, chosen.to(leaf.device)) if rows else leaf

        return BoundGradient(self.steered, self.inner.select(index), tree_map(gather, dict(self.given)))

    def check_rows(self, rows: int) -> None:
        """See :meth:`Bound.check_rows`.

        Raises:
            ShapeError: Something given that belongs to neither ``rows`` rows nor to all; names it.
        """

        def check(path: str, leaf: Any) -> None:
            if isinstance(leaf, Tensor) and leaf.ndim > 0 and leaf.shape[0] not in (1, rows):
                raise ShapeError(f"given {path!r}", got=f"a batch of {leaf.shape[0]}", expected=f"{rows} rows, or 1")

        tree_map(check, dict(self.given))
        self.inner.check_rows(rows)

    def answer(self, x: Tensor, t: Times, branches: Branches) -> tuple[Tensor, ...]:
        """The outputs, moved; those of the model inside where the factor is 0."""
        model = self.steered
        factor = self._factor(t)
        if not np.any(factor):
            return self.inner.answer(x, t, branches)
        if model.differentiates == STATE:  # the same for all branches, whose weights sum to one
            outputs = self.inner.answer(x, t, branches)
            gradient, factor = self._of_state(x, t, factor)
            return tuple(moved(output, gradient, factor) for output in outputs)
        if branches != (CONDITIONAL,):
            expected = "'cond' alone, since the clean estimate is that of the guided output"
            hint = "Guide the model inside: pushforward.models.guided(model, weight)"
            raise ArgumentError("branches", got=branches, expected=expected, hint=hint)
        if model.differentiates == DENOISER:
            output, gradient = self._through_denoiser(x, t)
            return (moved(output, gradient, self._per_state(factor, t)),)
        output = self.inner.answer(x, t, branches)[0]
        estimate = self._estimate(x, output, t)
        recorded = torch.is_grad_enabled()
        with recording():
            point = point_of(estimate, recorded)
            gradient = self._gradient(self._objective(point, t), point, t, recorded)
        return (moved(output, gradient, factor),)

    def _factor(self, t: Times) -> Factor:
        model = self.steered
        return np.array([model.factor(time) for time in t.tolist()]) if isinstance(t, np.ndarray) else model.factor(t)

    # --- the three gradients -------------------------------------------------------------------------------------

    def _of_state(self, x: Tensor, t: Times, factor: Factor) -> tuple[Tensor, Factor]:
        there, multiple = self._seen(t)
        scale = multiple / self._input_scale(t)
        state = x if np.all(scale == 1) else multiplied(x, scale)
        recorded = torch.is_grad_enabled()
        with recording():
            point = point_of(state, recorded)
            return self._gradient(self._objective(point, there), point, t, recorded), factor * multiple

    def _through_denoiser(self, x: Tensor, t: Times) -> tuple[Tensor, Tensor]:
        """The output, and the gradient by the network's input."""
        recorded = torch.is_grad_enabled()
        with recording():
            point = point_of(x, recorded)
            output = self.inner.answer(point, t, (CONDITIONAL,))[0]
            estimate = self._estimate(point, output, t)
            gradient = self._gradient(self._objective(estimate, t), point, t, recorded)
        return (output if recorded else output.detach()), gradient

    def _objective(self, point: Tensor, t: Times) -> Tensor:
        """Of the point, told what autograd may keep, also where the run is in inference mode."""

        def usable(path: str, leaf: Any) -> Any:
            del path
            return leaf.clone() if isinstance(leaf, Tensor) and leaf.is_inference() else leaf

        told = self.steered.told(self.inner, len(point), self.given)
        return self.steered.objective(point, t, tree_map(usable, dict(told)))

    def _gradient(self, objective: Tensor, point: Tensor, t: Times, recorded: bool) -> Tensor:
        """Of the sum over the batch, so that no sample's depends on how many others there are."""
        rows = point.shape[0]
        if not isinstance(objective, Tensor) or objective.shape != (rows,):
            got = list(objective.shape) if isinstance(objective, Tensor) else type(objective).__name__
            raise ShapeError("objective", got=got, expected=f"[{rows}], one number a sample")
        found = None
        if objective.requires_grad:
            self.backwards += 1
            (found,) = torch.autograd.grad(objective.sum(), point, allow_unused=True, create_graph=recorded)
        if found is None:
            because = "it does not depend on what it was given"
            raise ArgumentError(
                "objective",
                got=f"a gradient that is zero everywhere, since {because}",
                expected="a function of the tensor",
                hint="Was it detached, or computed under no_grad?",
            )
        if found.is_cpu and not bool(found.isfinite().all()):
            share = float((~found.isfinite().flatten(1).all(1)).double().mean())
            time = float(np.min(t))
            error = NotFiniteError("gradient", got=f"NaN or infinity in {share:.0%} of the samples at t = {time:.4g}")
            error.t = time
            raise error
        return unit(found) if self.steered.of_unit_norm else found

    # --- conversions ---------------------------------------------------------------------------------------------

    def _estimate(self, x: Tensor, output: Tensor, t: Times) -> Tensor:
        return read_as(self.steered.prediction, "denoised", t, x, output)

    def _seen(self, t: Times) -> tuple[Times, Factor]:
        if not isinstance(t, np.ndarray):
            return self.steered.seen(t)
        times, multiples = np.array([self.steered.seen(time) for time in t.tolist()]).reshape(-1, 2).T.copy()
        return times, multiples

    def _input_scale(self, t: Times) -> Factor:
        prediction = self.steered.prediction
        return prediction.input_scales(t) if isinstance(t, np.ndarray) else prediction.input_scale(t)

    def _per_state(self, factor: Factor, t: Times) -> Factor:
        """For a gradient by the network's input, which is a multiple of the state; its direction is the state's."""
        return factor if self.steered.of_unit_norm else factor * self._input_scale(t)


@contextmanager
def recording() -> Iterator[None]:
    """Autograd on, whatever it is outside."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def point_of(x: Tensor, recorded: bool) -> Tensor:
    """What to differentiate by: the tensor itself where a recorded run depends on it, or its values."""
    if recorded and x.requires_grad:
        return x
    return (x.clone() if x.is_inference() else x.detach()).requires_grad_()


def unit(gradient: Tensor) -> Tensor:
    """Each sample's gradient over its Euclidean norm, taken in float32 or better; one that is zero stays zero."""
    wide = torch.promote_types(gradient.dtype, torch.float32)
    norm = torch.linalg.vector_norm(gradient.flatten(1), dim=1, dtype=wide)
    norm = torch.where(norm > 0, norm, 1.0).reshape(-1, *[1] * (gradient.ndim - 1))
    return (gradient / norm).to(gradient.dtype)


def multiplied(x: Tensor, factor: Factor) -> Tensor:
    """``factor * x``, row by row."""
    return x * column(scalar(factor, x), x)


def scalar(factor: Factor, x: Tensor) -> Scalar:
    """On the state's device, if it is not one number."""
    return on_device(factor, x.device) if isinstance(factor, np.ndarray) else float(factor)


def moved(output: Tensor, gradient: Tensor, factor: Factor) -> Tensor:
    """``output + factor * gradient``, in one pass."""
    return combined([output, gradient.to(output.dtype)], [[1.0, scalar(factor, output)]])[0]


def per_denoised(model: WrappedModel, t: float) -> float:
    r"""What the output gains where the clean estimate gains one: :math:`-\Delta / \sigma`; 0 where sigma is 0.

    With the network's target :math:`p\, x_1 + q\, x_0` and :math:`\Delta = \alpha q - \sigma p`, the state held fixed.
    """
    a, s, _, _ = model.prediction.interpolant(t)
    if s == 0:
        return 0.0
    p, q = model.prediction.target(t)
    return p - a * q / s
