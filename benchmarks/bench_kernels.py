"""Micro-benchmarks of the kernels, with pytest-benchmark: read the ratios within a group.

``pytest benchmarks/bench_kernels.py --benchmark-enable``
"""

from __future__ import annotations

import pytest
import torch

from pushforward.kernels import Draw, Noise, backends, combine, normal, prepare

NOISE = Noise(0, Draw(1, 0))


def ours(inputs, weights, out):
    return combine(inputs, weights, out=out)


def eager(inputs, weights, out):
    return out.copy_(sum(w * x for w, x in zip(weights, inputs, strict=True)))


PEERS = {"ours": ours, "torch": eager}


@pytest.mark.parametrize("elements", [2**8, 2**14, 2**20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("peer", PEERS)
def test_combine(benchmark, peer, dtype, elements):
    """Is one pass over memory worth a kernel of our own?"""
    inputs, weights = [torch.randn(elements).to(dtype) for _ in range(4)], (0.3, 0.7, -0.2, 1.5)
    out = torch.empty(elements, dtype=dtype)
    benchmark.group = f"combine K=4 n={elements} {dtype}"
    benchmark.extra_info |= {"bytes": 5 * elements * dtype.itemsize, "threads": torch.get_num_threads()}
    benchmark(PEERS[peer], inputs, weights, out)
    expected = sum(w * x.double() for w, x in zip(weights, inputs, strict=True))
    torch.testing.assert_close(out.double(), expected, rtol=0.02, atol=0.05)


@pytest.mark.parametrize("way", ["combine", "prepare"])
def test_call(benchmark, way):
    """What does a call cost beyond the arithmetic?"""
    x, v, out = torch.randn(16), torch.randn(16), torch.empty(16)
    benchmark.group = "call, 16 elements"
    if way == "combine":
        benchmark(lambda: combine([x, v], (1.0, 0.5), out=out))
    else:
        step = prepare([x, None], (1.0, 0.5), out)
        benchmark(lambda: step(v))
    torch.testing.assert_close(out, x + 0.5 * v)


@pytest.mark.parametrize("peer", ["ours", "torch"])
@pytest.mark.parametrize("elements", [2**12, 2**20])
def test_normal(benchmark, peer, elements):
    """What do normals cost that are the same everywhere?"""
    benchmark.group = f"normal n={elements}"
    if peer == "ours":
        z = benchmark(lambda: normal((1, elements), seed=0, draw=Draw(1, 0)))
    else:
        z = benchmark(lambda: torch.randn(1, elements))
    assert abs(z.mean().item()) < 5 / elements**0.5


@pytest.mark.skipif(backends()["native"] != "available", reason="the native module is not built")
@pytest.mark.parametrize("instruction_set", ["avx512", "avx2", "generic"])
def test_instruction_sets(benchmark, instruction_set):
    """What does each instruction set bring to a step with noise?"""
    from pushforward.kernels import _native

    if instruction_set not in _native.instruction_sets():
        pytest.skip(f"this processor has no {instruction_set}")
    x, v, out = (torch.randn(1, 2**14) for _ in range(3))
    step = prepare([x, v], (1.0, 0.5), out, noise=NOISE, scale=0.1)
    before = _native.instruction_set()
    _native.use_instruction_set(instruction_set)
    benchmark.group = "euler-maruyama n=16384"
    try:
        benchmark(step)
    finally:
        _native.use_instruction_set(before)
    torch.testing.assert_close(out, x + 0.5 * v + 0.1 * normal(x.shape, seed=0, draw=NOISE.draw))
