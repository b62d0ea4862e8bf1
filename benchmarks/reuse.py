"""What does reuse between steps save, and what does it cost where nothing is reused?

50 DDIM steps of the bundled digit network, against the same run without reuse in turn: the encoder at every fourth step
with extrapolated features (evaluations ahead in one call, and one by one), the paper's key steps, DeepCache; and every
step computed, where the ratio is what taps and bookkeeping cost. ``error`` is the median sample's root mean square
distance to the exact flow (100 evaluations by RK4), ``dense_error`` that of as many dense steps as there were encoder
passes. Seconds are those of the processor: other processes change them little, and on an idle machine with one thread
they are those of the wall.
"""

from __future__ import annotations

import time
from functools import cache
from typing import Any

import torch
from _harness import Benchmark, Run, main
from torch import Tensor

import pushforward as pf
from pushforward.models import reuse

STEPS = 50
CASES: dict[str, tuple[type[reuse.FeatureCache], Any, dict[str, Any]]] = {
    "encoder at every 4th": (reuse.EncoderPropagation, reuse.Interval(4), {"order": 2}),
    "encoder at every 4th, held": (reuse.EncoderPropagation, reuse.Interval(4), {}),
    "encoder at every 4th, one by one": (reuse.EncoderPropagation, reuse.Interval(4), {"order": 2, "ahead": False}),
    "encoder at every 3rd": (reuse.EncoderPropagation, reuse.Interval(3), {"order": 2}),
    "paper's keys": (reuse.EncoderPropagation, reuse.Static(reuse.FASTER_DIFFUSION_KEYS), {"order": 1}),
    "paper's keys, held": (reuse.EncoderPropagation, reuse.Static(reuse.FASTER_DIFFUSION_KEYS), {}),
    "deep layers at every 3rd": (reuse.DeepCache, reuse.Interval(3), {}),
    "deep layers at every 3rd, extrapolated": (reuse.DeepCache, reuse.Interval(3), {"order": 2}),
    "every step": (reuse.EncoderPropagation, reuse.Interval(1), {}),
}


@cache
def model() -> pf.models.Model:
    return pf.models.load("digits28-base")


@cache
def draw(rows: int, which: str, solver: str = "ddim", steps: int = STEPS) -> Tensor:
    """Samples of one case, or of the model itself."""
    return run(rows, model() if which == "model" else around(which), solver, steps)


def run(rows: int, drawn: pf.models.Model, solver: str = "ddim", steps: int = STEPS) -> Tensor:
    labels = {"label": torch.arange(rows) % 10}
    return pf.sample(drawn, (rows, 1, 28, 28), solver=solver, steps=steps, condition=labels, seed=2024)


def seconds(rows: int, drawn: pf.models.Model) -> float:
    """Of the processor, for one run."""
    begin = time.process_time()
    run(rows, drawn)
    return time.process_time() - begin


def around(case: str) -> reuse.FeatureCache:
    kind, policy, options = CASES[case]
    schedule = reuse.Schedule.of(pf.make_plan(model(), solver="ddim", steps=STEPS), policy)
    return kind.around(model(), schedule=schedule, **options)


def error(rows: int, found: Tensor) -> float:
    """The median sample's: now and then one lies where two digits part, and a mean square is that one's."""
    return (found - draw(rows, "model", "rk4", 25)).flatten(1).square().mean(1).sqrt().median().item()


def benchmark(bench: Benchmark) -> None:
    for rows in (1, 16) if bench.quick else (1, 16, 64):
        for case in CASES:
            name = f"{case} {rows}x1x28x28"
            if not bench.wants(name):
                continue
            cached = around(case)
            keys = len(cached.schedule.keys or ())

            def ours(cached: pf.models.Model = cached, rows: int = rows) -> Run:
                return lambda: seconds(rows, cached)

            def theirs(rows: int = rows) -> Run:
                return lambda: seconds(rows, model())

            if case == "every step":
                assert torch.equal(draw(rows, case), draw(rows, "model")), "nothing was reused, so bit for bit"
            more = {"keys": keys, "error": error(rows, draw(rows, case))}
            more["dense_error"] = error(rows, draw(rows, "model", steps=keys))
            bench.compare(name, "no reuse", ours, theirs, **more, saved=lambda row: 1 - row["ours"] / row["theirs"])


if __name__ == "__main__":
    main(benchmark, __doc__)
