"""Several networks behind one model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from torch import Tensor

from ...errors import ArgumentError, SingularTimeError
from ..adapter import Model, check_branches, model_fields
from ..bound import Bound, Branches, Index, Times
from ..branch_weights import CONDITIONAL, UNCONDITIONAL, BranchWeights
from ..capabilities import Remembers
from ..fields import weighted
from ..interpolants import Interpolant
from ..predictions import Prediction
from .stitch import own_branch

Conditioning: TypeAlias = Mapping[str, Any] | Callable[[dict[str, Any]], Mapping[str, Any]]


@dataclass(frozen=True, eq=False)
class Member:
    """A network of a composition that is conditioned in its own way.

    Attributes:
        model: The network; on any path, and with any prediction.
        condition: Its keyword arguments instead of the run's, or a function that makes them of the run's.
    """

    model: Model
    condition: Conditioning | None = None

    def arguments(self, condition: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
        """The network's own condition."""
        if self.condition is None:
            return condition
        return self.condition(dict(condition or {})) if callable(self.condition) else self.condition


@dataclass(frozen=True, eq=False)
class ComposedModel(Model):
    """A leading model with further networks, each answering branches of its own; made by :func:`composed`.

    Attributes:
        lead: What "cond", "null" and the leading model's other branches are answered by; its dialect is spoken.
        members: The others, by name.
    """

    lead: Model = dataclasses.field(default=None, kw_only=True)  # type: ignore[assignment]  # given by composed()
    members: Mapping[str, Member] = dataclasses.field(default_factory=dict, kw_only=True)

    @property
    def remembers(self) -> Remembers:
        """What the networks remember, whichever is most."""
        return max(model.remembers for model in (self.lead, *(member.model for member in self.members.values())))

    def on(self, path: Interpolant | str) -> Model:
        """See :meth:`Model.on`."""
        return make(self.lead.on(path), self.members)

    def reading(self, prediction: Prediction) -> Model:
        """See :meth:`Model.reading`."""
        return make(self.lead.reading(prediction), self.members)

    def with_branches(self, **conditions: Mapping[str, Any]) -> Model:
        """See :meth:`Model.with_branches`: branches of the leading network."""
        return make(self.lead.with_branches(**conditions), self.members)

    def with_networks(self, change: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Model:
        """See :meth:`Model.with_networks`."""
        lead = self.lead.with_networks(change)
        return make(
            lead, {n: dataclasses.replace(m, model=m.model.with_networks(change)) for n, m in self.members.items()}
        )

    def bind(
        self,
        condition: Mapping[str, Any] | None = None,
        null: Mapping[str, Any] | None = None,
        guidance: BranchWeights | float | None = None,
    ) -> Bound:
        """See :meth:`Model.bind`. A member's null condition is its own; the run's where it has none."""
        lead = self.lead.bind(condition, null)
        others = {}
        for name, member in self.members.items():
            shared = member.model.null is None and member.condition is None
            others[name] = member.model.bind(member.arguments(condition), null if shared else None)
        bound = BoundComposition(self, lead, others)
        check_branches(bound.conditions, guidance)
        return bound


def composed(lead: Model, **members: Model | Member) -> ComposedModel:
    """A model with further networks as branches of guidance: to stitch, to average, or to guide by a worse one.

    The network ``name`` answers the branches ``name`` (its condition, the run's by default) and ``name.null``, and any
    others it has as ``name.branch``; those of ``lead`` keep their names. Networks may predict different quantities, on
    different paths: their outputs are turned into what ``lead`` would return, at no cost where both predict the same.
    Branches of one network share a call.

    Args:
        lead: Decides path and prediction of the composition.
        **members: The others. :class:`Member` gives one a condition of its own.

    Raises:
        ArgumentError: A name that is a branch of ``lead``, or has a dot; networks of different numbers of channels.

    Source:
        Karras et al. 2024 (autoguidance), Pan et al. 2024 (stitching).

    Example:
        >>> from pushforward.models import GaussianOracle, Guidance
        >>> sharp, broad = (GaussianOracle([0.0], [[s]]).model() for s in (0.25, 0.49))
        >>> model = composed(sharp, weak=broad)
        >>> len(model.bind(guidance=Guidance(2.0, against="weak")).evaluate(torch.ones(3, 1), 0.5, ("cond", "weak")))
        2
    """
    taken = {CONDITIONAL, UNCONDITIONAL, *lead.branches}
    for name, member in members.items():
        if name in taken or "." in name:
            expected = "a name without a dot, other than " + ", ".join(sorted(taken))
            raise ArgumentError("members", got=repr(name), expected=expected)
        model = member.model if isinstance(member, Member) else member
        if None not in (lead.channels, model.channels) and lead.channels != model.channels:
            expected = f"{lead.channels} channels, as the leading network"
            raise ArgumentError(f"members[{name!r}]", got=f"{model.channels} channels", expected=expected)
    return make(lead, {name: m if isinstance(m, Member) else Member(m) for name, m in members.items()})


def make(lead: Model, members: Mapping[str, Member]) -> ComposedModel:
    """The composition, with every member on the path of ``lead``."""
    shared = model_fields(lead)
    on_path = {name: dataclasses.replace(m, model=m.model.on(lead.interpolant)) for name, m in members.items()}
    return ComposedModel(**shared, lead=lead, members=on_path)


class BoundComposition(Bound):
    """What a run evaluates of a composition: each network with its conditions."""

    def __init__(self, model: ComposedModel, lead: Bound, members: Mapping[str, Bound]) -> None:
        self._model, self.lead, self.members = model, lead, dict(members)
        self.owners = {branch: (CONDITIONAL, branch) for branch in lead.conditions}
        for name, member in self.members.items():
            self.owners.update({own_branch(name, branch): (name, branch) for branch in member.conditions})

    @property
    def model(self) -> Model:
        """Where it came from."""
        return self._model

    @property
    def calls(self) -> int:
        """How often the networks were called so far, all together."""
        return self.lead.calls + sum(member.calls for member in self.members.values())

    @property
    def rows(self) -> int:
        """On how many rows in all."""
        return self.lead.rows + sum(member.rows for member in self.members.values())

    @property
    def conditions(self) -> Mapping[str, dict[str, Any] | None]:
        """What each branch is bound to."""
        return {branch: self.network(owner).conditions[own] for branch, (owner, own) in self.owners.items()}

    def network(self, owner: str) -> Bound:
        """The leading network, or a member."""
        return self.lead if owner == CONDITIONAL else self.members[owner]

    def answer(self, x: Tensor, t: Times, branches: Branches) -> tuple[Tensor, ...]:
        """One output a branch, in the dialect of the leading network; one call a network."""
        asked: dict[str, list[str]] = {}
        for branch in branches:
            if branch not in self.owners:
                raise ArgumentError("branch", got=repr(branch), expected="one of " + ", ".join(self.owners))
            owner, own = self.owners[branch]
            asked.setdefault(owner, []).append(own)
        found: dict[str, Tensor] = {}
        for owner, own in asked.items():
            outputs = self.ask(owner, x, t, tuple(own))
            found.update({own_branch(owner, b): out for b, out in zip(own, outputs, strict=True)})
        return tuple(found[branch] for branch in branches)

    def ask(self, owner: str, x: Tensor, t: Times, branches: Branches) -> tuple[Tensor, ...]:
        """Outputs of one network, converted."""
        network = self.network(owner)
        if owner == CONDITIONAL:
            return network.answer(x, t, branches)
        member, lead = self._model.members[owner].model.prediction, self._model.lead.prediction
        distinct, which = np.unique(t, return_inverse=True)
        each = [conversion(member, lead, time) for time in distinct.tolist()]
        scales = np.array([known.scale for known in each]).reshape(-1, 1)
        outputs = network.answer(x if (scales == 1).all() else weighted([x], scales, which), t, branches)
        table = np.array([known.affine for known in each]).reshape(-1, 2)
        if (table == (0.0, 1.0)).all():
            return outputs
        return tuple(weighted([x, output], table, which) for output in outputs)

    def refine(self, x: Tensor, t: float, branches: Branches, base: Tensor) -> tuple[Tensor, ...]:
        """What the leading model says of a velocity's change."""
        return self.lead.refine(x, t, branches, base)

    def select(self, index: Index) -> Bound:
        """See :meth:`Bound.select`."""
        members = {name: member.select(index) for name, member in self.members.items()}
        return BoundComposition(self._model, self.lead.select(index), members)

    def check_rows(self, rows: int) -> None:
        """See :meth:`Bound.check_rows`."""
        for network in (self.lead, *self.members.values()):
            network.check_rows(rows)


@dataclass(frozen=True)
class Conversion:
    """A member's input is ``scale`` times the leading one's; the leading output is ``affine`` of (input, output)."""

    scale: float
    affine: tuple[float, float]


def conversion(member: Prediction, lead: Prediction, t: float) -> Conversion:
    r"""From the output of one network to that of another, both on one path.

    With :math:`o = p D + q n` and :math:`x = \alpha D + \sigma n`, and :math:`\Delta = \alpha q - \sigma p`:
    :math:`o_l = ((p_l q_m - q_l p_m) x + \Delta_l\, o_m) / \Delta_m`.

    Raises:
        SingularTimeError: The member does not determine what the leading network returns there.
    """
    a, s, _, _ = lead.interpolant(t)
    ours, theirs = lead.target(t), member.target(t)
    scale = member.input_scale(t) / lead.input_scale(t)
    if ours == theirs:
        return Conversion(scale, (0.0, 1.0))
    delta_lead, delta = a * ours.noise - s * ours.data, a * theirs.noise - s * theirs.data
    if delta == 0 or not np.isfinite([*ours, *theirs]).all():
        because = f"a network that predicts {member.kind} does not say what one that predicts {lead.kind} would return"
        raise SingularTimeError("t", got=t, because=because, hint="Let the other network lead the composition")
    state = (ours.data * theirs.noise - ours.noise * theirs.data) / delta
    return Conversion(scale, (state / lead.input_scale(t), delta_lead / delta))
