"""A small network as a field, for tests of gradients."""

import torch
from torch import Tensor, nn

DOUBLE = torch.float64


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Standard normals."""
    return torch.randn(*shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


class Net(nn.Module):
    """A field whose stiffness differs from sample to sample, with a time that counts.

    Attributes:
        calls, rows: How often it was called, and on how many samples in all.

    """

    def __init__(self, dim: int = 2, width: int = 8) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.net = nn.Sequential(nn.Linear(dim + 1, width), nn.Tanh(), nn.Linear(width, dim)).double()
        self.calls = self.rows = 0

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        self.calls += 1
        self.rows += len(x)
        return 4 * self.net(torch.cat([x, t[:, None]], dim=1)) - x * x.square().sum(1, keepdim=True)
