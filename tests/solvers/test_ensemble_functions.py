"""Right-hand sides of the user's: compiled C, ctypes and cffi pointers, numba; and the layout that they are given."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from ensembles import callback

import pushforward as pf
from pushforward.errors import ArgumentError, MissingDependencyError
from pushforward.kernels.dispatch import native_module
from pushforward.solvers.ensemble import Lorenz, NativeFunction, VanDerPol, numba_rhs

pytestmark = pytest.mark.skipif(native_module is None, reason="built without a compiler")
PAGE = (Path(__file__).resolve().parents[2] / "docs" / "ensembles.md").read_text()
SOURCE = """
#include <stdint.h>
void van_der_pol(int64_t lanes, int64_t dim, const double *t, const double *y, const double *p, double *dy) {
  for (int64_t l = 0; l < lanes; ++l) {
    dy[l] = y[lanes + l];
    dy[lanes + l] = p[l] * (1 - y[l] * y[l]) * y[lanes + l] - y[l];
  }
}
"""


def starts(batch: int, dim: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    folder = tmp_path_factory.mktemp("rhs")
    (folder / "rhs.c").write_text(SOURCE)
    subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", folder / "rhs.so", folder / "rhs.c"], check=True)
    return folder / "rhs.so"


def test_a_function_from_c(library) -> None:
    mu = torch.linspace(0.5, 2.0, 200, dtype=torch.float64)
    y0 = starts(200, 2)
    function = ctypes.CDLL(str(library)).van_der_pol
    ours = pf.solve_ensemble(function, y0, [0.0, 1.0, 3.0], params=mu[:, None])
    field = pf.solve_ensemble(VanDerPol(mu), y0, [0.0, 1.0, 3.0])
    assert (ours.nfe == field.nfe).all()
    torch.testing.assert_close(ours.x, field.x, rtol=0, atol=1e-12)
    by_address = NativeFunction(ctypes.cast(function, ctypes.c_void_p).value, keep=function)
    assert torch.equal(pf.solve_ensemble(by_address, y0, [0.0, 1.0, 3.0], params=mu[:, None]).x, ours.x)


def test_a_pointer_from_cffi(library) -> None:
    cffi = pytest.importorskip("cffi")
    ffi = cffi.FFI()
    ffi.cdef("void van_der_pol(int64_t, int64_t, const double *, const double *, const double *, double *);")
    pointer = ffi.addressof(ffi.dlopen(str(library)), "van_der_pol")
    y0, mu = starts(5, 2), torch.ones(5, 1, dtype=torch.float64)
    ours = pf.solve_ensemble(pointer, y0, [0.0, 1.0], params=mu)
    torch.testing.assert_close(ours.final, pf.solve_ensemble(VanDerPol(), y0, [0.0, 1.0]).final, rtol=0, atol=1e-12)


@pytest.mark.parametrize("batch", [1, 32, 33, 300])
def test_lanes_come_in_groups_and_are_not_wasted(batch) -> None:
    """Multiples of 32, never more than the trajectories need; evaluations agree with what was counted."""
    function, lanes = callback(lambda t, y, p: -y)
    ours = pf.solve_ensemble(function, starts(batch, 1), [0.0, 1.0])
    assert all(n % 32 == 0 and n < batch + 32 for n in lanes[1:])
    assert sum(lanes) >= ours.nfe.sum()


def test_times_and_parameters_reach_their_lanes() -> None:
    """dy = p0 + p1 t: y = y0 + p0 t + p1 t^2 / 2, exactly, whatever the steps."""
    y0 = starts(70, 3)
    each = starts(70, 2, seed=1)
    function, _ = callback(lambda t, y, p: np.broadcast_to(p[0] + p[1] * t, y.shape), 2, shared=False)
    ours = pf.solve_ensemble(function, y0, [1.0, 3.0], params=each)
    torch.testing.assert_close(ours.final, y0 + (2 * each[:, :1] + 4 * each[:, 1:]), rtol=0, atol=1e-12)
    function, _ = callback(lambda t, y, p: np.broadcast_to(p[0] + p[1] * t, y.shape), 2)
    ours = pf.solve_ensemble(function, y0, [1.0, 3.0], params=each[0])
    torch.testing.assert_close(ours.final, y0 + (2 * each[0, 0] + 4 * each[0, 1]), rtol=0, atol=1e-12)


# --- numba -------------------------------------------------------------------------------------------------------


def lorenz(t, y, dy, params):
    dy[0] = params[0] * (y[1] - y[0])
    dy[1] = y[0] * (params[1] - y[2]) - y[1]
    dy[2] = y[0] * y[1] - params[2] * y[2]


def test_a_python_function_compiled_by_numba() -> None:
    numba = pytest.importorskip("numba")
    rhs, y0 = numba_rhs(lorenz), starts(100, 3)
    shared = torch.tensor([10.0, 28.0, 8 / 3], dtype=torch.float64)
    ours = pf.solve_ensemble(rhs, y0, [0.0, 0.7], params=shared)
    field = pf.solve_ensemble(Lorenz(), y0, [0.0, 0.7])
    assert (ours.nfe == field.nfe).all()
    torch.testing.assert_close(ours.x, field.x, rtol=1e-11, atol=1e-11)
    each = pf.solve_ensemble(rhs, y0, [0.0, 0.7], params=shared.expand(100, 3))
    assert torch.equal(each.x, ours.x)
    alone = pf.solve_ensemble(rhs, y0[41:42], [0.0, 0.7], params=shared)
    assert torch.equal(alone.x[:, 0], ours.x[:, 41])

    signature = numba.types.void(*[numba.types.int64] * 2, *[numba.types.CPointer(numba.types.float64)] * 4)

    @numba.cfunc(signature)
    def decay(lanes, dim, t, y, params, dy):
        for i in range(lanes * dim):
            dy[i] = -y[i]

    ours = pf.solve_ensemble(decay, y0, [0.0, 1.0], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(ours.final, y0 * np.exp(-1.0), rtol=1e-8, atol=1e-8)


def test_numba_says_what_it_cannot_compile() -> None:
    numba = pytest.importorskip("numba")

    @numba_rhs(fastmath=True)
    def nonsense(t, y, dy, params):
        dy[0] = y.no_such_thing

    with pytest.raises(ArgumentError, match=r"numba_rhs\(nonsense"):
        pf.solve_ensemble(nonsense, starts(2, 1), [0.0, 1.0])
    with pytest.raises(ArgumentError, match=r"f\(t, y, dy, params"):
        numba_rhs(3)

    @numba.cfunc(numba.types.double(numba.types.double))
    def other(x):
        return x

    with pytest.raises(ArgumentError, match="cfunc of 1 arguments"):
        pf.solve_ensemble(other, starts(2, 1), [0.0, 1.0])


def test_numba_is_asked_for_when_it_is_missing(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'pushforward\[numba"):
        pf.solve_ensemble(numba_rhs(lorenz), starts(2, 3), [0.0, 1.0], params=torch.ones(3, dtype=torch.float64))


def test_the_code_of_the_page_runs(tmp_path, monkeypatch) -> None:
    pytest.importorskip("numba")
    if shutil.which("cc") is None:
        pytest.skip("no C compiler")
    blocks, names = re.findall(r"```python\n(.*?)```", PAGE, re.S), {}
    assert len(blocks) >= 3
    monkeypatch.chdir(tmp_path)
    for block in blocks:
        exec(block, names)
    assert names["solution"].success.all()
