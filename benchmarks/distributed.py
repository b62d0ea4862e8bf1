"""How much faster are two processes of one thread each than one, and what does a meeting cost?

The same search of the bundled digits28-base, guidance 1, in one process of one thread and shared out over two by
`search(group=...)`: "ours" is two, "theirs" one, and the ratio is the speed-up; 2 would be perfect. The network's calls
are padded to the same number of rows, and both must find the same samples. A meeting is what every reward of a step
costs beside the network: all processes exchange where they are and their numbers. Needs two idle cores. Rows "busy"
count the processor time of the busiest process instead: what they gain and the others do not is lost to waiting, for
the other process or for a core that something else uses.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager
from functools import lru_cache
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.distributed as dist
from _harness import Benchmark, main

import pushforward as pf
from pushforward.solvers.particles import TorchShard
from pushforward.solvers.search import SMC, SVDD, BestOfN, SearchResult

PROCESSES = 2
METHODS = {
    "svdd 4 chains x 16": SVDD(chains=4, candidates=16, start="independent"),
    "smc 64 particles": SMC(particles=64, strength=20.0),
    "best_of_n 64": BestOfN(candidates=64),
}
SHARE = 16  # rows of a network call


def ink(x: torch.Tensor, context: Any) -> torch.Tensor:
    """Mean brightness."""
    del context
    return x.flatten(1).mean(1)


@lru_cache
def network() -> pf.models.Model:
    """The bundled model."""
    return pf.models.load("digits28-base")


def search(name: str, steps: int, group: Any) -> SearchResult:
    """One search, for one request."""
    options = {"shape": (1, 1, 28, 28), "steps": steps, "seed": 1, "batch": SHARE, "pad": True}
    options["condition"] = {"label": torch.tensor([3])}
    return pf.search(network(), ink, 10**6, method=METHODS[name], group=group, **options)


def serve(rank: int, folder: str, orders: Connection) -> None:
    """What a process does: searches, alone or with the others, until told to stop."""
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    store = dist.FileStore(f"{folder}/store", PROCESSES)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=PROCESSES)
    while (order := orders.recv()) is not None:
        name, steps, shared = order
        if name == "meeting":
            shard, local = TorchShard(), torch.zeros(16, dtype=torch.float64)
            begin, busy = time.perf_counter(), time.process_time()
            for _ in range(steps):
                shard.gather(local, 16 * PROCESSES)
            orders.send((time.perf_counter() - begin, time.process_time() - busy, []))
            continue
        begin, busy = time.perf_counter(), time.process_time()
        result = search(name, steps, True if shared else None)
        spent, busy = time.perf_counter() - begin, time.process_time() - busy
        genealogy = result.trace.genealogy
        ancestors = [] if genealogy is None else [a.tolist() for a in genealogy.ancestors]
        orders.send((spent, busy, [result.samples.tolist(), result.rewards.tolist(), ancestors]))
    dist.destroy_process_group()


@contextmanager
def processes():
    """Pipes to the processes."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        pipes = [context.Pipe() for _ in range(PROCESSES)]
        workers = [context.Process(target=serve, args=(r, folder, pipes[r][1])) for r in range(PROCESSES)]
        for worker, (_, theirs) in zip(workers, pipes, strict=True):
            worker.start()
            theirs.close()  # so that a worker that dies is noticed
        try:
            yield [mine for mine, _ in pipes]
            for mine, _ in pipes:
                mine.send(None)
            for worker in workers:
                worker.join(10)
        finally:
            for worker in workers:
                worker.kill()


def timed(pipes: list[Connection], name: str, steps: int, shared: bool) -> tuple[float, float, Any]:
    """Wall time of a search and processor time, as the slowest process has them, and what the first found."""
    asked = pipes if shared else pipes[:1]
    for pipe in asked:
        pipe.send((name, steps, shared))
    answers = [pipe.recv() for pipe in asked]
    return max(answer[0] for answer in answers), max(answer[1] for answer in answers), answers[0][2]


def benchmark(bench: Benchmark) -> None:
    torch.set_num_threads(1)
    steps = 5 if bench.quick else 10
    with processes() as pipes:
        for name in METHODS:
            case = f"{name}, {steps} steps, 1x28x28 float32"
            if not bench.wants(case):
                continue
            alone, both = (timed(pipes, name, steps, shared)[2] for shared in (False, True))
            difference = (torch.tensor(alone[0]) - torch.tensor(both[0])).abs().max().item()
            if alone[1:] != both[1:] or not difference <= 1e-6:
                raise AssertionError(f"{case}: two processes found something else, samples differ by {difference:.1e}")
            for which, label in enumerate((case, f"{case}, busy")):
                ours, theirs = (run(pipes, name, steps, shared, which) for shared in (True, False))
                bench.compare(label, "1 process", ours, theirs, difference=difference, processes=PROCESSES)
        if bench.wants("meeting"):
            count = 1000
            looks = [timed(pipes, "meeting", count, True) for _ in range(3)]
            for which, label in enumerate(("", ", busy")):
                spent = min(look[which] for look in looks) / count
                bench.alone(f"meeting of {PROCESSES}{label}", spent, "128 bytes each")


def run(pipes: list[Connection], name: str, steps: int, shared: bool, which: int) -> Callable[[], Callable[[], float]]:
    """A preparation as the harness wants it; the seconds that count are the search's own, wall or busy."""
    return lambda: lambda: timed(pipes, name, steps, shared)[which]


if __name__ == "__main__":
    main(benchmark, __doc__)
