"""The page of verifiers: its Python runs, it names all there are, and its table of flattery is measured."""

from __future__ import annotations

import itertools
import math
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pushforward.models import verifiers
from pushforward.models.verifiers import SignAgreement, evaluate

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "verifiers.md").read_text()
REPEATS, SIZES = 200, (1, 4, 16, 64, 256, 1024)


def test_the_code_of_the_page_runs() -> None:
    blocks, names = re.findall(r"```python\n(.*?)```", PAGE, re.S), {}
    assert len(blocks) == 3
    for block in blocks:
        exec(block, names)
    assert names["result"].ledger.total("rewards").tolist() == [40]
    assert names["held_out"].shape == (4,)
    assert names["timed"].rows == 4


def test_every_verifier_is_on_the_page() -> None:
    public = {name: value for name, value in vars(verifiers).items() if isinstance(value, type)}
    bases = {"Combined", "Verifier", "Negated"}  # the last under the name that makes it
    assert {name for name in public if name not in bases and f"`{name}(" not in PAGE} == set()
    assert "`lower_is_better(" in PAGE
    assert "`Decoded.from_vae(" in PAGE


def test_the_flags_of_the_page_are_those_of_the_classes() -> None:
    """The column "gradient" of the table is what the classes say of themselves."""
    rows = re.findall(r"^\| `(\w+)\(.*?\| (yes|flat) \|", PAGE, re.M)
    assert len(rows) == 10
    for name, said in rows:
        assert getattr(verifiers, name).differentiable is (said == "yes")


@pytest.fixture(scope="module")
def search() -> tuple[Tensor, Tensor]:
    """Scores and rewards [repeats, candidates]: the score is the reward and eight sinusoids, which say nothing of it.

    Candidates have independent coordinates near -1 or 1, so that each sign is wrong with probability 1/2.
    """
    generator = torch.Generator().manual_seed(1)
    frequencies = torch.randn(16, 8, generator=generator).double()
    phases = 2 * math.pi * torch.rand(8, generator=generator).double()
    reward = SignAgreement((1, -1, -1, 1, 1, 1, -1, 1, -1, -1, 1, -1, 1, 1, -1, -1))

    def score(x: Tensor, context: object) -> Tensor:
        return reward(x) + torch.sin(x @ frequencies + phases).sum(1)

    generator = torch.Generator().manual_seed(1)
    centres = 2.0 * torch.randint(0, 2, (REPEATS * SIZES[-1], 16), generator=generator) - 1
    x = (centres + 0.2 * torch.randn(centres.shape, generator=generator)).double()
    return evaluate(score, x).reshape(REPEATS, -1), evaluate(reward, x).reshape(REPEATS, -1)


def test_the_table_of_the_page_is_measured(search: tuple[Tensor, Tensor]) -> None:
    score, reward = search
    rows = re.findall(r"^\| (\d+) \|" + r" (-?\d+\.\d+) \|" * 4 + "$", PAGE, re.M)
    assert [int(row[0]) for row in rows] == list(SIZES)
    for n, *told in rows:
        best = score[:, : int(n)].argmax(1, keepdim=True)
        searched, held_out = score.gather(1, best)[:, 0], reward.gather(1, best)[:, 0]
        measured = (searched, held_out, searched - held_out, reward[:, : int(n)].amax(1))
        for values, number in zip(measured, told, strict=True):
            error = values.std().item() / math.sqrt(REPEATS)
            # Two decimals; and another torch may draw other numbers, whose mean differs by sqrt(2) standard errors.
            assert values.mean().item() == pytest.approx(float(number), abs=0.005 + 4 * math.sqrt(2) * error)


def test_a_searched_score_outgrows_the_reward_that_it_stands_for(search: tuple[Tensor, Tensor]) -> None:
    score, reward = search
    best = [score[:, :n].argmax(1, keepdim=True) for n in SIZES]
    flattery = [(score - reward).gather(1, chosen)[:, 0] for chosen in best]
    for fewer, more in itertools.pairwise(flattery):  # by 0.4 and more, of which the standard error is 0.12
        grown = more - fewer
        assert grown.mean() > 2 * grown.std() / math.sqrt(REPEATS)
    # The score alone claims more than no wrong sign; the held-out column shows that there were better samples.
    assert score.gather(1, best[-1]).mean() > 0
    assert (reward.amax(1) - reward.gather(1, best[-1])[:, 0]).mean() > 1
