from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest
import small_searches
import torch
from small_searches import difference, reward, run, samplers, several_advances
from torch import Tensor

from pushforward.errors import ArgumentError, CheckpointError, CorruptFileError
from pushforward.solvers.particles import Shard
from pushforward.solvers.search import (
    SVDD,
    BestOfN,
    Checkpoint,
    CoDe,
    Method,
    Outcome,
    RolloverBudgetForcing,
    State,
    Task,
)
from pushforward.solvers.search.checkpoint import write_json

METHODS = several_advances()


class Killed(Exception):
    """What a search is interrupted by."""


class Killer:
    """Counts calls, and raises in one of them."""

    def __init__(self, at: int | None = None) -> None:
        self.at, self.calls = at, 0

    def __call__(self, task: Any, state: Any) -> None:
        self.calls += 1
        if self.calls == self.at:
            raise Killed


class KillingReward(Killer):
    """The same as a reward, under the name that the shared one has."""

    name = "reward"

    def __call__(self, x: Tensor, context: Any) -> Tensor:
        super().__call__(x, context)
        return reward(x, context)


@pytest.fixture(autouse=True)
def _no_flush(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flushing to the disk takes most of these tests' time; one of them looks at it."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(("name", "solver"), samplers())
def test_an_interrupted_search_returns_what_it_would_have_returned(
    name: str, solver: str | None, tmp_path: Path
) -> None:
    watcher, method = Killer(), dict(METHODS)[name]
    run = partial(small_searches.run, solver=solver)
    whole = run(method, observers=[watcher])
    assert watcher.calls > 1
    middle = (watcher.calls + 1) // 2
    for at in sorted({1, middle, watcher.calls}) if solver is None else (middle,):
        path = tmp_path / f"{at}.json"
        with pytest.raises(Killed):
            run(method, checkpoint=path, observers=[Killer(at)])
        again = Killer()
        resumed = run(method, checkpoint=path, observers=[again])
        assert difference(whole, resumed) is None
        assert again.calls == watcher.calls - at + 1, "it went on from where it stood"
        idle = KillingReward(1)
        assert difference(whole, run(method, checkpoint=path, reward=idle)) is None
        assert idle.calls == 0, "a finished search is not run again"


@pytest.mark.parametrize(("name", "method"), METHODS, ids=[name for name, _ in METHODS])
def test_a_search_that_fails_within_an_advance_goes_on_from_the_one_before(
    name: str, method: Method, tmp_path: Path
) -> None:
    counter = KillingReward()
    whole = run(method, reward=counter)
    with pytest.raises(Killed):
        run(method, reward=KillingReward(1 + counter.calls // 2), checkpoint=tmp_path / "run")
    resumed = run(method, checkpoint=tmp_path / "run")
    assert difference(whole, resumed) is None


def test_the_middle_of_a_block_is_saved(tmp_path: Path) -> None:
    states: list[Any] = []

    def keep(task: Task, state: State) -> None:
        states.append(dataclasses.replace(state))

    method = CoDe(block=3)
    run(method, observers=[keep])
    inside = next(i for i, state in enumerate(states) if state.within and state.step % 3 == 2)
    with pytest.raises(Killed):
        run(method, checkpoint=tmp_path / "run", observers=[Killer(inside + 1)])
    loaded: list[Any] = []
    run(method, checkpoint=tmp_path / "run", observers=[lambda task, state: loaded.append(dataclasses.replace(state))])
    assert difference(states[inside:], loaded) is None
    assert loaded[0].within


CHILD = """
import os, signal, sys
import torch
from small_searches import reward, run
from pushforward.solvers.search import RolloverBudgetForcing
calls = 0
def deadly(x, context):
    global calls
    calls += 1
    if calls == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    return reward(x, context)
run(RolloverBudgetForcing(), reward=deadly, checkpoint=sys.argv[1], log=sys.argv[1] + ".log")
"""


def deadly(x: Tensor, context: Any) -> Tensor:  # has the name of the child's reward
    return reward(x, context)


def test_a_killed_process_leaves_a_search_that_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2] / "support"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", CHILD, str(path), "40"]
    child = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert child.returncode == -signal.SIGKILL, child.stderr
    whole = run(RolloverBudgetForcing(), reward=deadly, log=tmp_path / "whole.log")
    resumed = run(RolloverBudgetForcing(), reward=deadly, checkpoint=path, log=tmp_path / "run.json.log")
    assert difference(whole, resumed) is None
    assert (tmp_path / "whole.log").read_text() == (tmp_path / "run.json.log").read_text()


def test_one_generation_is_left_and_older_or_half_written_ones_do_no_harm(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        run("svdd", checkpoint=tmp_path / "run.json", observers=[Killer(4)])
    assert files(tmp_path) == ["run.json", "run.json.4.0.safetensors"]
    (tmp_path / ".run.json.tmp").write_text("{")
    (tmp_path / "run.json.5.0.safetensors").write_text("written, but not yet named by the JSON")
    (tmp_path / "run.json.5.1.safetensors").write_text("another process's")
    result = run("svdd", checkpoint=tmp_path / "run.json")
    assert difference(run("svdd"), result) is None
    assert files(tmp_path) == ["run.json", "run.json.11.0.safetensors", "run.json.5.1.safetensors"]


def test_files_are_flushed_before_they_are_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    move = os.replace

    def fsync(descriptor: int) -> None:
        seen.append("flush " + Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)

    def rename(old: Path, new: Path) -> None:
        seen.append(f"{old.name} to {new.name}")
        move(old, new)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", rename)
    with pytest.raises(Killed):
        run("svdd", checkpoint=tmp_path / "run", observers=[Killer(1)])
    parts = ["run.1.0.safetensors", "run"]
    folder = f"flush {tmp_path.name}"
    assert seen == [line for f in parts for line in (f"flush .{f}.tmp", f".{f}.tmp to {f}", folder)]


def test_every(tmp_path: Path) -> None:
    saved: list[int] = []

    def look(task: Task, state: State) -> None:
        found = [int(name.split(".")[2]) for name in files(tmp_path) if name.endswith(".safetensors")]
        saved.extend(found)

    run("svdd", checkpoint=tmp_path / "run.json", every=4, observers=[look])
    assert saved == [1] * 4 + [2] * 3 + [3]  # begin and ten advances are eleven; every fourth, and the last
    run("svdd", checkpoint=tmp_path / "b.json", every_seconds=3600.0)
    assert "b.json.2.0.safetensors" in files(tmp_path), "the first and the last"
    with pytest.raises(ArgumentError, match="every: got 0"):
        run("svdd", checkpoint=tmp_path / "c.json", every=0)
    with pytest.raises(ArgumentError, match="every_seconds: got -1"):
        run("svdd", checkpoint=tmp_path / "c.json", every_seconds=-1)
    with pytest.raises(ArgumentError, match="existing folder"):
        run("svdd", checkpoint=tmp_path / "missing" / "c.json")


def test_time_before_the_interruption_counts(tmp_path: Path) -> None:
    def slow(task: Task, state: State) -> None:
        time.sleep(0.02)

    with pytest.raises(Killed):
        run("svdd", checkpoint=tmp_path / "run", observers=[slow, Killer(5)])
    seconds: list[float] = []
    run("svdd", checkpoint=tmp_path / "run", observers=[lambda task, state: seconds.append(task.ledger.spent_seconds)])
    assert seconds[0] >= 0.08, "four sleeps before the fifth generation"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seed": 6}, r"got seed = 6, expected seed = 5"),
        ({"budget": 300}, r"got budget = Budget\(nfe=300.*expected budget = Budget\(nfe=120"),
        ({"shape": (3, 2)}, r"shape = \[3, 2\]; requests = \[0, 1, 2\]"),
        ({"requests": torch.tensor([4, 1])}, r"requests = \[4, 1\]"),
        ({"method": SVDD(chains=1)}, r"method = SVDD\(chains=1"),
        ({"method": "code"}, r"method = CoDe"),
        ({"solver": "ddpm"}, r"solver = ddpm"),
        ({"steps": 5}, r"grid = "),
        ({"path": "vp"}, r"path = "),
        ({"guidance": 2.0, "null": {}}, r"guidance = "),
        ({"dtype": torch.float32}, r"dtype = float32, expected dtype = float64"),
        ({"batch": 3}, r"batch = 3"),
        ({"reward": lambda x, context: x[:, 0]}, r"reward = .*lambda"),
        ({"context": {"a": torch.ones(2)}}, r"context = "),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_another_search_is_refused_and_told_apart(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        run("svdd", checkpoint=tmp_path / "run", observers=[Killer(3)])
    before = {name: (tmp_path / name).read_bytes() for name in files(tmp_path)}
    with pytest.raises(CheckpointError, match=said):
        run(**({"method": "svdd", "checkpoint": tmp_path / "run"} | changes))
    assert before == {name: (tmp_path / name).read_bytes() for name in files(tmp_path)}


def test_another_network_is_refused(tmp_path: Path) -> None:
    import pushforward as pf

    def model(seed: int) -> pf.models.Model:
        torch.manual_seed(seed)
        net = torch.nn.Linear(2, 2, dtype=torch.float64)
        return pf.models.adapt(lambda_module(net), "velocity", "linear")

    pf.search(model(0), reward, 40, shape=(1, 2), method="best_of_n", dtype=torch.float64, checkpoint=tmp_path / "a")
    with pytest.raises(CheckpointError, match="network = "):
        pf.search(
            model(1), reward, 40, shape=(1, 2), method="best_of_n", dtype=torch.float64, checkpoint=tmp_path / "a"
        )


def lambda_module(net: torch.nn.Module) -> torch.nn.Module:
    class Timed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return self.net(x)

    return Timed()


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    with pytest.raises(Killed):
        run("svdd", checkpoint=path, observers=[Killer(3)])
    tensors = tmp_path / "run.json.3.0.safetensors"
    text, content = path.read_bytes(), tensors.read_bytes()

    def refused(file: Path, damaged: bytes) -> None:
        file.write_bytes(damaged)
        with pytest.raises(CorruptFileError, match=r"run\.json"):
            run("svdd", checkpoint=path)
        path.write_bytes(text)
        tensors.write_bytes(content)

    for length in (0, 1, len(text) // 2, len(text) - 2):
        refused(path, text[:length])
    refused(path, text.replace(b'"seed": "5"', b'"seed": "6"'))
    refused(path, text.replace(b'"format": 1', b'"format": 2'))
    refused(path, b"[]")
    for length in (0, 8, len(content) // 2, len(content) - 1):
        refused(tensors, content[:length])
    refused(tensors, content[:-1] + bytes([content[-1] ^ 1]))
    tensors.unlink()
    with pytest.raises(CorruptFileError, match=r"run\.json\.3\.0\.safetensors"):
        run("svdd", checkpoint=path)
    tensors.write_bytes(content)
    assert difference(run("svdd"), run("svdd", checkpoint=path)) is None


def test_a_file_that_names_another_class_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    with pytest.raises(Killed):
        run("svdd", checkpoint=path, observers=[Killer(3)])
    body = json.loads(path.read_text())["body"]
    known = body["content"]["state"]["class"]
    for name in ("subprocess.Popen", "pushforward.solvers.search.rollover.Climb"):
        body["content"]["state"]["class"] = name
        write_json(path, body)
        with pytest.raises(CorruptFileError, match=f"class {name}: got an unknown name"):
            run("svdd", checkpoint=path)
    body["content"]["state"]["class"] = known
    body["content"]["state"]["fields"]["more"] = 1
    write_json(path, body)
    with pytest.raises(CorruptFileError, match="fields"):
        run("svdd", checkpoint=path)


class Second(Shard):
    """Two processes, of which only the second is here."""

    rank, size = 1, 2

    def gather(self, local: Tensor, rows: int) -> Tensor:
        return torch.cat([torch.zeros_like(local), local]).cpu()


def test_a_process_that_is_not_the_first_writes_its_tensors_and_no_json(tmp_path: Path) -> None:
    from pushforward.models import GaussianOracle
    from pushforward.solvers.search import Budget
    from pushforward.solvers.search.search import make_task

    method = BestOfN(candidates=3)
    oracle = GaussianOracle([0.7], [[0.3]])
    task = make_task(oracle.model(), reward, Budget(100), method, shape=(1, 1), shard=Second())
    store = Checkpoint(tmp_path / "run.json", task, method)
    store.save(method.begin(task))
    assert files(tmp_path) == ["run.json.1.1.safetensors"]


@dataclasses.dataclass(kw_only=True)
class Odd(State):
    note: Any


class OddMethod(Method):
    source: ClassVar[str] = "none"

    def __init__(self, note: Any) -> None:
        self.note = note

    def begin(self, task: Task) -> Odd:
        return Odd(note=self.note, done=True)

    def advance(self, task: Task, state: Odd) -> None:
        raise AssertionError

    def outcome(self, task: Task, state: Odd) -> Outcome:
        particles = task.start(torch.arange(1))
        return Outcome(particles, torch.zeros(len(task.requests), 1, dtype=torch.float64))


@pytest.mark.parametrize("note", [torch.Generator(), {"f": [len]}, Killer()], ids=["generator", "function", "object"])
def test_a_state_that_cannot_be_saved_is_named(note: Any, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"state\.note.*got .*(Generator|builtin|Killer)"):
        run(OddMethod(note), checkpoint=tmp_path / "run")
    assert files(tmp_path) == []
