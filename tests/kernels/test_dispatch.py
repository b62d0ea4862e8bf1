"""Choosing a backend, and living without the compiled module."""

import os
import subprocess
import sys
import textwrap

import pytest
import torch

from pushforward.errors import BackendError, UnknownNameError
from pushforward.kernels import backend, backends, combine, dispatch
from pushforward.kernels.dispatch import chosen_backend

NATIVE = backends()["native"] == "available"
WITHOUT_NATIVE = "import sys; sys.modules['pushforward.kernels._native'] = None\n"


def run(code, **environment):
    """Run code in a fresh interpreter, away from the checkout."""
    inherited = {k: v for k, v in os.environ.items() if k != "PUSHFORWARD_BACKEND"}
    return subprocess.run(
        [sys.executable, "-P", "-c", textwrap.dedent(code)],
        capture_output=True, text=True, env={**inherited, **environment}, cwd="/", check=False,
    )  # fmt: skip


def test_states():
    assert list(backends()) == ["reference", "native", "triton", "cuda"]
    assert backends()["reference"] == "available"
    assert (
        "interpreter"
        in run("from pushforward.kernels import backends; print(backends()['triton'])", TRITON_INTERPRET="0").stdout
    )
    assert "CUDA" in backends()["cuda"] or backends()["cuda"] == "available"


@pytest.mark.skipif(not NATIVE, reason="the native module is not built")
def test_choice():
    assert chosen_backend("cpu") == "native"
    assert chosen_backend("cuda") == "reference"
    with backend("reference"):
        assert chosen_backend("cpu") == "reference"
        with backend(None):
            assert chosen_backend("cpu") == "native"
        assert chosen_backend("cpu") == "reference"
    assert chosen_backend("cpu") == "native"


def test_one_warning_without_the_compiled_module():
    code = (
        WITHOUT_NATIVE
        + """
import torch, warnings
from pushforward.kernels import BackendWarning, backends, combine
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    for _ in range(3):
        assert combine([torch.ones(2)], [2.0]).tolist() == [2.0, 2.0]
assert [w.category for w in seen] == [BackendWarning], seen
assert "C++ compiler" in str(seen[0].message), seen[0]
assert "compiled module" in backends()["native"]
"""
    )
    result = run(code)
    assert result.returncode == 0, result.stderr


def test_no_warning_where_the_reference_was_asked_for():
    code = WITHOUT_NATIVE + "import torch\nfrom pushforward.kernels import combine\ncombine([torch.ones(2)], [2.0])"
    result = run(code, PUSHFORWARD_BACKEND="reference", PYTHONWARNINGS="error::UserWarning")
    assert result.returncode == 0, result.stderr


def test_the_environment_forces_a_backend_which_then_never_falls_back():
    code = WITHOUT_NATIVE + "import torch\nfrom pushforward.kernels import combine\ncombine([torch.ones(2)], [2.0])"
    result = run(code, PUSHFORWARD_BACKEND="native")
    assert result.returncode == 1
    assert "BackendError: backend native. Not available: the compiled module is not there" in result.stderr


@pytest.mark.parametrize(("forced", "error"), [("cuda", BackendError), ("fortran", UnknownNameError)])
def test_a_wrong_name_in_the_environment(forced, error, monkeypatch):
    monkeypatch.setenv("PUSHFORWARD_EMULATE_CUDA", "0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(dispatch, "_chosen", {})
    token = dispatch.forced.set(forced)  # as at import
    try:
        with pytest.raises(error, match="backend"):
            combine([torch.ones(2)], [2.0])
    finally:
        dispatch.forced.reset(token)


def test_the_folders_are_not_importable_by_themselves():
    for name in ("kernels", "solvers", "models", "csrc"):
        assert "ModuleNotFoundError" in run(f"import {name}").stderr


def test_a_bare_import_from_a_checkout_looks_like_an_empty_module(tmp_path):
    import pushforward.kernels

    (tmp_path / "kernels").symlink_to(os.path.dirname(pushforward.kernels.__file__))
    result = run(
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import kernels; assert kernels.__version__ == '0'"
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.skipif(not NATIVE, reason="the native module is not built")
def test_torchs_own_thread_pool_is_used():
    from pushforward.kernels import _native

    if sys.platform == "linux" and torch.backends.openmp.is_available():
        assert _native.thread_source() == "OpenMP"


@pytest.mark.skipif(not NATIVE, reason="the native module is not built")
def test_concurrent_callers():
    """The interpreter is released during large passes; calls from several threads do not disturb each other."""
    from concurrent.futures import ThreadPoolExecutor

    x = torch.randn(200_000)
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda k: combine([x, x], [1.0, float(k)]), range(16)))
    for k, result in enumerate(results):
        assert torch.equal(result, combine([x, x], [1.0, float(k)]))
