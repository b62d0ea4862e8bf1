"""Sampler: what a search does with rows of states, wherever they come from; knows no budget and no other process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias, cast

import numpy as np
import torch
from torch import Tensor

from ... import kernels
from ...errors import ArgumentError, NotFiniteError
from ...models import BranchWeights, Prediction
from ..executor import Executor
from ..particles import GaussianTransition, PlannedTransition, Transition, Transitions
from ..plan import Plan
from .row_network import RowNetwork

Steps: TypeAlias = int | Tensor
"""A step of the sampler for all rows, or one for each row, int64 [R]."""


@dataclass
class Rows:
    """States, and what goes along with them.

    Attributes:
        x: [r, *D].
        outputs: What the network returned at them, one tensor for each of the sampler's branches; empty where it was
            not asked.
        ids: Sample ids, which key their noise, int64 [r].
        request: Which request each belongs to, int64 [r].

    """

    x: Tensor
    outputs: tuple[Tensor, ...]
    ids: Tensor
    request: Tensor

    def take(self, index: Tensor | slice) -> Rows:
        """Some of the rows, by their numbers (on the CPU) or as a slice."""
        there = index.to(self.x.device) if isinstance(index, Tensor) else index
        outputs = tuple(output[there] for output in self.outputs)
        return Rows(self.x[there], outputs, self.ids[index], self.request[index])


@dataclass
class Sampler:
    """A solver's steps for rows of states: what the network says there, clean estimates, draws of the next states.

    Attributes:
        plan: The whole run, lowered.
        prediction, guidance: Those that it was lowered with.
        call: The network, which is bound to the conditions of the requests.
        seed: Of all noise.

    """

    plan: Plan
    prediction: Prediction
    guidance: BranchWeights | None
    call: RowNetwork
    seed: int

    @cached_property
    def transitions(self) -> Transitions:
        """The solver's steps.

        Raises:
            PlanError: The solver remembers steps, and what it remembers is not of the particles that are there later.
        """
        return Transitions.of(self.plan, self.prediction, self.guidance)

    @cached_property
    def branches(self) -> tuple[str, ...]:
        """Guidance branches that some step needs; particles keep an output for each."""
        return tuple(dict.fromkeys(branch for step in self.transitions for branch in step.branches))

    # --- what the network says --------------------------------------------------------------------------------------

    def outputs(self, rows: Rows, step: Steps) -> tuple[Tensor, ...]:
        """Raw outputs, one tensor for each of :attr:`branches`; 0 for one that a step leaves out."""
        x = rows.x
        if isinstance(step, int):
            k = self.transitions[step]
            source = x if k.scale == 1 else cast(Tensor, kernels.combine([x], [k.scale]))
            found = dict(zip(k.branches, self.call(source, k.time, k.branches, rows.request), strict=True))
            return tuple(found[b] if b in found else torch.zeros_like(x) for b in self.branches)
        local = step.numpy()
        times, scales = (np.array([getattr(k, name) for k in self.transitions])[local] for name in ("time", "scale"))
        if (scales != 1).any():
            x = cast(Tensor, kernels.combine([x], torch.from_numpy(scales)[:, None]))
        kinds = [self.transitions[k].branches for k in local.tolist()]
        outputs = {branch: torch.zeros_like(x) for branch in self.branches}
        for branches in dict.fromkeys(kinds):
            index = torch.tensor([i for i, kind in enumerate(kinds) if kind == branches])
            found = self.call(x[index], times[index.numpy()], branches, rows.request[index])
            for branch, output in zip(branches, found, strict=True):
                outputs[branch][index] = output
        return tuple(outputs.values())

    def denoised(self, rows: Rows, step: Steps) -> Tensor:
        """Clean estimates D(x, t), from the outputs of the rows.

        Raises:
            ArgumentError: The network does not determine the clean sample at one of the times.
        """
        inputs = [rows.x, *rows.outputs]
        if isinstance(step, int):
            weights = self.clean_weights(step)
            used = [i for i, weight in enumerate(weights) if weight != 0]
            if len(used) == 1 and weights[used[0]] == 1:  # the network's output itself
                self.check_finite(inputs[used[0]], rows.outputs, step, rows)
                return inputs[used[0]]
            return self.combine(inputs, weights, step, rows)
        distinct, which = torch.unique(step, return_inverse=True)
        table = torch.tensor([self.clean_weights(k) for k in distinct.tolist()], dtype=torch.float64)
        return self.combine(inputs, table.reshape(-1, len(inputs))[which], step, rows)

    def clean_weights(self, step: int) -> tuple[float, ...]:
        """Weights of the state and of all branches' outputs in the clean estimate."""
        k = self.transitions[step]
        if k.denoised is None:
            got = f"t = {k.time:.6g}, where the network does not determine the clean sample"
            raise ArgumentError("grid", got=got, expected="times at which a look ahead is possible")
        return self.spread(k, k.denoised)

    def spread(self, transition: Transition, weights: Sequence[float]) -> tuple[float, ...]:
        """Weights of the state and of the branches that a step has, as those of all branches: 0 for the others."""
        shares = dict(zip(transition.branches, weights[1:], strict=True))
        return (weights[0], *(shares.get(branch, 0.0) for branch in self.branches))

    # --- draws ------------------------------------------------------------------------------------------------------

    def draw(self, rows: Rows, step: Steps) -> Tensor:
        """The next state of every row, with the noise of its own key."""
        if isinstance(step, int):
            return self._draw(rows, step)
        new = torch.empty_like(rows.x)
        for k in torch.unique(step).tolist():
            index = (step == k).nonzero()[:, 0]
            new[index.to(new.device)] = self._draw(rows.take(index), k)
        return new

    def _draw(self, rows: Rows, step: int) -> Tensor:
        match self.transitions[step]:
            case GaussianTransition() as k:
                noise = [kernels.Noise(self.seed, draw, rows.ids) for draw in k.draws]
                return self.combine([rows.x, *rows.outputs], self.spread(k, k.weights), step, rows, noise, k.noises)
            case PlannedTransition() as k:
                return self.run(rows, k.plan, k.known)
        raise AssertionError("transitions are of one of the two kinds")

    def run(self, rows: Rows, plan: Plan, known: int | None = None) -> Tensor:
        """The rows at the end of an optimised plan.

        Args:
            rows: At ``plan.grid[0]``.
            plan: The whole sampler, a step of it, or something else that begins where the rows are.
            known: The evaluation whose outputs the rows have already; None if there is none.
        """
        run = Executor(plan, rows.x, seed=self.seed, samples=rows.ids)
        while True:
            try:
                asked = next(run, None)
            except NotFiniteError as error:
                raise located(error, rows.ids) from error
            if asked is None:
                return run.result
            if asked.index == known:
                run.supply([rows.outputs[self.branches.index(branch)] for branch in asked.branches])
            else:
                run.supply(self.call(asked.input, asked.time, asked.branches, rows.request))

    def draw_twisted(self, rows: Rows, step: int, gradient: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
        r"""One draw of the step's kernel with its mean moved along the gradient, and what corrects for it.

        .. math:: x' = \mu + \Gamma^2 f g + \Gamma \xi, \quad
            \log \frac{p(x')}{q(x')} = -\Gamma f\, g \cdot \xi - \tfrac12 \Gamma^2 f^2 |g|^2

        The ratio is formed from the noise itself: two log densities of an image would cancel to nothing.

        Args:
            rows: The states, with outputs.
            step: The sampler's; a Gaussian kernel.
            gradient: g, like the states.
            factor: f of every row, float64 [r], on the CPU.

        Returns:
            The next states, and the log ratio of every row, float64 [r], on the CPU.
        """
        k, x = self.transitions.gaussian("a twisted proposal")[step], rows.x
        at = {"seed": self.seed, "samples": rows.ids, "dtype": x.dtype, "device": x.device}
        draws = [kernels.normal(tuple(x.shape), draw=draw, **at) for draw in k.draws]
        columns = [torch.full_like(factor, w) for w in self.spread(k, k.weights)] + [k.noise**2 * factor]
        columns += [torch.full_like(factor, s) for s in k.noises]
        new = self.combine([x, *rows.outputs, gradient, *draws], torch.stack(columns, 1), step, rows)
        wide = gradient.flatten(1).double()
        along = sum(s * (wide * z.flatten(1).double()).sum(1) for s, z in zip(k.noises, draws, strict=True))
        ratio = -factor * torch.as_tensor(along).cpu() - 0.5 * (k.noise * factor) ** 2 * (wide * wide).sum(1).cpu()
        return new, ratio

    # --- errors that say where --------------------------------------------------------------------------------------

    def combine(
        self,
        inputs: Sequence[Tensor],
        weights: Sequence[float] | Tensor,
        step: Steps,
        rows: Rows,
        noise: Sequence[kernels.Noise] = (),
        scale: Sequence[float] = (),
    ) -> Tensor:
        """A combination whose result must be finite; the error says which row is not."""
        status = torch.zeros(1, dtype=torch.int32, device=inputs[0].device)
        scales = scale if noise else None
        out = cast(Tensor, kernels.combine(inputs, weights, noise=noise or None, scale=scales, status=status))
        if int(status):
            raise self.not_finite(out, rows.outputs, step, rows)
        return out

    def check_finite(
        self, result: Tensor, outputs: Sequence[Tensor], step: Steps, rows: Rows, what: str = "state"
    ) -> None:
        """Raise if a result is not finite; see :meth:`not_finite`."""
        if result.numel() and not bool(torch.stack(result.detach().aminmax()).isfinite().all()):  # NaN is both
            raise self.not_finite(result, outputs, step, rows, what)

    def not_finite(
        self, result: Tensor, outputs: Sequence[Tensor], step: Steps, rows: Rows, what: str = "state"
    ) -> NotFiniteError:
        """The error of a result that is not finite: of a network's output if one is not, else of the result."""
        bad = [~tensor.detach().flatten(1).isfinite().all(1).cpu() for tensor in (*outputs, result)]
        row = int(torch.stack(bad).any(0).nonzero()[0])
        what = "network output" if any(bool(found[row]) for found in bad[:-1]) else what
        place = f"{what} at {self.place(step, rows.ids, row)}"
        error = NotFiniteError(place, got="NaN or infinity", expected="finite numbers")
        error.step = step if isinstance(step, int) else int(step[row])
        error.t, error.row = self.plan.grid[error.step], row
        return error

    def place(self, step: Steps | None, ids: Tensor, row: int | None) -> str:
        """Where a row is, or where all of them are, in words; without a step they are at the end."""
        if step is None:
            where = "finished samples"
        elif isinstance(step, int) or row is not None:
            k = step if isinstance(step, int) else int(step[cast(int, row)])
            where = f"step {k}, t = {self.plan.grid[k]:.4g}"
        else:
            where = f"steps {int(step.min())} to {int(step.max())}"
        return where if row is None else f"{where}, {row_in_words(ids, row)}"


def located(error: NotFiniteError, ids: Tensor) -> NotFiniteError:
    """The error of a run with the request and the slot of the row, where it is known which."""
    if error.row is None:
        return error
    place = f"{error.argument}, {row_in_words(ids, error.row)}"
    told = NotFiniteError(place, got=error.got, expected=error.expected)
    told.step, told.t, told.row = error.step, error.t, error.row
    return told


def row_in_words(ids: Tensor, row: int) -> str:
    """Request and slot of a row, from its sample id."""
    return f"request {int(ids[row]) >> 32}, slot {int(ids[row]) % 2**32}"
