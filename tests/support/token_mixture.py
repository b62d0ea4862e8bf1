"""A mixture over several tokens at once, as a module with the sites of a transformer: exact, and coupled."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Evidence(nn.Module):
    """log p(x_i | component k) of each token: what other tokens read of it, as keys are."""

    def __init__(self, mixture: TokenMixture) -> None:
        super().__init__()
        self.mixture = (mixture,)  # in a tuple: a cycle of submodules otherwise

    def forward(self, tokens: Tensor) -> Tensor:
        return self.mixture[0].parts(tokens)[0]


class Attention(nn.Module):
    """Holds the evidence under the name of keys; there are no values."""

    def __init__(self, mixture: TokenMixture) -> None:
        super().__init__()
        self.to_k = Evidence(mixture)


class TokenMixture(nn.Module):
    r"""Velocity of the linear path to :math:`\sum_k w_k \prod_i N(m_{ki}, s_i^2 I)`, states [B, N, d].

    Tokens may have times of their own, [B, N]: given the component they are independent, so the velocity stays exact.

    .. math:: v_i = \sum_k r_k \left[m_{ki} + \frac{t_i s_i^2 - (1 - t_i)}{\nu_i^2} (x_i - t_i m_{ki})\right], \quad
        \nu_i^2 = t_i^2 s_i^2 + (1 - t_i)^2

    with the probability r of a component given all tokens. A token with s = 0 and one mean is a point mass.
    """

    def __init__(self, means: Tensor, spreads: Tensor) -> None:
        super().__init__()
        self.means, self.spreads = means.double(), spreads.double()
        self.seen: list[int] = []
        self.embed, self.leave, self.attention = nn.Identity(), nn.Identity(), Attention(self)

    def parts(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Evidence [B, n, K] and velocities given the component [B, n, K, d] of tokens (x, t, number)."""
        x, t, number = tokens[..., None, :-2], tokens[..., -2, None, None], tokens[..., -1].long()
        mean, spread = self.means[number], self.spreads[number][..., None, None]
        off, nu2 = x - t * mean, (t * spread).square() + (1 - t).square()
        return -off.square().sum(-1) / (2 * nu2[..., 0]), mean + (t * spread.square() - (1 - t)) / nu2 * off

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        rows, count, _ = x.shape
        times = t[:, None].expand(rows, count) if t.ndim == 1 else t
        number = torch.arange(count, dtype=x.dtype).expand(rows, count)
        tokens = self.embed(torch.cat([x, times[..., None], number[..., None]], dim=-1))
        self.seen.append(tokens.shape[1])
        weight = self.attention.to_k(tokens).sum(dim=1).softmax(dim=-1)
        return self.leave((weight[:, None, :, None] * self.parts(tokens)[1]).sum(dim=2))


def half_point_masses(seed: int = 0, tokens: int = 8, components: int = 3) -> TokenMixture:
    """Half of the tokens are points, the others of a mixture whose component they share."""
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(tokens, components, 2, generator=generator, dtype=torch.float64)
    means[tokens // 2 :] = means[tokens // 2 :, :1]
    spreads = torch.full((tokens,), 0.3, dtype=torch.float64)
    spreads[tokens // 2 :] = 0
    return TokenMixture(means, spreads)
