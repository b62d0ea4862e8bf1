"""The pages of the documentation: their Python runs, and their table of errors is true."""

from __future__ import annotations

import re
from pathlib import Path

import brownian
import pytest
from mutation import SCALAR, variance_errors

from pushforward import solvers

DOCS = Path(__file__).resolve().parents[2] / "docs"
PATHS = (DOCS / "paths.md").read_text()
# Their tests look at what their blocks leave behind, or stand beside those of what they describe.
OWN_TEST = {"distributed_search", "ensembles", "gradients", "interop", "likelihood", "odeint", "parallel", "paths"}
OWN_TEST |= {"adapters", "sde_adaptive", "search", "search_runs", "verifiers"}


PLAIN = sorted(
    page.stem for page in DOCS.glob("*.md") if "```python\n" in page.read_text() and page.stem not in OWN_TEST
)


@pytest.mark.parametrize("page", PLAIN)
def test_the_code_of_a_page_runs(page: str) -> None:
    blocks, names = re.findall(r"```python\n(.*?)```", (DOCS / f"{page}.md").read_text(), re.S), {}
    assert blocks
    for block in blocks:
        exec(block, names)


def test_the_code_of_the_page_of_long_searches_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    blocks, names = re.findall(r"```python\n(.*?)```", (DOCS / "search_runs.md").read_text(), re.S), {}
    assert len(blocks) == 2
    for block in blocks:
        exec(block, names)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.json", "run.json.3.0.safetensors", "run.jsonl"]
    assert len(capsys.readouterr().out.splitlines()) == 10, "one a step"


def test_the_code_of_the_page_of_searches_runs() -> None:
    blocks, names = re.findall(r"```python\n(.*?)```", (DOCS / "search.md").read_text(), re.S), {}
    assert len(blocks) == 2
    exec(blocks[0], names)
    assert names["result"].x.shape == (2, 1, 28, 28)
    exec(blocks[1], names)
    assert names["result"].log_weights.shape == (2, 10)
    assert names["result"].ledger.nfe.tolist() == [110, 110]


def test_the_code_of_the_page_of_paths_runs() -> None:
    blocks, names = re.findall(r"```python\n(.*?)```", PATHS, re.S), {}
    assert len(blocks) == 4
    for block in blocks:
        exec(block, names)
    assert names["x1"].shape == names["x0"].shape == names["start"].shape


@pytest.mark.parametrize("row", re.findall(r"^\| `(\w+)` \|.*\| (\S+) \| (\S+) \|$", PATHS, re.M), ids=lambda r: r[0])
def test_the_errors_of_the_page_of_paths_are_measured(row: tuple[str, str, str]) -> None:
    name, strong, weak = row
    assert brownian.linear_errors(solvers.solver(name), (64,), SCALAR, "sigma") == pytest.approx(
        [float(strong)], rel=0.05
    )
    assert variance_errors(solvers.solver(name), (64,)) == pytest.approx([float(weak)], rel=0.05)
