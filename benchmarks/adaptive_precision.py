"""How exact is an adaptive solver for what it evaluates?

Errors and evaluations of our methods, scipy's and torchdiffeq's on the test problems that are not stiff, at tolerances
from 1e-3 to 1e-10, as a table in Markdown. An error is the largest over samples of the root mean square of the error
over 1 + |x|, to be compared with the tolerance; behind it stand the evaluations of the sample that needed most.
Nothing is timed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import pushforward as pf

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))

from ode_problems import PROBLEMS, OdeProblem


def precision(quick: bool) -> None:
    """Error and evaluations, ours beside scipy's and torchdiffeq's."""
    try:
        import torchdiffeq
    except ImportError:
        torchdiffeq = None
    print("| problem | tolerance | dopri54 | tsit54 | dop853 | scipy RK45 | scipy DOP853 | torchdiffeq dopri5 |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for problem in PROBLEMS.values():
        if problem.stiff:
            continue
        for exponent in (3, 4, 6, 8, 10) if not quick else (4,):
            tolerance = 10.0**-exponent
            cells = []
            for method in ("dopri54", "tsit54", "dop853"):
                found = pf.solve_ode(
                    problem.field, problem.x0, problem.times, method=method, rtol=tolerance, atol=tolerance
                )
                cells.append(f"{problem.error(found.final):.1e} ({int(found.nfe.max())})")
            for method in ("RK45", "DOP853"):
                state, evaluations = problem.scipy(method, tolerance)
                cells.append(f"{problem.error(state):.1e} ({evaluations})")
            cells.append("" if torchdiffeq is None else torchdiffeq_cell(torchdiffeq, problem, tolerance))
            print(f"| {problem} | 1e-{exponent} | " + " | ".join(cells) + " |", flush=True)


def torchdiffeq_cell(torchdiffeq: Any, problem: OdeProblem, tolerance: float) -> str:
    """Error and evaluations of torchdiffeq's dopri5."""
    count = 0

    def field(t: Tensor, x: Tensor) -> Tensor:
        nonlocal count
        count += 1
        return problem.field(x, t.expand(len(x)))

    times = torch.tensor(problem.times, dtype=torch.float64)
    with torch.no_grad():
        state = torchdiffeq.odeint(field, problem.x0, times, rtol=tolerance, atol=tolerance, method="dopri5")[-1]
    return f"{problem.error(state):.1e} ({count})"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one tolerance")
    torch.set_num_threads(1)
    precision(parser.parse_args().quick)
