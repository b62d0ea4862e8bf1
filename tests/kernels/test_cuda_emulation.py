"""What the CUDA kernels read and write, seen where they run thread by thread on the CPU."""

import os
import subprocess
import sys

import pytest
import torch

from pushforward.kernels import Draw, Noise, backend, combine, rk_step, uniform
from pushforward.kernels.dispatch import emulating, native_module

pytestmark = pytest.mark.skipif(native_module is None or not emulating(), reason="the kernels run on a device, or not")
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
KEY = Noise(1, Draw(1, 2))


def traffic(run):
    """Bytes of tensors that the kernels read and wrote."""
    native_module.emulated_traffic()
    with backend("cuda"):
        run()
    return native_module.emulated_traffic()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("inputs", "outputs"), [(1, 1), (4, 1), (7, 2), (16, 4)])
@pytest.mark.parametrize("shape", [(1, 1), (3, 1031), (4, 2048)])
def test_combine_moves_every_byte_once(dtype, inputs, outputs, shape):
    tensors = [torch.ones(shape, dtype=dtype) for _ in range(inputs)]
    bytes_of_one = tensors[0].nbytes
    rows, scales = [[0.1] * inputs] * outputs, [0.5] * outputs
    table = torch.ones(shape[0], outputs, inputs, dtype=torch.float64)
    minimum = (inputs * bytes_of_one, outputs * bytes_of_one)
    assert traffic(lambda: combine(tensors, rows)) == minimum
    assert traffic(lambda: combine(tensors, rows, noise=KEY, scale=scales)) == minimum
    assert traffic(lambda: combine(tensors, table)) == minimum


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1), (700, 3), (3, 1031), (2, 2048)])
def test_rk_step_reads_every_stage_with_a_weight_once(dtype, shape):
    x, k, idle = (torch.ones(shape, dtype=dtype) for _ in range(3))
    h, tolerances = torch.ones(shape[0], dtype=torch.float64), {"rtol": 1e-3, "atol": 1e-3}
    dense = [[0.0, 0.0, 2.0], [1.0, 0.0, 0.0]]
    plain = traffic(lambda: rk_step(x, [k, idle, k], h, [0.5, 0.0, 0.5], [1.0, 0.0, 0.0], **tolerances))
    assert plain == (3 * x.nbytes, x.nbytes)
    more = traffic(lambda: rk_step(x, [k, idle, k], 0.1, [0.5, 0.0, 0.5], [[1.0, 0, 0]] * 2, dense=dense, **tolerances))
    assert more == (3 * x.nbytes, 3 * x.nbytes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(5, 3), (2, 1024)])
def test_uniforms_are_written_once(dtype, shape):
    run = traffic(lambda: uniform(shape, seed=0, draw=KEY.draw, dtype=dtype))
    assert run == (0, shape[0] * shape[1] * dtype.itemsize)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1, 3, 4, 7, 8, 1023, 1024])
def test_nothing_is_written_beside_an_output(dtype, size):
    for offset in (16, 17):  # aligned, and not
        buffer = torch.full((size + 48,), 77.0, dtype=dtype)
        out = buffer[offset : offset + size].view(1, size)
        with backend("cuda"):
            combine([torch.ones(1, size, dtype=dtype)], [2.0], out=out)
        assert (out == 2).all()
        assert (buffer[:offset] == 77).all()
        assert (buffer[offset + size :] == 77).all()


GUARDED = """
import ctypes, mmap, torch
from pushforward.kernels import Draw, Noise, backend, combine, rk_step

libc = ctypes.CDLL(None, use_errno=True)
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
keep = []

def guarded(value):
    '''A copy of a tensor whose memory ends where a page begins that nobody may read.'''
    value = value.contiguous()
    pages = -(-value.nbytes // mmap.PAGESIZE)
    area = mmap.mmap(-1, (pages + 1) * mmap.PAGESIZE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(area))
    assert libc.mprotect(start + pages * mmap.PAGESIZE, mmap.PAGESIZE, 0) == 0
    keep.append(area)
    copy = torch.frombuffer(area, dtype=value.dtype, count=value.numel(), offset=pages * mmap.PAGESIZE - value.nbytes)
    return copy.view(value.shape).copy_(value)

with backend("cuda"):
"""
COMBINE = """
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        for shape in ((1, 1), (3, 5), (2, 7), (1, 1023), (2, 1024), (3, 257)):
            x, v, out = (guarded(torch.ones(shape, dtype=dtype)) for _ in range(3))
            samples = guarded(torch.arange(shape[0]))
            noise = Noise(0, Draw(1, 1), samples)
            combine([x, v], [1.0, 0.5], out=out)
            combine([x, v], [1.0, 0.5], out=out, noise=noise, scale=0.1)
            combine([x, v], guarded(torch.ones(shape[0], 2, dtype=torch.float64)), out=out)
            groups = guarded(torch.zeros(shape, dtype=torch.int64))
            combine([x, v], guarded(torch.ones(1, 2, dtype=torch.float64)), out=out, groups=groups)
"""


def in_guarded_memory(code):
    """Run in a process of its own, which dies if a kernel reads or writes past the end of a tensor."""
    environment = os.environ | {"PUSHFORWARD_EMULATE_CUDA": "1"}
    return subprocess.run([sys.executable, "-c", GUARDED + code], capture_output=True, text=True, env=environment)


def test_the_guard_sees_a_read_past_the_end():
    assert in_guarded_memory("    x = guarded(torch.ones(3)); ctypes.string_at(x.data_ptr() + 12, 1)").returncode < 0


def test_combine_stays_within_its_tensors():
    done = in_guarded_memory(COMBINE)
    assert done.returncode == 0, done.stderr


RK_STEP = """
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        for shape in ((1, 1), (3, 5), (2, 7), (700, 2), (1, 1023), (2, 1024), (3, 1025)):
            x, k, out = (guarded(torch.ones(shape, dtype=dtype)) for _ in range(3))
            h = guarded(torch.ones(shape[0], dtype=torch.float64))
            rk_step(x, [k, x], h, [1.0, 0.5], [1.0, -1.0], rtol=1.0, atol=0.0, out=out)
            rk_step(x, [k, x], h, [1.0, 0.5], [1.0, -1.0], rtol=1.0, atol=0.0, out=out, dense=[[1.0, 2.0]])
"""


def test_rk_step_stays_within_its_tensors():
    done = in_guarded_memory(RK_STEP)
    assert done.returncode == 0, done.stderr


RESAMPLE = """
    from pushforward.kernels import RESAMPLING_SCHEMES
    from pushforward.kernels.dispatch import implementation

    resample, empty, empty_like = implementation("resample", "cpu"), torch.empty, torch.empty_like
    torch.empty = lambda *sizes, **options: guarded(empty(*sizes, **options))  # results and scratch memory
    torch.empty_like = lambda like: guarded(empty_like(like))
    for dtype in (torch.float32, torch.float64):
        for particles, count in ((1, 1), (5, 1025), (1023, 4), (1024, 1024), (1025, 1023), (2052, 3)):
            log_weights = torch.zeros(5, particles, dtype=dtype)
            log_weights[1, -1] = log_weights[2, 0] = torch.nan
            log_weights[3], log_weights[4, -1] = -torch.inf, torch.inf
            noise = Noise(0, Draw(1, 1), guarded(torch.arange(5)))
            for scheme in RESAMPLING_SCHEMES:
                wanted = particles if scheme == "killing" else count
                ancestors, *_ = resample(guarded(log_weights), scheme, wanted, noise)
                assert ((ancestors >= 0) & (ancestors < particles)).all()
"""


def test_resample_stays_within_its_tensors_and_scratch_memory():
    """Invalid populations included, which are resampled as if their weights were equal."""
    done = in_guarded_memory(RESAMPLE)
    assert done.returncode == 0, done.stderr
