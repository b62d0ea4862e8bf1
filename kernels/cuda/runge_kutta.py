"""`rk_step` in CUDA: the new state, errors and dense output of the reference, bit for bit."""

from __future__ import annotations

import torch

from ..device import current_stream, on_device_of
from ..dispatch import emulating, implements, native_module
from ..native import CODES
from ..runge_kutta import Rows


@implements("rk_step", "cuda")
def _cuda(x, stages, h, rows: Rows, out, error, dense) -> None:
    if x.numel() == 0:
        error.zero_()
        return
    count = x.shape[0]
    size = x.numel() // count
    x, stages, h = x.contiguous(), [k.contiguous() for k in stages], h.contiguous()
    target = out if out.is_contiguous() else torch.empty_like(x)
    with on_device_of(x):
        scratch = error.new_empty(native_module.gpu_rk_step_scratch(count, size, len(rows.estimates)))
        native_module.gpu_rk_step(
            emulated=emulating(),
            dtype=CODES[x.dtype],
            rows=count,
            row_size=size,
            x=x.data_ptr(),
            stages=[k.data_ptr() for k in stages],
            h=h.data_ptr(),
            h_step=1 if h.shape[0] > 1 else 0,
            tableau=(rows.weights, *rows.estimates, *rows.dense),
            estimates=len(rows.estimates),
            rtol=rows.rtol,
            atol=rows.atol,
            out=target.data_ptr(),
            dense=[q.data_ptr() for q in dense],
            error=error.data_ptr(),
            scratch=scratch.data_ptr(),
            stream=current_stream(x),
        )
    if target is not out:
        out.copy_(target)
