"""Many small systems: is it worth integrating them wholly in machine code?

Van der Pol's oscillator (mu = 1) on [0, 10] in float64 from 256 and from 65,536 starts, Dormand-Prince 5(4) with
rtol = atol = 1e-6, for the state at the end. Ours has the right-hand side as a Python function compiled by numba, and
as the built-in field. The peers are torchdiffeq (one step size for the whole batch), torchode (one a sample), and
diffrax, compiled, both ways. Errors, over the same 256 starts, are against scipy's DOP853 at 1e-13.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from _harness import Benchmark, main
from rich.console import Console
from rich.table import Table
from torch import Tensor

from pushforward import solve_ensemble
from pushforward.solvers.ensemble import VanDerPol, numba_rhs

END, TOLERANCE, CHECKED = 10.0, 1e-6, 256
Solver = Callable[[Tensor], Callable[[], Any]]  # from starts to what is timed, which returns the states at the end


@numba_rhs
def van_der_pol(t, y, dy, params):
    """One trajectory, for numba."""
    dy[0] = y[1]
    dy[1] = params[0] * (1 - y[0] ** 2) * y[1] - y[0]


def starts(batch: int) -> Tensor:
    """The same first ones whatever the number."""
    return torch.from_numpy(np.random.default_rng(0).uniform(-2, 2, (batch, 2)))


def reference(y0: Tensor) -> Tensor:
    """By scipy, one after the other."""
    from scipy.integrate import solve_ivp

    def slope(t: float, y: np.ndarray) -> list[float]:
        return [y[1], (1 - y[0] ** 2) * y[1] - y[0]]

    ends = [solve_ivp(slope, (0, END), y, "DOP853", rtol=1e-13, atol=1e-13).y[:, -1] for y in y0.numpy()]
    return torch.from_numpy(np.stack(ends))


def ours(rhs: Any, params: Tensor | None = None) -> Solver:
    """With a right-hand side of ours."""

    def solver(y0: Tensor) -> Callable[[], Tensor]:
        options = {"params": params, "rtol": TOLERANCE, "atol": TOLERANCE}
        return lambda: solve_ensemble(rhs, y0, [0.0, END], **options).final

    return solver


def slopes(y: Tensor) -> Tensor:
    """In torch."""
    return torch.stack([y[:, 1], (1 - y[:, 0] ** 2) * y[:, 1] - y[:, 0]], dim=1)


def torchdiffeq_solver(y0: Tensor) -> Callable[[], Tensor]:
    """One step size for the whole batch."""
    from torchdiffeq import odeint

    times = torch.tensor([0.0, END], dtype=torch.float64)
    return lambda: odeint(lambda t, y: slopes(y), y0, times, rtol=TOLERANCE, atol=TOLERANCE, method="dopri5")[-1]


def torchode_solver(y0: Tensor) -> Callable[[], Tensor]:
    """One step size a sample, finished samples stay."""
    import torchode

    term = torchode.ODETerm(lambda t, y: slopes(y))
    method = torchode.Dopri5(term=term)
    controller = torchode.IntegralController(atol=TOLERANCE, rtol=TOLERANCE, term=term)
    solver = torchode.AutoDiffAdjoint(method, controller)
    times = torch.tensor([0.0, END], dtype=torch.float64).expand(len(y0), 2).contiguous()
    problem = torchode.InitialValueProblem(y0=y0, t_eval=times)
    return lambda: solver.solve(problem).ys[:, -1]


def diffrax_solver(*, batched: bool) -> Solver:
    """Compiled; one step size for the whole batch (``batched``), or mapped over samples."""

    def solver(y0: Tensor) -> Callable[[], Any]:
        import diffrax
        import jax

        jax.config.update("jax_enable_x64", True)

        def slope(t, y, args):
            return jax.numpy.stack([y[..., 1], (1 - y[..., 0] ** 2) * y[..., 1] - y[..., 0]], axis=-1)

        def solve(y):
            controller = diffrax.PIDController(rtol=TOLERANCE, atol=TOLERANCE)
            return diffrax.diffeqsolve(
                diffrax.ODETerm(slope), diffrax.Dopri5(), 0.0, END, None, y, stepsize_controller=controller
            ).ys[-1]

        compiled = jax.jit(solve if batched else jax.vmap(solve))
        start = jax.numpy.asarray(y0.numpy())
        return lambda: compiled(start).block_until_ready()

    return solver


def peers(bench: Benchmark) -> Iterator[tuple[str, Solver]]:
    """Those that are installed."""
    found = {
        "torchdiffeq": ("torchdiffeq", torchdiffeq_solver),
        "torchode": ("torchode", torchode_solver),
        "diffrax": ("diffrax", diffrax_solver(batched=False)),
        "diffrax, one step size": ("diffrax", diffrax_solver(batched=True)),
    }
    for name, (package, solver) in found.items():
        if importlib.util.find_spec(package):
            yield name, solver
        else:
            bench.skip(f"{name}: not installed")


def errors(solver: Solver, y0: Tensor, exact: Tensor) -> dict[str, float]:
    """Root mean square and largest error over the starts that have a reference."""
    found = torch.as_tensor(np.asarray(solver(y0)())[: len(exact)])
    difference = (found - exact).abs()
    return {"rms_error": float(difference.square().mean().sqrt()), "max_error": float(difference.max())}


def table(rows: list[dict[str, Any]]) -> Table:
    """Errors of what was timed."""
    result = Table(title="errors at the end: root mean square, largest")
    for name in ("case", "peer", "ours", "theirs"):
        result.add_column(name)
    for row in rows:
        mine, theirs = (f"{row[f'{who}rms_error']:.2e}, {row[f'{who}max_error']:.2e}" for who in ("ours_", "theirs_"))
        result.add_row(row["case"], row["peer"], mine, theirs)
    return result


def benchmark(bench: Benchmark) -> None:
    """Both sizes, numba against every peer and the built-in field against numba."""
    warnings.filterwarnings("ignore")  # of the peers
    by_numba, built_in = ours(van_der_pol, torch.ones(1, dtype=torch.float64)), ours(VanDerPol())
    if importlib.util.find_spec("numba") is None:
        bench.skip("numba is not installed: the built-in field stands for it")
        by_numba = built_in
    exact = reference(starts(CHECKED))
    for batch in (256, 4096) if bench.quick else (256, 65_536):
        y0 = starts(batch)
        mine = errors(by_numba, y0, exact)
        for case, solver, of, others in (
            (f"van der pol {batch} numba", by_numba, mine, peers(bench)),
            (f"van der pol {batch} built-in", built_in, errors(built_in, y0, exact), [("numba", by_numba)]),
        ):
            for name, peer in others:
                if bench.wants(case):
                    found = {f"ours_{k}": v for k, v in of.items()}
                    found |= {f"theirs_{k}": v for k, v in errors(peer, y0, exact).items()}
                    run, their_run = solver(y0), peer(y0)
                    bench.compare(case, name, lambda run=run: run, lambda run=their_run: run, **found)
    Console(width=120).print(table(bench.rows))


if __name__ == "__main__":
    main(benchmark, __doc__)
