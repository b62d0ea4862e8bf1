"""Networks of latent flow matching (LFM)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..adapter import Model, adapt
from .labels import dropped_label


def from_lfm(network: Callable[..., Any], *, null: Mapping[str, Any] | None = None, **options: Any) -> Model:
    r"""A model from a network of LFM: ``network(1 - t, x, y)`` returns noise minus data.

    Time comes first and runs towards the noise. LFM trains with :math:`\sigma(t) = 1 - t + 10^{-5} t`, here 1 - t.

    Args:
        network: Takes times [B], states [B, C, H, W] and ``y`` [B].
        null: The unconditional condition; by default the dropped label of its table, if it has one. Its networks of
            ADM's make were trained with the label 0 for it: ``null={"y": torch.tensor([0])}``.
        **options: Of :func:`adapt`.

    Source:
        Dao et al. 2023, Flow Matching in Latent Space.
    """
    null = dropped_label(network) if null is None else null
    options = {"latent": True} | options
    return adapt(network, "velocity", "linear", time="1-t", sign=-1, call="t_x", null=null, **options)
