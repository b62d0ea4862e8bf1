"""Class-conditional models that are exact: one oracle a class, chosen by the condition."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pushforward.models import Model, Oracle, prediction


class ClassNetwork:
    """``network(x, time, label)``: what the oracle of each row's class says; counts rows."""

    def __init__(self, oracles: Sequence[Oracle], kind: str) -> None:
        self.networks = [oracle.network(kind) for oracle in oracles]
        self.rows = self.calls = 0

    def __call__(self, x: Tensor, time: Tensor, label: Tensor) -> Tensor:
        self.calls += 1
        self.rows += len(x)
        each = torch.stack([network(x, time) for network in self.networks])
        return torch.where(
            torch.nn.functional.one_hot(label, len(each)).T.bool().reshape(len(each), -1, *[1] * (x.ndim - 1)), each, 0
        ).sum(0)


def class_model(oracles: Sequence[Oracle], kind: str = "noise") -> tuple[Model, dict[str, Tensor]]:
    """The model, and the condition that asks for every class."""
    network = ClassNetwork(oracles, kind)
    read = prediction(kind, oracles[0].interpolant)
    return Model(network=network, prediction=read, time_dtype=torch.float64), {"label": torch.arange(len(oracles))}
