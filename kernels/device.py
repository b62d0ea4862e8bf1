"""The device on which a kernel is launched."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def on_device_of(tensor: Tensor) -> AbstractContextManager[object]:
    """Make the device of a tensor the current one, which is where kernels are launched."""
    if not tensor.is_cuda or torch.cuda.current_device() == tensor.device.index:
        return nullcontext()
    return torch.cuda.device(tensor.device)


def current_stream(tensor: Tensor) -> int:
    """Handle of the current stream of a tensor's device; 0 on the CPU, where kernels for GPUs are emulated."""
    return torch._C._cuda_getCurrentRawStream(tensor.device.index) if tensor.is_cuda else 0
