"""Are per-sample steps cheap enough?

`solve_ode` against torchdiffeq (one step size for the whole batch) and torchode (a step size for each sample), with the
same right-hand side in torch, at the same tolerance. Errors are the largest over samples and components, against
Dormand-Prince 8(5,3) at 1e-13; a peer with a larger error had less to do.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from _harness import Benchmark, main
from torch import Tensor

import pushforward as pf

TOLERANCE, END = 1e-6, 10.0
METHODS = (("vern65", "PI"), ("tsit54", "PI42"), ("dopri5", "PI42"), ("dopri54", "I"))


def van_der_pol(x: Tensor) -> Tensor:
    """The oscillation with mu = 1; x is [B, 2]."""
    position, speed = x[:, 0], x[:, 1]
    return torch.stack((speed, (1 - position * position) * speed - position), 1)


def peers(x0: Tensor) -> dict[str, Callable[[], Tensor]]:
    """What is installed, by name."""
    found: dict[str, Callable[[], Tensor]] = {}
    times = torch.tensor([0.0, END], dtype=torch.float64)
    try:
        import torchdiffeq

        for method in ("dopri5", "dopri8"):
            found[f"torchdiffeq {method}"] = lambda method=method: torchdiffeq.odeint(
                lambda t, x: van_der_pol(x), x0, times, rtol=TOLERANCE, atol=TOLERANCE, method=method
            )[-1]
    except ImportError:
        pass
    try:
        import torchode

        def solver(name: str, controller: object) -> Callable[[], Tensor]:
            term = torchode.ODETerm(lambda t, x: van_der_pol(x))
            adjoint = torchode.AutoDiffAdjoint(getattr(torchode, name)(term=term), controller)
            start, stop = x0.new_zeros(len(x0)), x0.new_full((len(x0),), END)
            problem = torchode.InitialValueProblem(y0=x0, t_start=start, t_end=stop)
            return lambda: adjoint.solve(problem).ys[:, -1]

        term = torchode.ODETerm(lambda t, x: van_der_pol(x))
        for name in ("Dopri5", "Tsit5"):
            controller = torchode.IntegralController(atol=TOLERANCE, rtol=TOLERANCE, term=term)
            found[f"torchode {name}"] = solver(name, controller)
    except ImportError:
        pass
    return found


def speed(bench: Benchmark, batch: int) -> None:
    """All methods of ours against all peers, one batch size."""
    x0 = torch.rand(batch, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 4 - 2
    field = lambda x, t: van_der_pol(x)  # noqa: E731
    few = x0[:4096]
    exact = pf.solve_ode(field, few, [0.0, END], method="dop853", rtol=1e-13, atol=1e-13).final

    def error(x: Tensor) -> float:
        return float((x[: len(few)] - exact).abs().max())

    for method, controller in METHODS:
        case = f"{method} {controller} van-der-pol B={batch} float64"
        if not bench.wants(case):
            continue

        def ours(method: str = method, controller: str = controller) -> pf.solvers.Solution:
            times = [0.0, END]
            return pf.solve_ode(field, x0, times, method=method, controller=controller, rtol=TOLERANCE, atol=TOLERANCE)

        solution = ours()
        for name, run in peers(x0).items():
            with torch.no_grad():
                own, other = error(solution.final), error(run())
                more = {"calls": solution.calls, "error": own, "peer_error": other}
                bench.compare(case, name, lambda ours=ours: ours, lambda run=run: run, **more)


def benchmark(bench: Benchmark) -> None:
    """A small batch, where overhead counts, and a large one, where passes over memory do."""
    for batch in (256,) if bench.quick else (256, 65_536):
        speed(bench, batch)


if __name__ == "__main__":
    main(benchmark, __doc__)
