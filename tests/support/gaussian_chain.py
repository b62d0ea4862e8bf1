"""Moments of a sampler's chain on Gaussian data, where every step is affine, and what they say of a particle run."""

from __future__ import annotations

import torch
from search_oracles import DOUBLE, LinearTilt
from torch import Tensor

from pushforward.solvers.search import Budget, Method
from pushforward.solvers.search.search import make_task


class GaussianChain:
    r"""States x_0, ..., x_K of a method's sampler on one-dimensional Gaussian data, jointly Gaussian.

    Each step is :math:`x' = \phi x + c + \Gamma \xi`; the clean estimates are :math:`D_k = d_k x_k + e_k`.

    Attributes:
        mean, covariance: Of (x_0, ..., x_K), [K + 1] and [K + 1, K + 1].
        slopes, shifts: d and e, [K].
        forecast, rest: :math:`E[x_K | x_k] = f_k x_k + g_k`, as f [K + 1] and g [K + 1].
        spread: :math:`Var[x_K | x_k]`, [K + 1].
    """

    def __init__(self, problem: LinearTilt, method: Method, steps: int) -> None:
        model = problem.model()
        task = make_task(model, problem.reward, Budget(1), method, shape=(1, 1), steps=steps, dtype=DOUBLE)
        gains, offsets, noises, slopes, shifts = [], [], [], [], []
        for step in task.transitions:
            time = torch.tensor(step.time, dtype=DOUBLE)
            at = [float(model.network(torch.full((1, 1), x, dtype=DOUBLE), time)) for x in (0, 1)]
            a, b = step.weights
            gains.append(a + b * (at[1] - at[0]))
            offsets.append(b * at[0])
            noises.append(step.noise)
            assert step.denoised is not None
            slopes.append(step.denoised[0] + step.denoised[1] * (at[1] - at[0]))
            shifts.append(step.denoised[1] * at[0])
        mean, variance = [0.0], [1.0]
        for gain, offset, noise in zip(gains, offsets, noises, strict=True):
            mean.append(gain * mean[-1] + offset)
            variance.append(gain**2 * variance[-1] + noise**2)
        self.mean = torch.tensor(mean, dtype=DOUBLE)
        self.covariance = torch.diag(torch.tensor(variance, dtype=DOUBLE))
        for j in range(steps):
            for k in range(j + 1, steps + 1):
                self.covariance[j, k] = self.covariance[k, j] = gains[k - 1] * self.covariance[j, k - 1]
        self.slopes, self.shifts = torch.tensor(slopes, dtype=DOUBLE), torch.tensor(shifts, dtype=DOUBLE)
        self.forecast = self.covariance[:, -1] / self.covariance.diagonal()
        self.rest = self.mean[-1] - self.forecast * self.mean
        self.spread = self.covariance[-1, -1] - self.forecast * self.covariance[:, -1]

    def log_expectation(self, linear: Tensor, constant: Tensor | float = 0.0) -> float:
        """``log E[exp(linear . x + constant)]``."""
        return float(linear @ self.mean + 0.5 * linear @ self.covariance @ linear + constant)

    def log_evidence(self, strength: float) -> float:
        """``log E[exp(strength x_K)]`` of the chain itself: no discretisation error remains."""
        last = torch.zeros_like(self.mean)
        last[-1] = strength
        return self.log_expectation(last)

    def relative_variance(self, strength: float, counts: Tensor) -> float:
        r"""N times the variance of Zhat / Z as N grows, if every look is followed by multinomial resampling.

        .. math:: \sum_k \left( \frac{\eta_k(h_k^2)}{\eta_k(h_k)^2} - 1 \right)

        with :math:`\eta_k` the law of paths weighted by what came before look k, and :math:`h_k` the expectation of all
        that comes from it on: Del Moral 2004, section 9.4. The logarithms are linear, so that all of it is Gaussian.

        Args:
            strength: lambda; the reward is the state itself.
            counts: [looks, K]: how often the level after each look contains the reward of each step.
        """
        looks = [int(row.nonzero().max()) for row in counts]
        level, total = torch.zeros_like(self.mean), 0.0
        constant, evidence = torch.zeros((), dtype=DOUBLE), self.log_evidence(strength)
        for number, k in enumerate([*looks, len(self.mean) - 1]):
            ahead = -level
            ahead = ahead.index_add(0, torch.tensor([k]), 2 * strength * self.forecast[k : k + 1])
            rest = 2 * strength * self.rest[k] + strength**2 * self.spread[k] - constant
            log_ratio = self.log_expectation(level, constant) + self.log_expectation(ahead, rest) - 2 * evidence
            total += float(torch.tensor(log_ratio).expm1())
            if number < len(counts):
                shares = strength * counts[number].to(DOUBLE)
                level = torch.cat([shares * self.slopes, torch.zeros(1, dtype=DOUBLE)])
                constant = shares @ self.shifts
        return total


def level_counts(name: str, looks: list[int], steps: int) -> Tensor:
    """Rows of a potential's level after each look: how often it contains the reward of each step."""
    rows = []
    for number, look in enumerate(looks):
        row = torch.zeros(steps)
        for earlier, step in enumerate(looks[: number + 1]):
            row[step] = {"difference": float(step == look), "current": 1.0, "sum": number - earlier + 1.0}[name]
        rows.append(row)
    return torch.stack(rows)
