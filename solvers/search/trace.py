"""Trace: what a search saw on its way."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import ArgumentError
from ..particles.genealogy import Genealogy


@dataclass
class Record:
    """One look of a search at its candidates.

    Attributes:
        phase: "initial", "search" or "finish".
        step, time: Where the candidates are: the step that starts there, and its time in [0, 1].
        finished: Whether the rewards are of finished samples, or of clean estimates on the way.
        nfe: Rows that the network had seen by then, for each request, int64 [S].
        best: Highest reward of finished samples so far, or of estimates while there are none; float64 [S].
        mean, highest, lowest: Of the candidates' rewards, float64 [S]; NaN for a request without candidates.
        rewards: Rewards of the candidates, float64 [S, N]; NaN where a request had fewer. None where a search of many
            particles does not keep them.
        ess: Effective sample size of weighted particles, float64 [S]; None elsewhere.

    """

    phase: str
    step: int
    time: float
    finished: bool
    nfe: Tensor
    best: Tensor
    mean: Tensor
    highest: Tensor
    lowest: Tensor
    rewards: Tensor | None = None
    ess: Tensor | None = None

    def to_dict(self, *, rewards: bool = False) -> dict[str, Any]:
        """JSON data: a list with a number for each request; NaN is null, and infinities are "inf" and "-inf".

        Args:
            rewards: Whether to include those of all candidates.
        """
        values: dict[str, Any] = {name: getattr(self, name) for name in ("phase", "step", "time", "finished")}
        for name in ("nfe", "best", "mean", "highest", "lowest", "ess", *(["rewards"] if rewards else [])):
            value = getattr(self, name)
            values[name] = None if value is None else plain_json(value.tolist())
        return values


@dataclass
class Trace:
    """All records of a search, and the ancestry of its particles.

    Attributes:
        keep: Rewards of at most so many candidates of all requests together are kept in a record.
        records: In order of time.
        genealogy: Ancestors step by step, for methods whose particles have any.

    """

    keep: int = 65536
    records: list[Record] = field(default_factory=list)
    genealogy: Genealogy | None = None

    def add(
        self,
        phase: str,
        step: int,
        time: float,
        rewards: Tensor,
        nfe: Tensor,
        *,
        finished: bool = False,
        ess: Tensor | None = None,
    ) -> Record:
        """Note the rewards [S, N] of candidates."""
        lowest, highest = rewards.aminmax(dim=1)  # NaN if there is any
        mean, best, empty = rewards.mean(1), highest, lowest.isnan()
        if bool(empty.any()):
            highest = rewards.nan_to_num(nan=-torch.inf, neginf=-torch.inf, posinf=torch.inf).amax(1)
            lowest = rewards.nan_to_num(nan=torch.inf, neginf=-torch.inf, posinf=torch.inf).amin(1)
            mean, best, empty = rewards.nanmean(1), highest, rewards.isnan().all(1)
        last = self.records[-1] if self.records else None
        if last is not None and last.finished == finished:
            best = torch.maximum(best, last.best)
        kept = rewards.clone() if rewards.numel() <= self.keep else None
        mean, highest, lowest = (v.masked_fill(empty, torch.nan) for v in (mean, highest, lowest))
        self.records.append(Record(phase, step, time, finished, nfe, best, mean, highest, lowest, kept, ess))
        return self.records[-1]

    def to_json(self, indent: int | None = None) -> str:
        """All records with the rewards of their candidates, and the genealogy, as JSON; see :meth:`Record.to_dict`.

        Example:
            >>> trace = Trace()
            >>> record = trace.add("search", 0, 0.0, torch.tensor([[1.0, 3.0]]), torch.tensor([2]))
            >>> json.loads(trace.to_json())["records"][0]["highest"]
            [3.0]
        """
        lines = [record.to_dict(rewards=True) for record in self.records]
        family = None
        if self.genealogy is not None:
            family = {
                "requests": self.genealogy.requests,
                "particles": self.genealogy.particles,
                "steps": self.genealogy.steps,
                "resampled": self.genealogy.resampled,
                "ancestors": [ancestors.tolist() for ancestors in self.genealogy.ancestors],
            }
        return json.dumps({"records": lines, "genealogy": family}, indent=indent, allow_nan=False)

    def save(self, path: str | Path) -> None:
        """Write :meth:`to_json` to a file.

        Raises:
            ArgumentError: Its folder does not exist.
        """
        if not Path(path).parent.is_dir():
            raise ArgumentError("path", got=str(path), expected="a file in an existing folder")
        Path(path).write_text(self.to_json(indent=1) + "\n", encoding="utf-8")


def plain_json(value: Any) -> Any:
    """Lists and numbers that strict JSON knows: NaN is null, and infinities are "inf" and "-inf".

    Example:
        >>> plain_json([1.0, math.nan, -math.inf])
        [1.0, None, '-inf']
    """
    if isinstance(value, list):
        return [plain_json(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value
