from __future__ import annotations

import pytest
import torch

from pushforward.errors import ArgumentError, UnknownNameError
from pushforward.models.verifiers import VERIFIERS, ClassProbability, Holes, InkBlocks, evaluate, named


@pytest.mark.parametrize("name", sorted(VERIFIERS))
def test_every_name_is_a_verifier_that_scores_digits(name: str) -> None:
    x = torch.linspace(-1, 1, 3 * 784).reshape(3, 1, 28, 28)
    values = evaluate(named(name), x, {"label": torch.tensor([3, 1, 4])})
    assert values.shape == (3,)
    assert values.isfinite().all()


def test_options_and_what_they_replace() -> None:
    assert named("holes", count=2) == Holes(2)
    assert named("blocks", pattern="##./?.#").pattern == ("##.", "?.#")
    assert isinstance(named("blocks"), InkBlocks)
    assert named("judge", label=3) == ClassProbability("digits28-classifier-b", label=3, log=False)
    for name, options, message in (
        ("nope", {}, "reward: got 'nope', expected one of ink, symmetry"),
        ("ink", {"amount": 1}, "reward ink: got the option amount, expected some of .'target'."),
        ("ink", {"target": 2}, "target: got 2"),
        ("blocks", {"pattern": "##/#"}, "strings of equal length"),
    ):
        with pytest.raises(UnknownNameError if name == "nope" else ArgumentError, match=message):
            named(name, **options)
