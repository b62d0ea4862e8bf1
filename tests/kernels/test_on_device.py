"""Every operation of every GPU backend on a device: what the reference gives on the CPU."""

import pytest
import torch
from operations import LARGE, SMALL, TINY, cases

from pushforward.kernels import backend
from pushforward.kernels.dispatch import implementing, written

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
PAIRS = [(op, name) for op, names in written().items() for name in ("triton", "cuda") if name in names]
# Sums in the order that suits a backend, and distances from matrix products: test_discrepancy derives the bounds.
# The logarithm of a mean weight above exp(-5) is the device's own, within 2 ulp.
BOUNDS = {"mmd2": 1e-4, "energy_distance": 2e-2, "resample": 4e-15}


def on_device(value):
    return value.cuda() if isinstance(value, torch.Tensor) else value


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(("op", "name"), [pair for pair in PAIRS if pair[0] in cases(TINY)])
def test_the_same_as_the_reference(op, name, dtype):
    if name not in implementing(op):
        pytest.skip(f"{name} does not run {op} here")
    for sizes in (SMALL, LARGE):
        try:
            function, tensors, others = cases(sizes, dtype)[op]
            with backend("reference"):
                expected = list(function(*tensors, *others))
        except (TypeError, ValueError) as error:
            pytest.skip(f"not in {dtype}: {error}")
        with backend(name):
            result = list(function(*map(on_device, tensors), *map(on_device, others)))
        for a, b in zip(result, expected, strict=True):
            bound = BOUNDS.get(op, 0.0)
            torch.testing.assert_close(a.cpu(), b, rtol=0, atol=bound, equal_nan=True)
