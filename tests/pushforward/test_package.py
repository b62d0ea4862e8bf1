"""The installed package: what can be imported, what its examples print, what its errors say."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

import pushforward as pf

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = (pf, pf.kernels, pf.models, pf.solvers)  # in an editable install the last three lie in folders of their own
MODULES = sorted(
    {m.name for p in PACKAGES for m in pkgutil.walk_packages(p.__path__, f"{p.__name__}.") if "_native" not in m.name}
)


def python(code: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    import os

    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=cwd, check=False,
        env={**os.environ, **environment},
    )  # fmt: skip


@pytest.mark.parametrize("folder", ["kernels", "solvers", "models", "csrc", "tests"])
def test_the_top_level_folders_are_not_importable_by_their_bare_names(folder: str, tmp_path: Path) -> None:
    result = python(f"import pushforward, {folder}", tmp_path)
    assert f"No module named '{folder}'" in result.stderr


def test_a_checkout_on_the_path_breaks_nobody() -> None:
    """Other libraries import a package called ``kernels`` to read its version; ours must look empty, not broken."""
    result = python("import kernels; print(kernels.__version__); import models, solvers", ROOT, PYTHONSAFEPATH="")
    assert result.stdout.strip() == "0", result.stderr
    result = python("import transformers, diffusers, pushforward; print('fine')", ROOT, PYTHONSAFEPATH="")
    assert result.stdout.strip() == "fine", result.stderr


def test_importing_needs_no_optional_package(tmp_path: Path) -> None:
    optional = ["diffusers", "torchdiffeq", "triton", "numba", "matplotlib", "mlxtend", "sklearn", "transformers"]
    code = f"import pushforward, sys; print([m for m in {optional} if m in sys.modules])"
    loaded = python(code, tmp_path).stdout
    torch_alone = python(f"import torch, sys; print([m for m in {optional} if m in sys.modules])", tmp_path).stdout
    assert loaded == torch_alone


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = importlib.import_module(name)
    result = doctest.testmod(module, extraglobs={"torch": torch})
    assert result.failed == 0


def test_public_names_have_docstrings() -> None:
    missing = []
    for name in MODULES:
        module = importlib.import_module(name)
        for key, value in vars(module).items():
            if not key.startswith("_") and callable(value) and getattr(value, "__module__", "") == name:
                if not getattr(value, "__doc__", None):
                    missing.append(f"{name}.{key}")
    assert not missing


def test_the_readme_is_true(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its Python runs, given the two names that stand for a user's own networks."""
    text = (ROOT / "README.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.S)
    assert len(blocks) >= 3
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"torch": torch, "network": lambda x, t: -x}
    for block in blocks:
        exec("\n".join(line for line in block.splitlines() if "unet" not in line), names)
    assert isinstance(names["x"], torch.Tensor)
    assert pf.sample(pf.models.adapt(lambda x, t: -x), (2, 3), solver="my_heun", steps=3).shape == (2, 3)
    pf.solvers.solver.__globals__["REGISTRY"].pop("my_heun")


def test_errors_say_what_came_and_what_was_expected() -> None:
    error = pf.errors.ShapeError("x0", got=[3], expected="[B, 3]", hint="Try x[None].")
    assert str(error) == "x0: got [3], expected [B, 3]. Try x[None]."
    assert isinstance(error, ValueError)
    assert isinstance(error, pf.PushforwardError)
    assert issubclass(pf.errors.NotFiniteError, FloatingPointError)
