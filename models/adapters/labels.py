"""The dropped label of class-conditional transformers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def dropped_label(network: Any) -> dict[str, Tensor] | None:
    """``{"y": [num_classes]}`` for networks whose label table has one row more than there are classes; else None.

    That row stood for labels dropped in training. Read from ``network.y_embedder``, as in DiT, SiT and LFM.

    Source:
        Peebles & Xie 2023 (DiT).
    """
    embedder = getattr(network, "y_embedder", None)
    classes = getattr(embedder, "num_classes", None)
    table = getattr(embedder, "embedding_table", None)
    if classes is None or getattr(table, "num_embeddings", None) != classes + 1:
        return None
    return {"y": torch.tensor([classes])}
