"""One distribution, every dialect: the same mixture behind every family's interface gives the same samples."""

import functools

import pytest
import torch
from dialects import ANY, DIALECTS, LABELS, ROWS, estimates, straight_level

import pushforward as pf
from pushforward.models import Linear, adapt

# Noise ratios 49 to 0.11, which all paths have; then the clean estimate.
GRID = (0.02, 0.1, 0.25, 0.45, 0.7, 0.9, 1.0)
WEIGHT = 2.0

# Ten evaluations enter a sample with weights below 4 each for guidance w = 2 (noise predictions, which divide by alpha
# = 0.02, are multiplied by as little), and the map from noise to sample stretches by less than 8: 10 * 4 * 8 * eps is
# 7e-14 in float64. The same count for float32, where states, scaled inputs and the network's times are rounded, gives
# 4e-5 if all errors were of one sign; 1e-5 is what is asked.
TOLERANCES = {torch.float64: 1e-13, torch.float32: 1e-5}


def start(dtype):
    noise = torch.randn(ROWS, 16, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return (0.98 * noise + 0.02).to(dtype)


def run(model, x0, condition, guidance, null=None):
    return pf.sample(
        model.on(Linear()), x0, solver="heun", grid=GRID, guidance=guidance, condition=condition, null=null,
        last_step="denoise",
    )  # fmt: skip


@functools.cache
def expected(dtype, guidance):
    """The oracles' own velocities, with no adapter at all."""

    def velocity(x, t):
        fields = []
        for label in (LABELS, torch.tensor(ANY)):
            clean, noise = estimates(x, *straight_level(t), label)
            fields.append(clean - noise)
        return guidance * fields[0] + (1 - guidance) * fields[1]

    return run(adapt(velocity), start(torch.float64), None, 1.0).to(dtype)


@pytest.mark.parametrize(("dtype", "guidance"), [(torch.float64, WEIGHT), (torch.float32, 1.0)], ids=str)
@pytest.mark.parametrize("name", DIALECTS)
def test_one_distribution_in_every_dialect(name, dtype, guidance):
    dialect = DIALECTS[name]
    if dialect.doubles_only and dtype == torch.float32:
        dtype = torch.float64
    model = dialect.make(dtype)
    x1 = run(model, start(dtype).reshape(dialect.shape), dialect.condition, guidance, dialect.null)
    assert x1.dtype == dtype
    error = (x1.reshape(ROWS, 16) - expected(dtype, guidance)).abs().max().item()
    assert error <= TOLERANCES[dtype]
