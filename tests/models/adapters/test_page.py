"""The page of the adapters: its code runs, and it has a row and an example for every adapter there is."""

import re
import warnings
from pathlib import Path

import pytest

from pushforward.models import adapters

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "adapters.md").read_text()


def run(kind, names):
    blocks = re.findall(rf"```{kind}\n(.*?)```", PAGE, re.S)
    assert blocks
    for block in blocks:
        exec(block, names)
    return names


def test_the_code_of_the_page_runs(capsys):
    names = run("python", {})
    printed = capsys.readouterr().out.splitlines()
    promised = re.findall(r"print\((?:best|error)\)  # (.*)", PAGE)
    assert len(printed) == len(promised) == 2
    for line, said in zip(printed, promised, strict=True):
        assert re.fullmatch(".*".join(map(re.escape, said.split("..."))), line)
    assert names["pictures"].shape[0] == 4


def test_every_adapter_has_a_row_and_an_example():
    code = "\n".join(re.findall(r"```python.*?\n(.*?)```", PAGE, re.S))
    rows = "\n".join(line for line in PAGE.splitlines() if line.startswith("|"))
    for name in adapters.__all__:
        assert f"models.{name}(" in code
        assert f"`{name}" in rows or name == "to_k_diffusion"


def test_the_onnx_example_runs(tmp_path, monkeypatch):
    for library in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(library)
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():  # of the exporter
        warnings.simplefilter("ignore")
        names = run("python", {})
        run("python onnx", names)
    assert (tmp_path / "network.onnx").exists()
    assert names["x"].shape == names["shape"]
