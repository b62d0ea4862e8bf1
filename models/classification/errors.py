"""Denoising errors: how far a network's noise estimate is from the noise, for every candidate, with shared noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...errors import ArgumentError, DtypeError, NotFiniteError, ShapeError, UnknownNameError
from ...kernels import combine
from ..adapter import Model
from ..fields import ModelField
from ..noising import check_data, check_gaussian, check_rows_a_call, keyed_noise
from ..row_times import RowTimes, row_times
from .candidates import candidate_count

LOSSES = ("l2", "l1")


def denoising_errors(
    model: Model,
    x: Tensor,
    condition: Mapping[str, Any],
    times: RowTimes,
    *,
    draws: Sequence[int] | None = None,
    candidates: Tensor | None = None,
    loss: str = "l2",
    seed: int = 0,
    samples: Tensor | None = None,
    max_rows: int = 256,
) -> Tensor:
    r"""Mean errors of the noise estimate for every sample, candidate condition, and pair of a time and a noise.

    .. math:: e_{icj} = \frac1d \| \epsilon_{ij} - n(\alpha_j x_i + \sigma_j \epsilon_{ij}, t_j, c) \|_2^2

    The noise of pair j belongs to (seed, sample, draw j): all candidates of a sample are judged on the same noise, so
    that differences between them vary far less than the errors do, and a pair recurs whatever else is asked for.

    Args:
        model: Any one-sided model, of whatever prediction: its noise estimate is used.
        x: Data, [B, *D].
        condition: The candidates: tensors (or trees of them) with a row for each, C >= 2, or one that serves all.
        times: Of the pairs, [n], inside (0, 1) where the network determines the noise.
        draws: Numbers of the pairs' draws, [n], each >= 0; 0 .. n - 1 by default.
        candidates: Which candidates each sample is judged with, int64 [B, K] on the CPU; all by default.
        loss: "l2", the mean of the squared differences, or "l1", of their absolute values.
        seed: In [0, 2**64).
        samples: Ids that key the noise, int64 [B]; 0 .. B - 1 by default.
        max_rows: Most rows of a call of the network. The result does not depend on it, nor on the batch, further than
            the network itself rounds differently in another batch.

    Returns:
        Errors, [B, K, n], float32, or float64 for float64 data; on the device of x. Differentiable in the network.

    Raises:
        ArgumentError: Not at least two candidates, a candidate that there is not, draws that are not n numbers, a
            time outside [0, 1], a model whose noise is not Gaussian.
        SingularTimeError: A time at which the network does not determine the noise.
        ShapeError, DtypeError: Of data, ids, candidates and conditions.
        UnknownNameError: Another loss.
        NotFiniteError: A network's output; names the sample, the candidate and the time. Costs one host read a call.

    Source:
        Li et al. 2023, Your Diffusion Model is Secretly a Zero-Shot Classifier, equation 6 and section 3.3.

    Example:
        >>> from pushforward.models import load
        >>> x, labels = torch.zeros(1, 1, 28, 28), {"label": torch.arange(10)}
        >>> denoising_errors(load("digits28-small"), x, labels, [0.2, 0.4]).shape
        torch.Size([1, 10, 2])
    """
    check_gaussian(model)
    ids = check_data("x", x, samples)
    check_rows_a_call(max_rows)
    if loss not in LOSSES:
        raise UnknownNameError("loss", got=repr(loss), expected="'l2' or 'l1'")
    told = row_times(times, len(times))
    numbers = list(range(len(told)) if draws is None else draws)
    if len(numbers) != len(told):
        raise ArgumentError("draws", got=f"{len(numbers)} numbers", expected=f"{len(told)}, one for each time")
    chosen = _chosen(candidates, x.shape[0], candidate_count(model, condition))
    field = ModelField(model, condition, quantity="noise")
    rows = len(told) * chosen.numel()
    if rows == 0:
        wide = torch.float64 if x.dtype == torch.float64 else torch.float32
        return torch.empty(*chosen.shape, len(told), dtype=wide, device=x.device)
    parts = [
        _errors_of_rows(field, x, chosen, told, numbers, (seed, ids), loss, begin, end)
        for begin, end in _calls(len(told), chosen.numel(), max_rows, model.time_shape in ("batch", "token"))
    ]
    return torch.cat(parts).reshape(len(told), *chosen.shape).permute(1, 2, 0)


def _calls(pairs: int, each: int, most: int, mixed: bool) -> list[tuple[int, int]]:
    """Ranges of rows, pair by pair, for one call each; a network of one time gets no two pairs in a call."""
    if mixed:
        return [(begin, min(begin + most, pairs * each)) for begin in range(0, pairs * each, most)]
    return [
        (pair * each + begin, pair * each + min(begin + most, each))
        for pair in range(pairs)
        for begin in range(0, each, most)
    ]


def _errors_of_rows(
    field: ModelField,
    x: Tensor,
    chosen: Tensor,
    times: NDArray[np.float64],
    draws: list[int],
    key: tuple[int, Tensor],
    loss: str,
    begin: int,
    end: int,
) -> Tensor:
    """Errors of rows begin .. end - 1, where row (j B + i) K + k is pair j of sample i with its candidate k."""
    batch, kept = chosen.shape
    rows = np.arange(begin, end)
    first, last = begin // kept, (end - 1) // kept  # noised samples, which their candidates share
    noised, noise = _noised(cast(Model, field.model), x, times, draws, key, first, last)
    which = torch.from_numpy(rows // kept - first).to(x.device)
    pair, sample = rows // (kept * batch), rows // kept % batch
    candidate = chosen[torch.from_numpy(sample), torch.from_numpy(rows % kept)]
    estimate = field.rows(candidate)(noised.index_select(0, which), times[pair])
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    gap = (noise.index_select(0, which).to(wide) - estimate.to(wide)).flatten(1)
    errors = (gap.square() if loss == "l2" else gap.abs()).mean(1)
    if not bool(errors.isfinite().all()):
        bad = int((~errors.isfinite()).nonzero()[0, 0])
        where = f"sample {sample[bad]}, candidate {int(candidate[bad])}, t = {times[pair[bad]]:.4g}"
        raise NotFiniteError("denoising error", got=f"{errors[bad].item()} for {where}", expected="a finite output")
    return errors


def _noised(
    model: Model,
    x: Tensor,
    times: NDArray[np.float64],
    draws: list[int],
    key: tuple[int, Tensor],
    first: int,
    last: int,
) -> tuple[Tensor, Tensor]:
    """States ``first`` .. ``last``, of which number j B + i is sample i at pair j, and their noise."""
    (seed, ids), batch = key, x.shape[0]
    data, noise, weights = [], [], []
    for pair in range(first // batch, last // batch + 1):
        part = slice(max(first - pair * batch, 0), min(last - pair * batch, batch - 1) + 1)
        data.append(x[part])
        noise.append(keyed_noise(data[-1], seed, draws[pair], ids[part]))
        alpha, sigma, _, _ = model.interpolant(float(times[pair]))
        weights.append(torch.tensor([[alpha, sigma]], dtype=torch.float64).expand(len(data[-1]), 2))
    eps = torch.cat(noise)
    return cast(Tensor, combine([torch.cat(data), eps], torch.cat(weights))), eps


def _chosen(candidates: Tensor | None, batch: int, count: int) -> Tensor:
    """Candidates of each sample, int64 [B, K], checked."""
    if candidates is None:
        return torch.arange(count).expand(batch, count)
    if candidates.dtype != torch.int64:
        raise DtypeError("candidates", got=candidates.dtype, expected="torch.int64")
    if candidates.ndim != 2 or candidates.shape[0] != batch or candidates.shape[1] < 1:
        raise ShapeError("candidates", got=list(candidates.shape), expected=f"[{batch}, K], those of each sample")
    low, high = (int(bound) for bound in candidates.aminmax())
    if low < 0 or high >= count:
        got = low if low < 0 else high
        raise ArgumentError("candidates", got=got, expected=f"rows of the condition, 0 to {count - 1}")
    return candidates.cpu()
