"""Classification by exact likelihood: the log-density of data under every candidate condition."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import ArgumentError, UnknownNameError
from ...models import Model
from ...models.classification.candidates import candidate_count
from ...models.noising import check_data, check_gaussian, check_rows_a_call, keyed_noise, noised
from .ends import ends
from .log_density import log_density


@dataclass(frozen=True, eq=False)
class ClassDensities:
    """Log-densities of data under every candidate, on the CPU.

    Attributes:
        labels: The candidate of largest log-density, int64 [B].
        log_density: log p(x | c) in nats, float64 [B, C]; of the noisy states where noise was asked for.
        standard_error: Of these, from the spread of several probes, float64 [B, C]; None where there are no two. That
            of a difference between candidates is smaller, since they share the probes.
        nfe: Network evaluations, int64 [B, C].
    """

    labels: Tensor
    log_density: Tensor
    standard_error: Tensor | None
    nfe: Tensor

    def log_posterior(self, log_prior: Tensor | None = None) -> Tensor:
        """Logarithms of the candidates' probabilities, float64 [B, C].

        Args:
            log_prior: Log-weights of the candidates, [C] or [B, C]; uniform by default.
        """
        scores = self.log_density if log_prior is None else self.log_density + log_prior.to(self.log_density)
        return scores.log_softmax(1)


def classify_by_likelihood(
    model: Model,
    x: Tensor,
    condition: Mapping[str, Any],
    *,
    noise_ratio: float = 0.0,
    seed: int = 0,
    samples: Tensor | None = None,
    max_rows: int = 256,
    **options: Any,
) -> ClassDensities:
    r"""Classify data by the condition under which the probability flow makes it likeliest.

    .. math:: \hat c = \arg\max_c \log p(x | c)

    One adaptive run for each sample and candidate. The probes of an estimated divergence belong to (seed, sample): all
    candidates of a sample share them, and a result does not depend on the batch.

    Args:
        model: A conditional model.
        x: Data, [B, *D], float32 or float64.
        condition: The candidates: tensors with a row for each, C >= 2, for instance ``{"label": torch.arange(10)}``.
        noise_ratio: sigma / alpha of the noise that the data is given first, the same for all candidates. Pictures lie
            near a surface, and what the density does across it, which dominates that of the pictures, a network learns
            last and says little of a class.
        seed, samples: Keys of the noise and the probes.
        max_rows: Most rows (samples x candidates) of a run.
        **options: As of :func:`pushforward.log_density`: "divergence", "probes", "rtol", "atol", "method" and others.

    Raises:
        ArgumentError: Fewer than two candidates, and whatever :func:`pushforward.log_density` refuses.
        UnknownNameError: An option that belongs to this function, or that makes no sense here.

    Source:
        Song et al. 2021, section 4.3; Li et al. 2023, appendix, for its use as a classifier.

    Example:
        >>> from pushforward.models import load
        >>> x, labels = torch.zeros(1, 1, 28, 28), {"label": torch.tensor([1, 8])}
        >>> run = {"divergence": "hutchinson", "rtol": 1e-2, "atol": 1e-2}
        >>> classify_by_likelihood(load("digits28-small"), x, labels, **run).log_density.shape
        torch.Size([1, 2])
    """
    check_gaussian(model)
    ids = check_data("x", x, samples)
    check_rows_a_call(max_rows)
    for name in ("times", "condition", "null", "guidance", "gradient"):
        if name in options:
            raise UnknownNameError("options", got=repr(name), expected="options of a plain run of log_density")
    count = candidate_count(model, condition)
    bound, batch = model.bind(condition), x.shape[0]
    states, times = noisy(model, x, noise_ratio, seed, ids)
    rows = torch.arange(batch * count)
    parts = []
    for some in rows.split(max_rows):
        sample, candidate = some // count, some % count
        inputs = bound.select(candidate).conditions["cond"]
        run = {"condition": inputs, "times": times, "seed": seed, "samples": ids[sample], **options}
        with torch.no_grad():
            parts.append(log_density(model, states.index_select(0, sample.to(x.device)), **run))

    def together(values: list[Tensor]) -> Tensor:
        return torch.cat([value.detach().cpu() for value in values]).reshape(batch, count)

    values = together([part.value for part in parts])
    errors = [part.standard_error for part in parts if part.standard_error is not None]
    nfe = torch.from_numpy(np.concatenate([part.nfe for part in parts])).reshape(batch, count)
    return ClassDensities(values.argmax(1), values, together(errors) if errors else None, nfe)


def noisy(
    model: Model, x: Tensor, noise_ratio: float, seed: int, ids: Tensor
) -> tuple[Tensor, tuple[float, float] | None]:
    """States of that noise ratio and the ends of their way; the data itself and None without noise.

    Raises:
        ArgumentError: A noise ratio that is negative, NaN, infinite, or not on the path.
    """
    if not 0 <= noise_ratio < math.inf:
        raise ArgumentError("noise_ratio", got=noise_ratio, expected="a finite number of at least 0")
    if noise_ratio == 0:
        return x, None
    time = model.interpolant.time_at_noise_ratio(noise_ratio)
    alpha, sigma, _, _ = model.interpolant(time)
    return noised(x, keyed_noise(x, seed, 0, ids), alpha, sigma), (time, ends(model, None).base)
