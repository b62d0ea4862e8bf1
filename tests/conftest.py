"""Settings of the whole test suite."""

from __future__ import annotations

import os

from hypothesis import settings

# No test asserts a time, so none fails for being slow once; on CI the examples are the same in every run.
settings.register_profile("pushforward", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("pushforward")
