"""How near do the fitted plans that ship come to the exact samples, beside the best standard solver, on fresh starts?

For each plan of a bundled model at one guidance: root mean square distance to the exact samples over all starts, the
median sample's, and the root mean square without the worst 3 %, of the plan and of the best of six standard solvers on
four grids. No fit has seen these starts. A few of them lie between two digits and flip; they make the root mean square,
and another draw of starts (``--seed``) has others, which is why all three are shown.

``--markdown`` prints rows of a page. 256 starts take 3 minutes of two cores at guidance 1, and twice that at others.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from work_precision import pipes

import pushforward as pf
from pushforward import kernels
from pushforward.solvers.fitting.bundled import bundled_fits
from pushforward.solvers.fitting.fit import cpu_batch
from pushforward.solvers.fitting.measured import squared_errors
from pushforward.solvers.fitting.report import standard_squares
from pushforward.solvers.fitting.starts import Starts

KEPT = 0.97  # of the starts: without the worst 3 %
HEAD = ["NFE", "fitted", "best standard", "ratio"]


@dataclass(frozen=True)
class Errors:
    """Of one solver on all starts.

    Attributes:
        error, median, typical: Root mean square; the median sample's; root mean square without the worst 3 %.
    """

    error: float
    median: float
    typical: float

    @classmethod
    def of(cls, squares: Tensor) -> Errors:
        """From the mean square of each sample."""
        most = squares.sort().values[: int(KEPT * len(squares))]
        return cls(*(value.sqrt().item() for value in (squares.mean(), squares.median(), most.mean())))

    def over(self, other: Errors) -> Errors:
        """Ratios of these to others."""
        return Errors(self.error / other.error, self.median / other.median, self.typical / other.typical)

    def text(self, digits: int) -> str:
        """The three numbers."""
        return f"{self.error:.{digits}f} ({self.median:.{digits}f}; {self.typical:.{digits}f})"


def solved(model: pf.Model, shape: tuple[int, ...], guidance: float, count: int, seed: int) -> Starts:
    """Fresh starts with labels 0 to 9 in turn, and their exact samples."""
    noise = kernels.normal((count, *shape), seed=seed, draw=kernels.Draw(kernels.PURPOSE_INITIAL, 0))
    labels = {"label": torch.arange(count) % 10}
    starts = Starts(model, noise, guidance, labels, None, batch=cpu_batch(noise[0].numel()))
    starts.find_trajectory(0.0, 32)
    return starts


def lines(starts: Starts, plans: list[pf.FittedPlan]) -> Iterator[list[str]]:
    """A plan each."""
    for plan in plans:
        mine = Errors.of(found_errors(starts, plan))
        name, best = best_standard(starts, plan.steps)
        yield [str(plan.steps), mine.text(4), f"{best.text(4)} {name}", best.over(mine).text(2)]


def found_errors(starts: Starts, plan: pf.FittedPlan) -> Tensor:
    """Of a plan, which has to run."""
    squares = squared_errors(plan, plan.times, [starts])
    assert squares is not None
    return squares


def best_standard(starts: Starts, steps: int) -> tuple[str, Errors]:
    """By the root mean square."""
    found = standard_squares(starts.model, [starts], steps, 0.0)
    return min(((name, Errors.of(squares)) for name, squares in found), key=lambda pair: pair[1].error)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="digits28-base")
    parser.add_argument("--guidance", type=float, default=1.0)
    parser.add_argument("--starts", type=int, default=256)
    parser.add_argument("--steps", type=int, nargs="+", default=[4, 5, 6, 8, 10])
    parser.add_argument("--seed", type=int, default=999)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--markdown", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model, shape = pf.models.load(options.model), tuple(pf.models.card(options.model)["shape"])
    own = pf.models.fingerprint(model)
    plans = [plan for plan in bundled_fits()
             if plan.fingerprint == own and plan.fits(options.guidance) and plan.steps in options.steps]  # fmt: skip
    found = list(lines(solved(model, shape, options.guidance, options.starts, options.seed), plans))
    if options.markdown:
        print("\n".join(pipes(HEAD, found)))
        return
    table = Table(*HEAD, title=f"{options.model}, guidance {options.guidance:g}: error (median; without the worst 3 %)")
    for line in found:
        table.add_row(*line)
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
