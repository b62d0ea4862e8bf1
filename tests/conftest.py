"""Settings of the whole test suite."""

from __future__ import annotations

import os

import torch
from hypothesis import settings

if not torch.cuda.is_available():
    os.environ.setdefault("PUSHFORWARD_EMULATE_CUDA", "1")  # thread by thread on the CPU
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when a kernel is decorated, so before any is imported

# No test asserts a time, so none fails for being slow once; on CI the examples are the same in every run.
settings.register_profile("pushforward", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("pushforward")

# Tests run in parallel processes (`pytest -n 0`: in one), which share the cores between them.
if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // workers))
