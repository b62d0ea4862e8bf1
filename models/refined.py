"""A model with a refiner beside it, which says cheaply how a velocity has changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..errors import ArgumentError, ShapeError
from .adapter import Model
from .binding import BoundModel
from .bound import Bound, Branches
from .composition.stitch import own_branch
from .interpolants import Interpolant
from .wrapping import BoundWrapped, WrappedModel

REFINER = "refiner"


def refiner_branch(branch: str) -> str:
    """The refiner's counterpart of a branch: "refiner" of "cond", "refiner.null" of "null".

    Example:
        >>> refiner_branch("cond"), refiner_branch("null")
        ('refiner', 'refiner.null')
    """
    return own_branch(REFINER, branch)


@dataclass(frozen=True, eq=False)
class RefinedModel(WrappedModel):
    r"""A model, and a small network that corrects its velocities: :math:`v(x, t) \approx v_{prev} + R(x, t, v_{prev})`.

    Solvers that know nothing of refiners see the model alone; the steps "refine" of
    :class:`~pushforward.solvers.ode.FlowTurbo` ask the refiner. The earlier velocity comes with the question, as a
    register of the plan: it is the guided one, and no run keeps state here. Under guidance the refiner answers a row a
    branch, all for the same earlier velocity; weights sum to one, so the corrected velocity is the guided one.

    Make one with ``RefinedModel.around(model, refiner=...)``.

    Attributes:
        refiner: Network of the change. Its input is [B, 2C, ...]: the state, not scaled, and the earlier velocity on
            dimension 1; its conditions are those of the model, its path is the model's, its output [B, C, ...] is a
            velocity's.

    Raises:
        ArgumentError: A refiner that is missing, does not predict velocities, or lies on another path.

    Source:
        Zhao et al. 2024, FlowTurbo: Towards Real-time Flow-Based Image Generation with Velocity Refiner, section 3.1.

    Example:
        >>> from pushforward.models import GaussianOracle, adapt
        >>> teacher = GaussianOracle([0.0], [[0.25]])
        >>> exact = adapt(lambda xv, t: teacher.velocity(xv[:, :1], t) - xv[:, 1:])
        >>> bound = RefinedModel.around(teacher.model(), refiner=exact).bind()
        >>> x, v = torch.ones(2, 1, dtype=torch.float64), torch.zeros(2, 1, dtype=torch.float64)
        >>> (change,) = bound.evaluate(x, 0.5, ("refiner",), v)
        >>> torch.equal(change, bound.evaluate(x, 0.5)[0])
        True
    """

    refiner: Model = field(default=None, kw_only=True)  # type: ignore[assignment]  # given to around()

    def __post_init__(self) -> None:
        if not isinstance(self.refiner, Model):
            hint = "Adapt the network: adapt(network, null=...)"
            raise ArgumentError("refiner", got=type(self.refiner).__name__, expected="a model", hint=hint)
        if self.refiner.prediction.kind != "velocity":
            got = f"a network that predicts {self.refiner.prediction.kind}"
            raise ArgumentError("refiner", got=got, expected="one that returns a change of velocity, as 'velocity'")
        if self.refiner.interpolant != self.interpolant:
            got, expected = f"a refiner on {self.refiner.interpolant}", f"{self.interpolant}, the model's own path"
            raise ArgumentError("refiner", got=got, expected=expected)

    def wrap(self, bound: Bound) -> Bound:
        """See :meth:`WrappedModel.wrap`."""
        return BoundRefined(self, bound)

    def with_networks(self, change: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Model:
        """See :meth:`Model.with_networks`."""
        return type(self).around(self.inner.with_networks(change), refiner=self.refiner.with_networks(change))

    def on(self, path: Interpolant | str) -> Model:
        """See :meth:`Model.on`; velocities of another path are others.

        Raises:
            ArgumentError: The path is not the model's.
        """
        inner = self.inner.on(path)
        if inner.interpolant != self.interpolant:
            got, expected = inner.interpolant, f"{self.interpolant}, on which the refiner was trained"
            raise ArgumentError("path", got=got, expected=expected)
        return self


class BoundRefined(BoundWrapped):
    """A model and its refiner under the conditions of one run."""

    def __init__(self, model: RefinedModel, inner: Bound) -> None:
        super().__init__(model, inner)
        self.refiner = BoundModel(model.refiner, inner.conditions)

    @property
    def calls(self) -> int:
        """How often the network and its refiner were called so far."""
        return self.inner.calls + self.refiner.calls

    @property
    def rows(self) -> int:
        """On how many rows in all."""
        return self.inner.rows + self.refiner.rows

    def refine(self, x: Tensor, t: float, branches: Branches, base: Tensor) -> tuple[Tensor, ...]:
        """The refiner's answer, a row a branch, each for the same earlier velocity.

        Raises:
            ArgumentError: A branch that is not the refiner's.
            ShapeError: States without channels; an output that is no velocity.
        """
        own = {refiner_branch(branch): branch for branch in self.refiner.conditions}
        for branch in branches:
            if branch not in own:
                raise ArgumentError("branch", got=repr(branch), expected="one of " + ", ".join(own))
        if x.ndim < 2:
            raise ShapeError("x", got=list(x.shape), expected="[B, C, ...], for a refiner")
        return self.refiner.answer(torch.cat([x, base], dim=1), t, tuple(own[branch] for branch in branches))
