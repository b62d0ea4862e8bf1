"""The page docs/interop.md: its Python runs."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import pytest

with warnings.catch_warnings():  # their import-time deprecations are not ours to act on
    warnings.simplefilter("ignore")
    import diffusers
    import pipelines

from pushforward.solvers.interop import DiffusersScheduler, k_diffusion
from pushforward.solvers.solver import REGISTRY

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "interop.md").read_text()


def test_the_page_is_true(capsys: pytest.CaptureFixture[str]) -> None:
    """Given a pipeline and a prompt, which stand for the reader's own."""
    pipeline = pipelines.quiet(
        diffusers.StableDiffusionPipeline(
            pipelines.vae(), None, None, pipelines.unet_condition(), diffusers.PNDMScheduler(**pipelines.STABLE),
            None, None, requires_safety_checker=False,
        )
    )  # fmt: skip
    names: dict[str, Any] = {"pipeline": pipeline, "prompt": pipelines.prompts() | {"height": 8, "width": 8}}
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    assert len(blocks) == 4
    for block in blocks:
        assert len(block.splitlines()) <= 11
        exec(block, names)
    assert type(pipeline.scheduler) is DiffusersScheduler
    assert names["images"].isfinite().all()
    assert names["z"].std() < 3
    assert capsys.readouterr().out.splitlines()[0].startswith("0 14.6")


def test_the_solvers_it_names_are_there() -> None:
    table = re.findall(r"^\| [\w(),` ]+ \| (.*) \|$", PAGE, re.M)
    named = {name for row in table for name in re.findall(r'`"(\w+)"', row)}
    assert named
    assert named <= {*REGISTRY, "edm", "denoise"}
    assert {"euler", "heun", "euler_ancestral"} <= set(k_diffusion.available())
