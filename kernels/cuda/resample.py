"""`resample` in CUDA: the ancestors, weights and sums of the reference, bit for bit, and no host read."""

from __future__ import annotations

import torch
from torch import Tensor

from ..device import current_stream, on_device_of
from ..dispatch import emulating, implements, native_module
from ..native import key_numbers
from ..noise import Noise
from ..resample import RESAMPLING_SCHEMES


@implements("resample", "cuda")
def resample(
    log_weights: Tensor, scheme: str, count: int, noise: Noise
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Launch the passes on the current stream; log-weights that are not contiguous are copied.

    Scratch memory is 8 bytes a particle (16 if the scheme is "residual", "killing" or "ssp") and a few numbers for
    every 1024 of them.
    """
    log_weights = log_weights.contiguous()
    (rows, particles), device = log_weights.shape, log_weights.device
    code = RESAMPLING_SCHEMES.index(scheme)
    ancestors = torch.empty((rows, count), dtype=torch.int64, device=device)
    weights = torch.empty_like(log_weights)
    maximum = torch.empty(rows, dtype=torch.float64, device=device)
    total, squares = torch.empty((2, rows), dtype=torch.int64, device=device)
    size = native_module.gpu_resample_scratch(code, rows, particles, count)
    scratch = torch.empty(size, dtype=torch.int64, device=device)
    keep: list[Tensor | None] = []
    key = key_numbers(noise, device, keep)
    with on_device_of(log_weights):
        native_module.gpu_resample(
            emulated=emulating(),
            log_weights=log_weights.data_ptr(),
            weights=weights.data_ptr(),
            wide=log_weights.dtype == torch.float64,
            scheme=code,
            rows=rows,
            particles=particles,
            count=count,
            noise=key,
            ancestors=ancestors.data_ptr(),
            maximum=maximum.data_ptr(),
            total=total.data_ptr(),
            squares=squares.data_ptr(),
            scratch=scratch.data_ptr(),
            stream=current_stream(log_weights),
        )
    return ancestors, weights, maximum, total, squares
