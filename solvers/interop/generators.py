"""Keys of our counter-based noise from torch generators, without reading a device."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from ...errors import ArgumentError

Generators = torch.Generator | Sequence[torch.Generator] | None


def sample_ids(generator: Generators, rows: int, device: torch.device | str = "cpu", *, advance: bool = True) -> Tensor:
    """Sample ids that key a run's noise, one for each row, from the generators that a pipeline was given.

    The id of a row is a 63-bit hash (BLAKE2b) of its generator's state and of the row's position among those that
    share the generator; the seed of the run is 0. So a sample drawn with a generator of its own is the same alone and
    in any batch of such samples, a list of one generator equals the generator, and equal states give equal noise. A
    generator's state lies on the host, also for devices: nothing is waited for.

    Args:
        generator: One for all rows, one for each row, or None for torch's default generator of the CPU.
        rows: Number of samples.
        device: Where the ids are put.
        advance: Draw one number from each generator afterwards, so that its next run has other noise.

    Returns:
        int64 [rows], each in [0, 2**63).

    Raises:
        ArgumentError: A list whose length is neither 1 nor ``rows``.

    Example:
        >>> g = lambda seed: torch.Generator().manual_seed(seed)
        >>> both = sample_ids([g(3), g(4)], 2)
        >>> bool(both[1] == sample_ids(g(4), 1)[0])
        True

    """
    shared = generator is None or isinstance(generator, torch.Generator) or len(generator) == 1
    if generator is None:
        sources = [torch.default_generator]
    else:
        sources = [generator] if isinstance(generator, torch.Generator) else list(generator)
    if not shared and len(sources) != rows:
        raise ArgumentError(
            "generator", got=f"a list of {len(sources)}", expected=f"one generator, or {rows} (a row each)"
        )
    states = [source.get_state().numpy().tobytes() for source in sources]
    keys = [(states[0], row) for row in range(rows)] if shared else [(state, 0) for state in states]
    if advance:
        for source in sources:
            torch.empty((), device=source.device).uniform_(generator=source)
    return torch.tensor([_hash(state, row) for state, row in keys], dtype=torch.int64).to(device, non_blocking=True)


def _hash(state: bytes, row: int) -> int:
    """63 bits of the state and the row."""
    digest = hashlib.blake2b(state, digest_size=8, salt=row.to_bytes(16, "little")).digest()
    return int.from_bytes(digest, "little") >> 1
