"""Every wrong argument raises an error of ours that names it."""

import pytest
import torch
from kernel_variants import cpu_backends

from pushforward.errors import ArgumentError, BackendError, DeviceError, DtypeError, ShapeError, UnknownNameError
from pushforward.kernels import Draw, Noise, backend, combine, normal, prepare
from pushforward.kernels.dispatch import chosen_backend

x = torch.zeros(2, 3)
key = Noise(0, Draw(1, 0))


def forced(op):
    with backend("reference"):
        chosen_backend("cpu", op)


@pytest.mark.parametrize(
    ("error", "argument", "call"),
    [
        (ShapeError, r"inputs\[1\]: got \[3, 2\], expected \[2, 3\]", lambda: combine([x, torch.zeros(3, 2)], [1, 1])),
        (DtypeError, r"inputs\[1\]: got torch.float64", lambda: combine([x, x.double()], [1, 1])),
        (DeviceError, r"inputs\[1\]: got meta", lambda: combine([x, x.to("meta")], [1, 1])),
        (DtypeError, r"inputs\[0\]: got torch.int64", lambda: combine([x.long()], [1])),
        (ShapeError, "weights: got a row of 1", lambda: combine([x, x], [1])),
        (ShapeError, "weights: got a row of 3", lambda: combine([x, x], [[1, 1], [1, 1, 1]])),
        (ShapeError, "weights", lambda: combine([x, x], torch.ones(3, 2, dtype=torch.float64))),
        (ShapeError, "weights", lambda: combine([x, x], torch.ones(2, dtype=torch.float64))),
        (DtypeError, "weights: got torch.float32", lambda: combine([x, x], torch.ones(2, 2))),
        (ArgumentError, "weights: got 5 rows", lambda: combine([x], [[1.0]] * 5)),
        (ArgumentError, "inputs: got 17 tensors", lambda: combine([x] * 17, [1.0] * 17)),
        (ArgumentError, "inputs: got none", lambda: combine([], [])),
        (ShapeError, "out: got 1 tensors, expected 2", lambda: combine([x], [[1], [2]], out=[x.clone()])),
        (ShapeError, r"out\[0\]: got \[6\]", lambda: combine([x], [1], out=torch.zeros(6))),
        (
            ArgumentError,
            r"out\[0\]: got elements that share",
            lambda: combine([x], [1], out=torch.zeros(3).expand(2, 3)),
        ),
        (ArgumentError, "scale", lambda: combine([x], [1], noise=key)),
        (ArgumentError, "scale", lambda: combine([x], [1], scale=1.0)),
        (ShapeError, "scale", lambda: combine([x], [1], noise=[key, key], scale=[1.0])),
        (ShapeError, "scale", lambda: combine([x], [[1], [1]], noise=key, scale=[1.0])),
        (ShapeError, "scale", lambda: combine([x], [1], noise=key, scale=torch.ones(2, 1, dtype=torch.float64))),
        (ArgumentError, "noise: got 5", lambda: combine([x], [1], noise=[key] * 5, scale=[1.0] * 5)),
        (ShapeError, "noise.samples", lambda: combine([x], [1], noise=Noise(0, key.draw, torch.arange(3)), scale=1)),
        (ShapeError, "without dimensions", lambda: combine([torch.tensor(1.0)], [1], noise=key, scale=1)),
        (DtypeError, "status", lambda: combine([x], [1], status=torch.zeros(1))),
        (ShapeError, "status", lambda: combine([x], [1], status=torch.zeros(2, dtype=torch.int32))),
        (ArgumentError, "out", lambda: combine([x.clone().requires_grad_()], [1], out=x.clone())),
        (ArgumentError, "seed: got -1", lambda: Noise(-1, key.draw)),
        (ArgumentError, "seed", lambda: normal((1, 2), seed=2**64, draw=key.draw)),
        (ArgumentError, "seed: got 0.5", lambda: Noise(0.5, key.draw)),
        (ArgumentError, "draw.step", lambda: Noise(0, Draw(1, -1))),
        (ArgumentError, "draw.attempt", lambda: Noise(0, Draw(1, 0, 0, 2**32))),
        (ArgumentError, "samples: got -3", lambda: Noise(0, key.draw, torch.tensor([0, -3]))),
        (DtypeError, "samples", lambda: Noise(0, key.draw, torch.tensor([0.0]))),
        (ShapeError, "samples", lambda: Noise(0, key.draw, torch.zeros(1, 1, dtype=torch.int64))),
        (ShapeError, "2\\*\\*34", lambda: normal((1, 2**34 + 1), seed=0, draw=key.draw, device="meta")),
        (UnknownNameError, "backend", lambda: backend("fortran").__enter__()),
        (BackendError, "backend reference. It has no sorcery; these have: $", lambda: forced("sorcery")),
        (ShapeError, r"inputs\[0\]", lambda: prepare([x[:1], None], [1, 1], x.clone())),
        (ShapeError, "outs", lambda: prepare([x], [1], [])),
        (ShapeError, "weights", lambda: prepare([None], [1, 1], x.clone())),
    ],
)
def test_named_error(error, argument, call):
    with pytest.raises(error, match=argument):
        call()


AVAILABLE = cpu_backends("combine")


@pytest.mark.parametrize("name", AVAILABLE)
def test_partial_overlap_is_refused_and_interleaving_allowed(name):
    buffer = torch.arange(40.0)
    pairs = torch.arange(40.0).view(20, 2)
    with backend(name):
        with pytest.raises(ArgumentError, match=r"out\[0\]: got memory that partly overlaps inputs\[1\]"):
            combine([torch.zeros(20), buffer[:20]], [1, 1], out=buffer[1:21])
        with pytest.raises(ArgumentError, match=r"partly overlaps out\[0\]"):
            combine([torch.zeros(20)], [[1], [2]], out=(buffer[:20], buffer[10:30]))
        with pytest.raises(ArgumentError, match="partly overlaps"):
            combine([buffer.view(5, 8).T], [1], out=buffer.view(8, 5))
        combine([pairs[:, 0]], [2.0], out=pairs[:, 1])  # neighbours in memory, but no element in common
        assert torch.equal(pairs[:, 1], 2 * pairs[:, 0])
        with pytest.raises(ValueError, match="partly overlaps"):
            prepare([None], [1.0], buffer[:20])(buffer[5:25])


@pytest.mark.skipif("native" not in AVAILABLE, reason="the native module is not built")
def test_native_refuses_other_devices():
    with backend("native"), pytest.raises(BackendError, match="got a tensor on meta"):
        combine([x.to("meta")], [1.0], out=x.to("meta"))
