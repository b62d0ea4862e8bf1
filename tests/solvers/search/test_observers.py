from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from small_searches import difference, run, several_advances

from pushforward.errors import ArgumentError
from pushforward.solvers.particles import Genealogy
from pushforward.solvers.search import Budget, Method, State, Task, Trace

METHODS = several_advances()


class Stop(Exception):
    pass


def stop_at(count: int) -> Any:
    calls: list[int] = []

    def observer(task: Task, state: State) -> None:
        calls.append(state.step)
        if len(calls) == count:
            raise Stop

    return observer


@pytest.mark.parametrize(("name", "method"), METHODS, ids=[name for name, _ in METHODS])
def test_a_log_has_a_line_for_every_record_also_after_an_interruption(
    name: str, method: Method, tmp_path: Path
) -> None:
    whole = run(method, log=tmp_path / "whole")
    lines = [json.loads(line) for line in (tmp_path / "whole").read_text().splitlines()]
    assert len(lines) == len(whole.trace.records) > 0
    for line, record in zip(lines, whole.trace.records, strict=True):
        assert line == record.to_dict()
        assert line["nfe"] == record.nfe.tolist()
    assert lines[-1]["nfe"] == whole.ledger.nfe.tolist()
    if lines[-1]["finished"]:
        assert lines[-1]["best"] == whole.best.tolist()
    (tmp_path / "log").write_text("of another search\n" * 50)
    with pytest.raises(Stop):  # the log is ahead of the checkpoint by an advance, and cut off in a line
        run(method, log=tmp_path / "log", checkpoint=tmp_path / "run", every=2, observers=[stop_at(2)])
    with (tmp_path / "log").open("a") as file:
        file.write('{"phase": "sea')
    run(method, log=tmp_path / "log", checkpoint=tmp_path / "run", every=2)
    assert (tmp_path / "log").read_text() == (tmp_path / "whole").read_text()


def test_lines_are_there_as_soon_as_they_are_written(tmp_path: Path) -> None:
    counts: list[tuple[int, int]] = []

    def look(task: Task, state: State) -> None:
        counts.append((len((tmp_path / "log").read_text().splitlines()), len(task.trace.records)))

    run("svdd", log=tmp_path / "log", observers=[look])
    assert len(counts) == 11
    assert all(lines == records for lines, records in counts)


def test_observers_are_called_after_every_advance_and_left_whatever_happens() -> None:
    class Watcher:
        def __init__(self) -> None:
            self.steps: list[int] = []
            self.inside = 0

        def __enter__(self) -> Watcher:
            self.inside += 1
            return self

        def __exit__(self, *_: object) -> None:
            self.inside -= 1

        def __call__(self, task: Task, state: State) -> None:
            assert self.inside == 1
            self.steps.append(state.step)

    first, second = Watcher(), Watcher()
    watched = run("svdd", observers=[first, second])
    assert first.steps == second.steps == list(range(11))
    assert first.inside == second.inside == 0
    assert difference(run("svdd"), watched) is None
    third = Watcher()
    with pytest.raises(Stop):
        run("svdd", observers=[third, stop_at(3)])
    assert third.inside == 0
    assert len(third.steps) == 3


@pytest.mark.parametrize(
    ("budget", "said"),
    [(120, "NFE"), (Budget(rewards=40), "rewards"), (Budget(nfe=120, seconds=500.0), "NFE")],
    ids=["nfe", "rewards", "both"],
)
def test_the_bar_ends_where_the_budget_is_spent(
    budget: Any, said: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    result = run("best_of_n", budget=budget, progress=True)
    shown = capfd.readouterr()
    assert shown.out == ""
    last = shown.err.strip().splitlines()[-1]
    spent = int(result.ledger.nfe.max() if said == "NFE" else result.ledger.total("rewards").max())
    limit = 120 if said == "NFE" else 40
    assert spent == limit
    assert f"{said} " in last
    assert f"{limit}/{limit}" in last
    assert f"best {float(result.best.mean()):.4g}" in last
    run("best_of_n", budget=budget)
    assert capfd.readouterr().err == ""


def test_files_of_folders_that_do_not_exist(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="log: got"):
        run("svdd", log=tmp_path / "missing" / "log")
    with pytest.raises(ArgumentError, match="path: got"):
        Trace().save(tmp_path / "missing" / "trace.json")


def test_records_say_what_the_candidates_had() -> None:
    trace = Trace(keep=5)
    inf, nan = torch.inf, torch.nan
    rewards = torch.tensor([[1.0, nan, 3.0], [-inf, 2.0, 4.0], [nan, nan, nan]], dtype=torch.float64)
    record = trace.add("search", 2, 0.25, rewards, torch.tensor([3, 3, 0]), ess=torch.tensor([1.5, 2.0, 3.0]))
    assert record.rewards is None, "more than five are not kept"
    assert json.loads(json.dumps(record.to_dict(), allow_nan=False)) == {
        "phase": "search",
        "step": 2,
        "time": 0.25,
        "finished": False,
        "nfe": [3, 3, 0],
        "best": [3.0, 4.0, "-inf"],
        "mean": [2.0, "-inf", None],
        "highest": [3.0, 4.0, None],
        "lowest": [1.0, "-inf", None],
        "ess": [1.5, 2.0, 3.0],
    }


def test_a_trace_is_saved_as_json(tmp_path: Path) -> None:
    result = run("svdd")
    result.trace.genealogy = Genealogy(requests=2, particles=2)
    result.trace.genealogy.record(0, torch.tensor([[0, 0], [1, 0]]))
    result.trace.save(tmp_path / "trace.json")
    saved = json.loads((tmp_path / "trace.json").read_text())
    assert saved == json.loads(result.trace.to_json())
    assert [record["rewards"] for record in saved["records"]] == [r.rewards.tolist() for r in result.trace.records]
    expected = {"requests": 2, "particles": 2, "steps": [0], "resampled": [0], "ancestors": [[[0, 0], [1, 0]]]}
    assert saved["genealogy"] == expected
