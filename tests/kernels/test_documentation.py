"""The page of the operations, docs/kernels.md: it has them all, with their backends, and is what the script writes."""

import dataclasses
import json

import kernel_page
import pytest
import rows
from _harness import Benchmark
from kernel_page import PAGE, STORE, backends_of, render, selected, update

from pushforward import kernels
from pushforward.kernels import catalogue, dispatch

pytest.importorskip("triton", reason="without Triton, its kernels cannot be listed")
ENTRIES, WRITTEN, MEASURED = catalogue.entries, dispatch.written(), json.loads(STORE.read_text())
AGAIN = "write it anew: python benchmarks/kernel_page.py"


def cells(op):
    (line,) = [line for line in PAGE.read_text().splitlines() if line.startswith(f"| [`{op}`]")]
    return [cell.strip() for cell in line.replace("\\|", "\0").strip("|").split("|")]


def test_every_public_operation_describes_itself():
    public = {op for op in WRITTEN if hasattr(kernels, op)} - {"prepare"}  # combine, bound to its buffers
    assert public == set(ENTRIES)


@pytest.mark.parametrize("op", ENTRIES)
def test_the_page_has_the_operation_with_its_backends_and_a_ratio(op):
    entry, (_, formula, backends, moved, differentiable, ratio) = ENTRIES[op], cells(op)
    assert set(WRITTEN[op]) <= set(backends.split(", ")), AGAIN
    assert formula.strip("`").replace("\0", "|") == entry.formula, AGAIN
    assert (moved.replace("\0", "|"), differentiable) == (entry.moved, entry.differentiable), AGAIN
    assert float(ratio.partition(" ")[0]) > 0


def test_the_page_is_what_the_script_writes():
    assert PAGE.read_text() == render(ENTRIES, MEASURED, WRITTEN), AGAIN


def test_an_operation_that_was_never_measured_is_refused():
    entry = dataclasses.replace(ENTRIES["gram"], rows=("gram R=2", "gram of something new"))
    with pytest.raises(ValueError, match=r"gram has no measured case \['gram of something new'\]"):
        render({"gram": entry}, MEASURED, WRITTEN)


def test_rows_are_selected_by_how_their_case_begins_in_the_order_asked_for():
    entry = dataclasses.replace(ENTRIES["haar2d"], rows=("haar2d 2", "haar2d 1"))
    names = ["ihaar2d 1", "haar2d 1", "haar2d 2", "haar2d 3"]
    found = [{"case": case, "peer": "p", "ratio": 1.23456, "runs": 5} for case in names]
    expected = [{"case": case, "peer": "p", "ratio": 1.235} for case in ("haar2d 2", "haar2d 1")]
    assert selected(entry, found) == expected
    store = {"machine": {}, "rows": {"gram": ["kept"], "haar2d": ["replaced"]}}
    machine = dict.fromkeys(kernel_page.MACHINE, 1) | {"more": 2}
    update(store, {"haar2d": entry, "gram": ENTRIES["gram"]}, {"rows": found, "machine": machine})
    assert store["rows"] == {"gram": ["kept"], "haar2d": expected}
    assert "more" not in store["machine"]


def test_backends_are_listed_in_the_order_of_preference_of_the_table():
    assert backends_of("op", {"op": ["cuda", "reference"]}) == "reference, cuda"


def test_a_script_measures_only_the_cases_it_is_asked_for():
    bench = Benchmark(quick=True, only=["gather_rows in place 64x"])
    rows.benchmark(bench)
    assert {row["case"] for row in bench.rows} == {"gather_rows in place 64x4x64x64 float32"}


def test_a_size_without_a_peer_has_a_row():
    bench = Benchmark()
    bench.alone("mmd2 50000x64", 2.0, "none: too large", ours_bytes=3 * 2**20)
    assert list(bench.table().columns[-1].cells) == ["-"]
    entry = dataclasses.replace(ENTRIES["mmd2"], rows=("mmd2 4000x64", "mmd2 50000x64"))
    store = MEASURED | {"rows": {"mmd2": [*selected(ENTRIES["mmd2"], MEASURED["rows"]["mmd2"])[:1], *bench.rows]}}
    assert "| mmd2 50000x64 | none: too large | 2.00 s |  |  | 3.0 MiB |" in render({"mmd2": entry}, store, WRITTEN)
