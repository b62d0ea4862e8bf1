"""What does a gradient through an adaptive run cost, in time and in memory?

A small network as the field: 16 dimensions, one hidden layer of 256, float64, dopri5. Timed are the run and its
backward pass, for x0 and all parameters. Memory is the most bytes of tensors that live at once, counted
operation by operation, beyond inputs and parameters. The error is that of the parameters' gradient, relative, against
a run at 1e-12. The peers are torchdiffeq's `odeint` and `odeint_adjoint`, which have one step size for the batch: rows
"joint" do as they do. The network's rows are counted in the forward run and in the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from _harness import Benchmark, main
from _live_memory import LiveMemory
from torch import Tensor, nn
from torchdiffeq import odeint, odeint_adjoint

import pushforward as pf

SIZES = ((32, 1e-6), (1024, 1e-6), (32, 1e-9))
DIM, WIDTH = 16, 256
KINDS: dict[str, dict[str, Any]] = {
    "steps": {"gradient": "steps"},
    "steps, checkpoint": {"gradient": "steps", "checkpoint": True},
    "steps, recursive": {"gradient": "steps", "checkpoint": "recursive"},
    "adjoint": {"gradient": "adjoint"},
    "adjoint, outputs": {"gradient": "adjoint", "adjoint_options": {"anchors": "outputs"}},
}


class Field(nn.Module):
    """A network of state and time; (x, t) as ours or (t, x) as theirs."""

    def __init__(self, *, theirs: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(DIM + 1, WIDTH), nn.Tanh(), nn.Linear(WIDTH, DIM)).double()
        self.theirs, self.rows = theirs, 0

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Slopes, stiffer the larger the state."""
        x, t = (second, first.expand(len(second))) if self.theirs else (first, second)
        self.rows += len(x)
        return 4 * self.net(torch.cat([x, t[:, None]], dim=1)) - 0.02 * x * x.square().sum(1, keepdim=True)


class Question:
    """A batch, and how to solve it."""

    def __init__(self, batch: int, solve: Callable[[Field, Tensor], Tensor], *, theirs: bool = False) -> None:
        self.field, self.solve, self.batch = Field(theirs=theirs), solve, batch
        generator = torch.Generator().manual_seed(1)
        spread = torch.linspace(0.5, 2.0, batch, dtype=torch.float64)[:, None]
        self.x0 = (spread * torch.randn(batch, DIM, dtype=torch.float64, generator=generator)).requires_grad_()

    def gradients(self) -> tuple[Tensor, ...]:
        """Of x0 and the parameters."""
        with torch.enable_grad():  # the harness turns gradients off
            final = self.solve(self.field, self.x0)
            return torch.autograd.grad(final.square().mean(), [self.x0, *self.field.parameters()])

    def prepare(self) -> Callable[[], object]:
        """A run, for the harness."""
        return self.gradients

    def facts(self, exact: tuple[Tensor, ...]) -> dict[str, float]:
        """Peak memory in MB, rows of the network for each sample, and the error."""
        self.field.rows = 0
        with LiveMemory() as memory:
            found = self.gradients()
        rows = self.field.rows / self.batch
        gaps, sizes = zip(*(((a - b).norm(), b.norm()) for a, b in zip(found[1:], exact[1:], strict=True)), strict=True)
        error = float(torch.stack(gaps).norm() / torch.stack(sizes).norm())
        return {"peak_mb": memory.peak / 1e6, "rows_a_sample": rows, "error": error}


def ours(batch: int, tol: float, **options: Any) -> Question:
    """With `solve_ode`."""
    options = {"rtol": tol, "atol": tol, "method": "dopri5", **options}
    return Question(batch, lambda field, x0: pf.solve_ode(field, x0, [0.0, 1.0], **options).final)


def theirs(batch: int, tol: float, function: Callable[..., Tensor]) -> Question:
    """With torchdiffeq."""
    times = torch.tensor([0.0, 1.0], dtype=torch.float64)
    options = {"rtol": tol, "atol": tol, "method": "dopri5"}
    return Question(batch, lambda field, x0: function(field, x0, times, **options)[-1], theirs=True)


def benchmark(bench: Benchmark) -> None:
    """All rows."""
    for batch, tol in SIZES:
        exact = ours(batch, 1e-12, gradient="steps", method="dop853").gradients()
        peers = {"odeint": theirs(batch, tol, odeint), "odeint_adjoint": theirs(batch, tol, odeint_adjoint)}
        peer_facts = {name: peer.facts(exact) for name, peer in peers.items()}
        for joint in (False, True):
            for kind, options in KINDS.items():
                case = f"{kind} B={batch} tol={tol:.0e}" + (" joint" if joint else "")
                if not bench.wants(case):
                    continue
                mine = ours(batch, tol, per_sample=not joint, **options)
                name = "odeint_adjoint" if kind.startswith("adjoint") else "odeint"
                known = {f"their_{key}": value for key, value in peer_facts[name].items()}
                bench.compare(case, name, mine.prepare, peers[name].prepare, **mine.facts(exact), **known)
        plain = ours(batch, tol)

        def forward(plain: Question = plain) -> Callable[[], object]:
            return lambda: plain.solve(plain.field, plain.x0)

        bench.compare(
            f"no gradient B={batch} tol={tol:.0e}", "odeint, no gradient", forward, no_gradient(peers["odeint"])
        )


def no_gradient(question: Question) -> Callable[[], Callable[[], object]]:
    """The run alone."""

    def run() -> Tensor:
        with torch.no_grad():
            return question.solve(question.field, question.x0)

    return lambda: run


if __name__ == "__main__":
    main(benchmark, __doc__)
