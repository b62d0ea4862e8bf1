"""A search in several processes finds what one process finds, and ends in all of them when it ends in one."""

from __future__ import annotations

import json
import re
import signal
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributed_runs import SIZES, SIZES_OF, VARIANTS, arrays, everything, find
from ranks import once, run_ranks

from pushforward.errors import ArgumentError, DistributedError
from pushforward.solvers.particles import Shard, shard_of
from pushforward.solvers.search import methods

METHODS = [name for name, _ in methods()]
PROCESSES = max(SIZES)


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> tuple[list[dict[str, np.ndarray]], Any]:
    """What four processes saved and reported; the last one was killed at the end, and left no report."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "distributed"

    def work() -> None:
        codes = run_ranks(everything, PROCESSES, folder)
        (folder / "codes").write_text(json.dumps(codes))

    once(folder, work)
    said = "\n".join(path.read_text() for path in sorted(folder.glob("*.txt")))
    codes = json.loads((folder / "codes").read_text())
    assert codes == [0, 0, 0, -signal.SIGKILL], f"exit codes {codes}\n{said}"
    saved = [dict(np.load(folder / f"{rank}.npz")) for rank in range(PROCESSES)]
    return saved, [json.loads((folder / f"{rank}.json").read_text()) for rank in range(PROCESSES - 1)]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", METHODS)
def test_any_number_of_processes_finds_the_same(session, name, variant):
    alone = arrays(find(name, variant))
    assert len(alone["seen"]) >= (1 if variant == "idle" else 65), "a search that looks at something"
    for size in SIZES_OF[variant]:
        for rank in range(size):
            for key, value in alone.items():
                there = session[0][rank][f"{size} {name} {variant} {key}"]
                if variant in ("padded", "several") or value.dtype.kind != "f":
                    np.testing.assert_array_equal(there, value, err_msg=f"{key} on rank {rank} of {size}")
                else:  # another batch may round a sample otherwise, but no choice came so close
                    np.testing.assert_allclose(there, value, rtol=1e-6, atol=1e-6, err_msg=f"{key}, {rank} of {size}")
    if name == "smc" and variant != "idle":
        assert alone["ancestors"].size, "the particles were resampled"


def test_only_rows_whose_source_is_elsewhere_travel_and_each_once(session):
    for rank, report in enumerate(session[1]):
        for sent, needed in [*report["rows"], report["collective"]]:
            assert sent == needed
        assert report["rows"][-1][0] > 10, f"rank {rank} sends rows to three others"


def ends(session: Any, scenario: str) -> list[dict[str, Any]]:
    """How a scenario ended in the three processes that live."""
    return [report[scenario] for report in session[1]]


def test_processes_with_other_arguments_all_hear_which(session):
    for end in ends(session, "seed"):
        assert end["kind"] == "DistributedError"
        assert end["said"] == "rank 1: got seed = 1, expected seed = 0, as rank 0"
    for end in ends(session, "several"):
        assert end["ranks"] == [3]
        assert "shape = [2, 2]" in end["said"]
        assert "shape = [5, 2]" in end["said"]
        assert "grid" in end["said"]
    zero, one, two = ends(session, "argument")
    assert two["kind"] == "ArgumentError"
    assert zero == one
    assert zero["ranks"] == [2]
    assert "ArgumentError: keep: got 0" in zero["said"]


@pytest.mark.parametrize(("scenario", "who"), [("reward", 2), ("held_out", 0)])
def test_an_exception_in_one_process_ends_all(session, scenario, who):
    for rank, end in enumerate(ends(session, scenario)):
        assert "boom: the verifier is out of memory" in end["said"]
        assert end["kind"] == ("RuntimeError" if rank == who else "DistributedError")
        assert end["ranks"] == ([] if rank == who else [who])


def test_an_exception_of_all_is_that_exception(session):
    assert {end["kind"] for end in ends(session, "everyone")} == {"BudgetError"}


def test_an_exception_between_calls_reaches_the_others(session):
    zero, one, two = ends(session, "leave")
    assert one["kind"] == "KeyError"
    assert zero == two
    assert zero["said"].startswith("rank 1: got KeyError: 'mistake'")


def test_processes_that_part_are_told(session):
    for end in ends(session, "stray"):
        assert end["ranks"] == [2]
        assert end["said"].startswith("rank 2: got agree as call 1, expected gather as call 1, as rank 0")
    for end in ends(session, "other_rows"):
        assert end["ranks"] == [2]
        assert "with other rows" in end["said"]


def test_a_search_goes_on_in_as_many_processes_as_it_was_saved_by(session):
    zero, one, two = ends(session, "stopped")
    assert zero[0]["ranks"] == [1]
    assert "InterruptedError: the job's time is over" in zero[0]["said"]
    assert one[0]["kind"] == "InterruptedError"
    for end in (zero[1], one[1], two[0]):
        assert end["kind"] == "CheckpointError"
        assert "got processes = 3, expected processes = 2" in end["said"]
    for key, value in arrays(find("smc")).items():
        for rank in (0, 1):
            np.testing.assert_array_equal(session[0][rank][f"resumed {key}"], value, err_msg=key)


def test_a_group_without_the_processor_gets_a_companion(session):
    assert [end["said"] for end in ends(session, "companion")] == ["", "", ""]
    for end in ends(session, "some"):
        assert end["said"].startswith("group: got cuda:gloo for some of the processes, expected a group that carries")


def test_the_group_serves_the_next_search(session):
    assert {end["kind"] for end in ends(session, "after")} == {"none"}


def test_a_process_that_hangs_is_named_after_the_timeout(session):
    for end in ends(session, "hang"):
        assert end["kind"] == "DistributedError"
        assert end["ranks"] == [3]
        assert "rank 3 does not answer within 1 s" in end["said"]


def test_a_killed_process_is_named(session):
    for end in ends(session, "kill"):
        assert end["kind"] == "DistributedError"
        assert end["ranks"] == [3]
        assert "rank 3 is gone (its connection closed)" in end["said"]


def test_groups_that_are_none():
    assert type(shard_of(None)) is type(shard_of(False)) is type(shard_of("auto")) is Shard
    with pytest.raises(DistributedError, match="group: got no process group"):
        find("best_of_n", group=True)
    with pytest.raises(ArgumentError, match="group: got 'all'"):
        shard_of("all")
    for timeout in (0, -1.0, float("nan")):
        with pytest.raises(ArgumentError, match="timeout"):
            shard_of(True, timeout)


def test_the_code_of_the_page_runs(monkeypatch, capsys):
    page = (Path(__file__).resolve().parents[3] / "docs/distributed_search.md").read_text()
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    told = {"RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    for name, value in told.items():
        monkeypatch.setenv(name, str(value))
    (block,) = re.findall(r"```python\n(.*?)```", page, re.S)
    exec(block, {})
    assert "154 NFE a request" in capsys.readouterr().out
