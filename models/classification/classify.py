"""The diffusion classifier: which condition lets a model remove noise best, with pruning of candidates."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import ArgumentError, UnknownNameError
from ..adapter import Model
from ..noising import check_data, check_gaussian
from .candidates import candidate_count
from .errors import LOSSES, denoising_errors
from .grid import nested_times
from .stages import Stages, as_stages

WEIGHTS = ("uniform", "ell")


@dataclass(frozen=True, eq=False)
class Classification:
    """What a classifier found, on the CPU.

    Attributes:
        labels: The best candidate of each sample, int64 [B].
        errors: Weighted mean errors over the pairs that a candidate was given, float64 [B, C]. Only those of equal
            ``pairs`` are comparable.
        pairs: How many that were, int64 [B, C].
        scores: :math:`-d` times the error for candidates that were given all pairs, -inf for those that were dropped
            before, float64 [B, C]; with ``weight="ell"`` log p(x | c) up to a number that all candidates share.
        evaluations: Network evaluations for each sample.
    """

    labels: Tensor
    errors: Tensor
    pairs: Tensor
    scores: Tensor
    evaluations: int

    def log_posterior(self, log_prior: Tensor | None = None) -> Tensor:
        """Logarithms of the candidates' probabilities, float64 [B, C]; -inf for those that were dropped.

        Calibrated with ``weight="ell"`` only, as far as the model is exact: other weights have no scale.

        Args:
            log_prior: Log-weights of the candidates, [C] or [B, C]; uniform by default.
        """
        scores = self.scores if log_prior is None else self.scores + log_prior.to(self.scores)
        return scores.log_softmax(1)


@torch.no_grad()
def classify(
    model: Model,
    x: Tensor,
    condition: Mapping[str, Any],
    *,
    stages: Stages | int | Iterable[tuple[int, int]],
    weight: str | Callable[[float], float] = "uniform",
    loss: str = "l2",
    noise_range: tuple[float, float] | None = None,
    seed: int = 0,
    samples: Tensor | None = None,
    max_rows: int = 256,
) -> Classification:
    r"""Classify data by the condition under which a model removes noise from it best.

    .. math:: \hat c = \arg\min_c \frac1n \sum_{j} w(t_j)\, \| \epsilon_j - n(\alpha_j x + \sigma_j \epsilon_j, t_j,
        c) \|^2

    With ``weight="ell"`` the times are evenly spaced in the half log-SNR :math:`\ell` and the score is the
    log-likelihood up to a constant, for a network that is the conditional mean:

    .. math:: \log p(x | c) - \log p(x | c') = \int E \| \epsilon - n_{c'} \|^2 - E \| \epsilon - n_c \|^2 \, d\ell

    All candidates of a sample share its pairs of a time and a noise. The pairs of all stages are one list, whose
    beginnings are spread over the whole range of times, so that a stage adds pairs to those of the stages before it.
    Nothing is guided.

    Args:
        model: Any one-sided conditional model.
        x: Data, [B, *D], as the model generates it.
        condition: The candidates: tensors with a row for each, C >= 2, for instance ``{"label": torch.arange(10)}``.
        stages: :class:`Stages`; (pairs, keep) of each; or the number of pairs for every candidate, without pruning.
            The paper's are in :data:`PAPER_STAGES`.
        weight: "uniform", evenly spaced t, the paper's; "ell", log-likelihoods; or a function of t in [0, 1] by which
            the errors at evenly spaced t are multiplied.
        loss: "l2" or "l1"; "ell" needs the former.
        noise_range: Smallest and largest noise ratio sigma / alpha of the times; by default those of training, and
            exp(-7) to exp(7) at most for "ell". The integrand vanishes at both ends for exact models only: keep to
            what the network was trained on.
        seed, samples: Keys of the noise: a sample's result is the same in every batch, as far as the network's is.
        max_rows: Most rows of a call: samples x candidates x pairs fill it. The errors of a stage are kept, 8 bytes
            for each row.

    Returns:
        A :class:`Classification`. Of equal errors the candidate that comes first is the better one.

    Raises:
        ArgumentError: Stages out of order or that keep more candidates than there are, fewer than two candidates, a
            range that is empty, a weight that is negative or not finite, an L1 error as a likelihood.
        UnknownNameError: Another weight or loss.
        NotFiniteError, ShapeError, DtypeError, SingularTimeError: As of :func:`denoising_errors`.

    Source:
        Li et al. 2023, Your Diffusion Model is Secretly a Zero-Shot Classifier; the likelihood, Kingma et al. 2021
        (VDM), equation 12 for infinitely many steps.

    Example:
        >>> from pushforward.models import load
        >>> one = torch.full((1, 1, 28, 28), -1.0)
        >>> one[..., 5:23, 13:15] = 1.0
        >>> found = classify(load("digits28-small"), one, {"label": torch.arange(10)}, stages=[(4, 4), (16, 1)])
        >>> found.labels, found.evaluations
        (tensor([1]), 88)
    """
    check_gaussian(model)
    check_data("x", x, samples)
    plan = as_stages(stages)
    if loss not in LOSSES:
        raise UnknownNameError("loss", got=repr(loss), expected="'l2' or 'l1'")
    if not callable(weight) and weight not in WEIGHTS:
        raise UnknownNameError("weight", got=repr(weight), expected="'uniform', 'ell' or a function of t")
    if weight == "ell" and loss != "l2":
        raise ArgumentError("loss", got=repr(loss), expected="'l2': only squared errors make a log-likelihood")
    count = candidate_count(model, condition)
    evaluations = plan.evaluations(count)
    spacing = "half_log_snr" if weight == "ell" else "t"
    times, width = nested_times(model.interpolant, plan.pairs[-1], spacing=spacing, noise_range=noise_range)
    factors = _factors(weight, times, width)

    batch = x.shape[0]
    sums = torch.zeros(batch, count, dtype=torch.float64)
    pairs = torch.zeros(batch, count, dtype=torch.int64)
    left, seen = torch.arange(count).expand(batch, count), 0
    for upto, keep in zip(plan.pairs, plan.keep, strict=True):
        errors = denoising_errors(
            model,
            x,
            condition,
            times[seen:upto],
            draws=range(seen, upto),
            candidates=left,
            loss=loss,
            seed=seed,
            samples=samples,
            max_rows=max_rows,
        )
        sums.scatter_add_(1, left, errors.cpu().double() @ factors[seen:upto])
        pairs.scatter_(1, left, upto)
        best = sums.gather(1, left).argsort(dim=1, stable=True)[:, :keep]
        left, seen = left.gather(1, best).sort(dim=1).values, upto
    means = sums / pairs
    finalists = pairs == plan.pairs[-1]
    scores = (-means * x[0].numel()).masked_fill(~finalists, -torch.inf)
    return Classification(scores.argmax(1), means, pairs, scores, evaluations)


def _factors(weight: str | Callable[[float], float], times: np.ndarray, width: float) -> Tensor:
    """What the errors at each time are multiplied by, float64 [n]."""
    if not callable(weight):
        return torch.full((len(times),), width if weight == "ell" else 1.0, dtype=torch.float64)
    values = torch.tensor([float(weight(t)) for t in times.tolist()], dtype=torch.float64)
    wrong = (~(values.isfinite() & (values >= 0))).nonzero()
    if len(wrong):
        at = int(wrong[0, 0])
        raise ArgumentError(
            "weight", got=f"{values[at].item()} at t = {times[at]:.4g}", expected="a finite number >= 0"
        )
    return values
