"""What a plan costs, known before anything runs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from ...errors import ArgumentError
from ...models.bound import VARIANCE
from .instructions import Combine, Evaluate, Transform, reads, writes
from .plan import Plan


@dataclass(frozen=True)
class Cost:
    """Cost of one run over a state of a given shape and dtype.

    Attributes:
        network_calls: Evaluations; a guided pair counts as one.
        forward_passes: Network rows per sample; a guided pair counts as two.
        passes: Combinations, that is kernel launches and full-size passes over memory outside the network.
        transforms: Functions of one tensor: those of the user, and noise whose scale is one.
        bytes_moved: Bytes that the combinations read and write; noise is generated in the pass and moves none.
        buffers: State-sized tensors that the executor allocates, all in the first step that needs them.
        live_tensors: Most state-sized tensors alive at once: buffers, the start, and kept network outputs.
        state_bytes: Size of one state.
        branch_rows: Network rows per sample by branch: which network of a composition is called how often.

    """

    network_calls: int
    forward_passes: int
    passes: int
    transforms: int
    bytes_moved: int
    buffers: int
    live_tensors: int
    state_bytes: int
    branch_rows: Mapping[str, int]

    def relative(self, costs: Mapping[str, float], against: float) -> float:
        """How many times cheaper the network calls are than if every row cost ``against``.

        Args:
            costs: Cost of a row of each branch, in any unit.
            against: Cost of a row of the network to compare with, of which there are as many.

        Raises:
            ArgumentError: A branch without a cost.

        Example:
            A network of 5 GFLOPs for two steps of five, and one of 114 for the rest.

            >>> from pushforward.models import Linear, Stitch, prediction
            >>> from pushforward.solvers import plan, solver
            >>> euler = plan(solver("euler"), [0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
            >>> stitched = euler.lower(prediction("velocity", Linear()), Stitch.shares({"small": 0.4, "cond": 0.6}))
            >>> round(stitched.cost().relative({"small": 5, "cond": 114}, against=114), 3)
            1.619
        """
        missing = self.branch_rows.keys() - costs.keys()
        if missing:
            raise ArgumentError("costs", got=sorted(costs), expected=f"also those of {sorted(missing)}")
        return against * self.forward_passes / sum(costs[name] * rows for name, rows in self.branch_rows.items())

    def __str__(self) -> str:
        rows = f" ({self.forward_passes} forward passes)" if self.forward_passes != self.network_calls else ""
        return (
            f"{self.network_calls} network calls{rows}, {self.passes} passes over memory, "
            f"{self.bytes_moved:,} bytes moved, {self.buffers} buffers, {self.live_tensors} live tensors "
            f"of {self.state_bytes:,} bytes"
        )


def cost(plan: Plan, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> Cost:
    """Count a run of ``plan`` over a state of ``shape``, the batch included; ``dtype`` defaults to float32."""
    state_bytes = math.prod(shape) * (dtype or torch.float32).itemsize
    combines = [i for i in plan.instructions if isinstance(i, Combine)]
    return Cost(
        network_calls=plan.nfe,
        forward_passes=sum(e.rows if plan.stage != "quantities" else 1 for e in plan.evaluations),
        passes=len(combines),
        transforms=sum(isinstance(i, Transform) for i in plan.instructions),
        bytes_moved=sum(len(c.inputs) + len(c.outs) for c in combines) * state_bytes,
        buffers=len({buffer for _, buffer in plan.buffers}) if plan.stage == "optimised" else count_writes(plan),
        live_tensors=peak_live(plan),
        state_bytes=state_bytes,
        branch_rows=dict(Counter(label for e in plan.evaluations for label in e.labels if label != VARIANCE)),
    )


def count_writes(plan: Plan) -> int:
    """Registers that combinations write: one tensor each, as long as no buffers are assigned."""
    return sum(len(i.outs) for i in plan.instructions if isinstance(i, Combine))


def peak_live(plan: Plan) -> int:
    """Most tensors alive at once, counting those written while their inputs are still held, unless in place."""
    last = {register: position for position, i in enumerate(plan.instructions) for register in reads(i)}
    last[plan.result] = len(plan.instructions)
    buffers = dict(plan.buffers)
    live, peak = {plan.start}, 1
    for position, instruction in enumerate(plan.instructions):
        written = set(writes(instruction))
        slots = {buffers.get(register, ~register) for register in live | written}
        peak = max(peak, len(slots))
        live = {register for register in live | written if last.get(register, -1) > position}
        if isinstance(instruction, Evaluate):
            live |= written
    return peak
