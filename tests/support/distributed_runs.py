"""What the processes of tests/solvers/search/test_distributed.py do."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from small_searches import two_evaluations
from torch import Tensor

import pushforward as pf
from pushforward import kernels
from pushforward.models import MixtureOracle, Model
from pushforward.models.verifiers import RankEnsemble
from pushforward.solvers.particles import TorchShard
from pushforward.solvers.search import SearchResult, method, methods

DOUBLE = torch.float64
SIZES = (1, 2, 3, 4)
SIZES_OF = {"thirteen": (1, 2, 4), "padded": SIZES, "idle": (4,), "several": (2,)}
VARIANTS = {
    "thirteen": {},  # particles for each of five requests: 65 rows, which neither 2 nor 3 nor 4 divide
    "padded": {"batch": 8, "pad": True},
    "idle": {"shape": (1, 2)},  # fewer rows than processes
    "several": {"batch": 8, "pad": True, "budget": 286},  # evaluations a step, and verifiers where they vote by ranks
}

# Methods that are not here run with their defaults.
OPTIONS: dict[str, dict[str, Any]] = {
    "best_of_n": {"candidates": 13, "chunk": 5},
    "svdd": {"chains": 13, "candidates": 2, "beta": 0.5},
    "code": {"chains": 13, "candidates": 2},
    "rbf": {"chains": 13},
    "smc": {"particles": 13},
    "tds": {"particles": 13},
    "das": {"particles": 13},
}
FEW: dict[str, dict[str, Any]] = {
    "best_of_n": {"candidates": 3, "chunk": 2},
    "svdd": {"chains": 1, "candidates": 3},
    "code": {"chains": 1, "candidates": 3},
    "rbf": {"chains": 1, "initial": 2},
    "smc": {"particles": 3},
    "tds": {"particles": 3},
    "das": {"particles": 3},
}


def three_modes() -> Model:
    """Oracle O2: modes at (3, 0), (-3, 0), (0, 3), the last the rarest."""
    covariance = (0.09 * torch.eye(2, dtype=DOUBLE)).tolist()
    return MixtureOracle([0.6, 0.3, 0.1], [[3.0, 0.0], [-3.0, 0.0], [0.0, 3.0]], [covariance] * 3).model()


def upwards(x: Tensor, context: Any) -> Tensor:
    """The second coordinate."""
    del context
    return x[:, 1]


VOTES = RankEnsemble([upwards, lambda x, _: -x[:, 0].abs(), lambda x, _: x.sum(1)])


def find(name: str, variant: str = "thirteen", reward: Any = upwards, **changed: Any) -> SearchResult:
    """A search on three modes: by 13 particles for each of five requests, or by few for one."""
    table = FEW if variant == "idle" else OPTIONS
    options = {"shape": (5, 2), "steps": 4, "keep": 3, "seed": 11, "dtype": DOUBLE}
    if name == "rbf" and variant == "idle":
        changed = {"budget": 20} | changed
    chosen = method(name, **table.get(name, {}))
    if variant == "several" and chosen.ranks:
        reward = VOTES
    if variant == "several":
        changed = {"solver": None if getattr(chosen, "twist", 0) else two_evaluations(chosen)} | changed
    options |= {"method": chosen, **VARIANTS[variant], **changed}
    return pf.search(three_modes(), reward, options.pop("budget", 156), **options)


def arrays(result: SearchResult) -> dict[str, np.ndarray]:
    """All that a result says, by name; NaN for None."""
    genealogy = result.trace.genealogy
    found = {
        "samples": result.samples,
        "rewards": result.rewards,
        "order": result.order,
        "look_ahead": result.look_ahead,
        "log_weights": result.log_weights,
        "log_evidence": result.log_evidence,
        "nfe": torch.from_numpy(result.ledger.nfe),
        "seen": torch.cat([record.rewards.reshape(-1) for record in result.trace.records]),
        "ancestors": torch.cat([a.reshape(-1).long() for a in genealogy.ancestors])
        if genealogy is not None and genealogy.ancestors
        else None,
    }
    return {key: np.array(np.nan) if value is None else value.numpy() for key, value in found.items()}


def everything(rank: int, size: int, folder: Path) -> dict[str, Any]:
    """All that the tests look at; the last scenario kills a process."""
    torch.set_grad_enabled(False)
    groups = {n: dist.new_group(list(range(n))) for n in SIZES}
    hanging, killed = (dist.new_group(list(range(size)), timeout=timedelta(seconds=60)) for _ in range(2))
    saved = {}
    for n, group in groups.items():
        if rank < n:
            for name, _ in methods():
                for variant in (variant for variant in VARIANTS if n in SIZES_OF[variant]):
                    result = arrays(find(name, variant, group=group))
                    saved |= {f"{n} {name} {variant} {key}": value for key, value in result.items()}
    report: dict[str, Any] = {"rows": [check_rows(groups[n], n) for n in SIZES if rank < n]}
    report["collective"] = check_rows(groups[size], size, Collective)
    for name, scenario in SCENARIOS.items():
        report[name] = outcome(lambda s=scenario: s(rank))
    report["stopped"], resumed = resume(rank, groups, folder)
    saved |= {f"resumed {key}": value for key, value in resumed.items()}
    np.savez(folder / f"{rank}.npz", **saved)
    slow = Misbehaving(rank, 3, 2, lambda: time.sleep(4))
    report["hang"] = outcome(lambda: find("svdd", reward=slow, group=hanging, timeout=1.0))
    end = Misbehaving(rank, 3, 2, lambda: os.kill(os.getpid(), signal.SIGKILL))
    report["kill"] = outcome(lambda: find("svdd", reward=end, group=killed, timeout=30.0))
    return report


# --- failures -------------------------------------------------------------------------------------------------------


class Misbehaving:
    """The second coordinate, until one process, in one call, does something else first."""

    def __init__(self, rank: int, who: int, call: int, act: Callable[[], object]) -> None:
        self.strikes, self.call, self.act, self.calls = rank == who, call, act, 0

    def __call__(self, x: Tensor, context: Any) -> Tensor:
        self.calls += 1
        if self.strikes and self.calls == self.call:
            self.act()
        return upwards(x, context)


def boom() -> None:
    raise RuntimeError("boom: the verifier is out of memory")


def leave(rank: int) -> None:
    """A user's exception between two calls."""
    with TorchShard() as shard:
        if rank == 1:
            raise KeyError("mistake")
        shard.gather(torch.ones(1), 4)


def stray(rank: int) -> None:
    """One process takes another way through the program."""
    with TorchShard() as shard:
        if rank == 2:
            shard.agree(1.0)
        else:
            shard.gather(torch.ones(1), 4)


def other_rows(rank: int) -> None:
    """One process has another opinion on what moves."""
    with TorchShard() as shard:
        sources = torch.tensor([3, 2, 1, 1 if rank == 2 else 0])
        shard.move([torch.ones(1, 2)], sources, 4)


def some(rank: int) -> None:
    """A group that carries nothing of the CPU, of three processes."""
    group = dist.new_group([0, 1, 2], backend="cuda:gloo")
    if rank < 3:
        find("svdd", group=group)


SCENARIOS: dict[str, Callable[[int], object]] = {
    "seed": lambda rank: find("best_of_n", group=True, seed=int(rank == 1)),
    "several": lambda rank: find("svdd", group="auto", **({"steps": 5, "shape": (2, 2)} if rank == 3 else {})),
    "argument": lambda rank: find("svdd", group=True, keep=0 if rank == 2 else 1),
    "reward": lambda rank: find("smc", group=True, reward=Misbehaving(rank, 2, 3, boom)),
    "held_out": lambda rank: find("code", group=True, held_out=Misbehaving(rank, 0, 1, boom)),
    "everyone": lambda rank: find("svdd", group=True, budget=2),
    "leave": leave,
    "stray": stray,
    "other_rows": other_rows,
    "companion": lambda rank: find("svdd", group=dist.new_group(list(range(4)), backend="cuda:gloo")),
    "some": some,
    "after": lambda rank: find("best_of_n", group=True),
}


def outcome(call: Callable[[], object]) -> dict[str, Any]:
    """How a call ended."""
    try:
        call()
    except Exception as error:
        return {"kind": type(error).__name__, "said": str(error), "ranks": list(getattr(error, "ranks", ()))}
    return {"kind": "none", "said": "", "ranks": []}


def stop(task: Any, state: Any) -> None:
    """An observer that ends a search on its way."""
    del task
    if state.step == 2:
        raise InterruptedError("the job's time is over")


def resume(
    rank: int, groups: dict[int, dist.ProcessGroup], folder: Path
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """A search of two processes that ends on its way in the second, goes on in three, and then in two."""
    ends: list[dict[str, Any]] = []
    path, watching = folder / "search.json", [stop] if rank == 1 else []
    if rank < 2:
        ends.append(outcome(lambda: find("smc", group=groups[2], checkpoint=path, observers=watching)))
    dist.barrier()
    if rank < 3:
        ends.append(outcome(lambda: find("smc", group=groups[3], checkpoint=path)))
    return ends, arrays(find("smc", group=groups[2], checkpoint=path)) if rank < 2 else {}


# --- rows -----------------------------------------------------------------------------------------------------------


class Collective(TorchShard):
    """Moves rows as between GPUs."""

    def _deliver(self, packed: Any, sizes: Any, device: torch.device) -> dict[int, Tensor]:
        return self._all_to_all(packed, sizes, device)


def check_rows(group: dist.ProcessGroup, size: int, kind: type[TorchShard] = TorchShard) -> list[int]:
    """Random moves, gathers and fetches against what one process does; rows sent, and rows that had to be."""
    draw = np.random.default_rng(5)
    sent = needed = 0
    shard = kind(group)
    for _ in range(25):
        rows, new = (int(n) for n in draw.choice([1, 2, 3, 5, 13, 64], 2))
        whole = [
            torch.from_numpy(draw.normal(size=(rows, 3))),
            torch.from_numpy(draw.normal(size=(rows, 1, 5)).astype(np.float32)).bfloat16(),
            torch.from_numpy(draw.integers(0, 2, (rows, 3)).astype(bool)),
            torch.from_numpy(draw.integers(-9, 9, rows)),
            torch.from_numpy(draw.normal(size=(rows, 2)))[:, 1],
            torch.zeros(rows, 0),
        ][int(draw.integers(0, 6)) :]
        sources = torch.from_numpy(draw.integers(0, rows, new))
        if draw.random() < 0.3 and rows == new:
            sources = kernels.keep_in_place(sources)
        here, there = shard.block(rows), shard.block(new)
        before = shard.traffic.rows
        moved = shard.move([x[here] for x in whole], sources, rows)
        for x, got in zip(whole, moved, strict=True):
            assert got.dtype == x.dtype
            assert torch.equal(got, x[sources][there])
            assert torch.equal(shard.fetch(x[here], sources, rows), x[sources])
            assert torch.equal(shard.gather(x[here], rows), x)
        sent += shard.traffic.rows - before
        for other in range(size):
            wanted = set(sources[shard.block(new, other)].tolist()) if other != shard.rank else set()
            needed += len(wanted & set(range(here.start, here.stop)))
        assert shard.agree(float(shard.rank + new)) == float(new)
    return [sent, needed]
