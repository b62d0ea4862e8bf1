"""Processes of a gloo group, for tests of what runs in several."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

Work = Callable[[int, int, Path], dict]


def run_ranks(work: Work, size: int, folder: Path, *, seconds: float = 120) -> list[int | None]:
    """Run ``work(rank, size, folder)`` in processes of one thread that form the default group.

    Args:
        work: A function of a module, as the processes import it. What it returns is JSON, in ``folder/RANK.json``.
        size: Number of processes.
        folder: Theirs alone.
        seconds: After so long they are killed: nothing here may hang.

    Returns:
        Exit codes: 0, 1 after an exception (it is in ``folder/RANK.txt``), None for a process that did not end.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pushforward"])  # imported once, and not by every process
    os.environ.setdefault("PYTHONSAFEPATH", "1")  # and the one that is installed, not the folder of this name
    processes = [context.Process(target=_rank, args=(work, rank, size, folder), daemon=True) for rank in range(size)]
    for process in processes:
        process.start()
    deadline = time.monotonic() + seconds
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
        process.join()
    return codes


def _rank(work: Work, rank: int, size: int, folder: Path) -> None:
    torch.set_num_threads(1)
    limit = timedelta(seconds=60)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=size, timeout=limit)
    try:
        result = work(rank, size, folder)
    except BaseException:
        (folder / f"{rank}.txt").write_text(traceback.format_exc())
        raise SystemExit(1) from None
    (folder / f"{rank}.json").write_text(json.dumps(result))
    dist.destroy_process_group()


def once(folder: Path, work: Callable[[], None]) -> None:
    """Do something once for all test processes that name the same folder; the others wait for it.

    Args:
        folder: Made here; what exists is being worked on.
        work: Called by the first that comes.
    """
    done = folder / "done"
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        deadline = time.monotonic() + 300
        while not done.exists():
            assert time.monotonic() < deadline, f"nobody finished {folder}"
            time.sleep(0.05)
        return
    try:
        work()
    finally:
        done.touch()
