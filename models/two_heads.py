"""Networks of two-sided paths: one head for the velocity, one for the latent noise."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from torch import Tensor

from ..errors import ArgumentError, SingularTimeError, UnknownNameError
from .adapter import Model
from .bound import Bound, Index
from .branch_weights import BranchWeights
from .interpolants import Interpolant
from .predictions import Prediction, Target
from .row_times import RowTimes
from .two_sided import HEADS, TwoSided

MOTIONS, NOISES = HEADS[:2], HEADS[2:]


class HeadAffine(NamedTuple):
    """A quantity as ``x * state + sum_h outputs[h] * output of head h``."""

    x: float
    outputs: tuple[float, ...]


@dataclass(frozen=True)
class TwoSidedPrediction(Prediction):
    r"""How to read the heads of a two-sided path: the velocity and the score that solvers ask for.

    .. math:: v = v_I + \dot\gamma \eta = v_I - \gamma \dot\gamma s, \quad s = -\eta / \gamma

    Args:
        interpolant: A :class:`TwoSided`.
        network_time: The networks' clock; t by default.
        motion: The first head: "velocity" v, or "drift" v_I.
        noise_head: The second: "denoiser" eta, "score" s, or None: then there are no SDEs, and no "drift".
        noise_sign: -1 for networks that were trained on -z, as those of the paper's released code.

    Source:
        Albergo, Boffi & Vanden-Eijnden 2023, equations 2.13 to 2.17.

    """

    motion: str = "velocity"
    noise_head: str | None = "denoiser"
    noise_sign: int = 1

    kind: ClassVar[str] = "two_sided"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.interpolant, TwoSided):
            raise ArgumentError("interpolant", got=self.interpolant, expected="a TwoSided path")
        if self.motion not in MOTIONS:
            raise UnknownNameError("motion", got=repr(self.motion), expected="one of " + ", ".join(MOTIONS))
        if self.noise_head not in (*NOISES, None):
            expected = "one of " + ", ".join(NOISES) + ", or None"
            raise UnknownNameError("noise_head", got=repr(self.noise_head), expected=expected)
        if self.motion == "drift" and self.noise_head is None:
            raise ArgumentError("noise_head", got=None, expected="a head beside 'drift', which is not the velocity")
        if self.noise_sign not in (1, -1):
            raise ArgumentError("noise_sign", got=self.noise_sign, expected="1 or -1")

    @property
    def heads(self) -> tuple[str, ...]:  # type: ignore[override]  # a constant of other predictions
        """Names of the outputs, in order."""
        return (self.motion,) if self.noise_head is None else (self.motion, self.noise_head)

    def target(self, t: float) -> Target:
        """None: it has two."""
        raise ArgumentError("target", got="a two-sided path", expected="TwoSided.target, by the name of the head")

    def quantity(self, name: str, t: float) -> HeadAffine:  # type: ignore[override]  # more than one output
        """Velocity or score over the heads.

        Raises:
            ArgumentError: Another quantity, which the heads do not determine, or a score without a noise head.
            SingularTimeError: A division by gamma = 0, or an infinite gamma'.

        """
        self.check_callable(t)
        if name not in ("velocity", "score"):
            got, hint = f"{name!r} on a two-sided path", "Only solvers that use the velocity and the score work there"
            raise ArgumentError("quantity", got=got, expected="'velocity' or 'score'", hint=hint)
        if name == "velocity":
            weight = 0.0 if self.motion == "velocity" else self._latent_velocity(t)
            return HeadAffine(0.0, (1.0, self.noise_sign * weight)[: len(self.heads)])
        if self.noise_head is None:
            raise ArgumentError("score", got="one head", expected="a denoiser or score beside the velocity")
        return HeadAffine(0.0, (0.0, self.noise_sign * self._score_weight(t)))

    def _latent_velocity(self, t: float) -> float:
        """What multiplies the noise head in v - v_I."""
        if self.noise_head == "score":
            return -self.interpolant.sigma_dsigma(t)
        slope = self.interpolant(t).dsigma
        if not math.isfinite(slope):
            raise self.singular(t, "gamma' is infinite there; a head for the velocity, or for the score, would do")
        return slope

    def _score_weight(self, t: float) -> float:
        if self.noise_head == "score":
            return 1.0
        gamma = self.interpolant.sigma(t)
        if gamma == 0:
            raise self.singular(t, "where gamma = 0 the denoiser does not determine the score")
        return -1 / gamma

    def singular(self, t: float, because: str) -> SingularTimeError:
        """The error to raise, with the usual remedy."""
        hint = "Use a diffusion that vanishes there, such as 'sigma', or a grid inside [1e-3, 1 - 1e-3]"
        return SingularTimeError("t", got=t, because=because, hint=hint)

    def on(self, path: Interpolant | str) -> Prediction:
        """Itself; there is no other path of equal noise ratio."""
        if path != self.interpolant:
            raise ArgumentError("path", got=path, expected=f"{self.interpolant}, since the path is two-sided")
        return self


@dataclass(frozen=True, eq=False)
class TwoSidedModel:
    """Networks of a two-sided path; what :func:`pushforward.sample` and the executor need of a model.

    Made by :func:`adapt_two_sided` or an oracle's ``model()``. A run calls the heads that its solver needs: the first
    alone for an ODE.

    Attributes:
        prediction: How to read the heads.
        models: One :class:`Model` for each head: each has its own dtype, call and conditions.

    """

    prediction: TwoSidedPrediction
    models: Mapping[str, Model]

    @property
    def interpolant(self) -> Interpolant:
        """The path."""
        return self.prediction.interpolant

    @property
    def network(self) -> Callable[..., Any]:
        """The first head's."""
        return self.models[self.prediction.motion].network

    def with_networks(self, change: Callable[[Callable[..., Any]], Callable[..., Any]]) -> TwoSidedModel:
        """See :meth:`Model.with_networks`."""
        models = {name: model.with_networks(change) for name, model in self.models.items()}
        return dataclasses.replace(self, models=models)

    def bind(
        self,
        condition: Mapping[str, Any] | None = None,
        null: Mapping[str, Any] | None = None,
        guidance: BranchWeights | float | None = None,
    ) -> BoundHeads:
        """The heads with the conditions of one run.

        Raises:
            ArgumentError: Guidance, which has no meaning for two heads yet.

        """
        if guidance not in (None, 1, 1.0):
            raise ArgumentError("guidance", got=guidance, expected="1 for a two-sided path")
        return BoundHeads({name: model.bind(condition, null) for name, model in self.models.items()})


@dataclass(frozen=True)
class BoundHeads:
    """What a run evaluates."""

    heads: Mapping[str, Bound]

    @property
    def calls(self) -> int:
        """How often the networks were called so far."""
        return sum(head.calls for head in self.heads.values())

    def evaluate(self, x: Tensor, t: float, branches: tuple[str, ...]) -> tuple[Tensor, ...]:
        """The outputs of the named heads at (x, t)."""
        return tuple(self.heads[name].evaluate(x, t)[0] for name in branches)

    def evaluate_rows(self, x: Tensor, times: RowTimes, branches: tuple[str, ...]) -> tuple[Tensor, ...]:
        """The outputs of the named heads, for rows with times of their own; see :meth:`BoundModel.evaluate_rows`."""
        return tuple(self.heads[name].evaluate_rows(x, times)[0] for name in branches)

    def select(self, index: Index) -> BoundHeads:
        """The heads bound to rows ``index`` of the conditions; see :meth:`BoundModel.select`."""
        return BoundHeads({name: head.select(index) for name, head in self.heads.items()})


def adapt_two_sided(
    motion: Callable[..., Any],
    noise: Callable[..., Any] | None,
    path: TwoSided,
    *,
    motion_is: str = "velocity",
    noise_is: str = "denoiser",
    noise_sign: int = 1,
    **options: Any,
) -> TwoSidedModel:
    """A model of a two-sided path from its networks.

    Args:
        motion: ``network(x, time, **condition)`` for the velocity, or for the drift.
        noise: The same for the denoiser or the score; None for ODEs alone.
        path: The path that they were trained on.
        motion_is: "velocity" or "drift".
        noise_is: "denoiser" or "score".
        noise_sign: -1 if it was trained on -z.
        **options: Of :class:`Model` for both: ``dtype``, ``time_dtype``, ``time_shape``, ``call``, ``shared``.

    Raises:
        ArgumentError: A drift without a noise head; an unknown option.

    Example:
        >>> model = adapt_two_sided(lambda x, t: -x, None, TwoSided(strength=0.0))
        >>> model.prediction.heads
        ('velocity',)

    """
    known = {field.name for field in dataclasses.fields(Model)} - {"network", "prediction", "null"}
    if not options.keys() <= known:
        raise ArgumentError("options", got=sorted(options.keys() - known), expected=", ".join(sorted(known)))
    noise_head = None if noise is None else noise_is
    read = TwoSidedPrediction(path, motion=motion_is, noise_head=noise_head, noise_sign=noise_sign)
    networks = {motion_is: motion} if noise is None else {motion_is: motion, noise_is: noise}
    return TwoSidedModel(read, {name: Model(network, read, **options) for name, network in networks.items()})
