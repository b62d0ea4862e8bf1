"""The main job on the bundled network, judged by a classifier that had no part in making it."""

from __future__ import annotations

import pytest
import torch

import pushforward as pf
from pushforward.models import bundled
from pushforward.models.training import metrics
from pushforward.models.training.digits import load_digits28

LABELS = torch.arange(10).repeat(50)
JUDGE = "digits28-classifier-b"


@pytest.fixture(scope="module")
def judge() -> torch.nn.Module:
    return bundled.load(JUDGE)


def draw(solver: str, guidance: float, **options: object) -> torch.Tensor:
    model = pf.models.load("digits28-base")
    chosen = pf.solver(solver, **options)
    plan = pf.make_plan(model, solver=chosen, steps=10, guidance=guidance)
    assert plan.nfe == 10
    batches = [
        pf.sample(model, (len(ids), 1, 28, 28), solver=chosen, steps=10, guidance=guidance, seed=2024, samples=ids,
                  condition={"label": LABELS[ids]})
        for ids in torch.arange(500).split(250)
    ]  # fmt: skip
    return torch.cat(batches).clamp(-1, 1)


@pytest.mark.parametrize(
    ("solver", "guidance", "options"),
    [("euler", 1.0, {}), ("pseudo_corrector", 2.0, {"terminal": "cached"})],
    ids=["euler", "pseudo_corrector-guided"],
)
def test_ten_evaluations_give_the_class_that_was_asked_for(
    solver: str, guidance: float, options: dict, judge: torch.nn.Module
) -> None:
    samples = draw(solver, guidance, **options)
    with torch.no_grad():
        share = metrics.class_agreement(judge(samples), LABELS)
    assert share.value >= 0.95
    train, held_out, _ = load_digits28()
    ratio = metrics.nearest_neighbour_ratio(samples.flatten(1), train.images.flatten(1), held_out.images.flatten(1))
    assert ratio > 0.8, "closer to the training digits than real ones are: copies"
    # far from noise, near to data: held-out digits are at -0.007, noise at 18.5, one Euler step at 2.1
    assert metrics.energy_distance(samples.flatten(1), held_out.images.flatten(1)) < 0.2


def test_the_judge_recognises_digits_it_has_never_seen(judge: torch.nn.Module) -> None:
    _, held_out, _ = load_digits28()
    with torch.no_grad():
        assert metrics.class_agreement(judge(held_out.images), held_out.labels).value >= 0.97


@pytest.mark.parametrize("solver", ["euler", "pseudo_corrector", "euler_maruyama"])
def test_a_digit_does_not_depend_on_its_batch(solver: str) -> None:
    """The network's convolutions round differently by batch; the library adds nothing to that."""
    model = pf.models.load("digits28-base")

    def some(ids: torch.Tensor) -> torch.Tensor:
        return pf.sample(model, (len(ids), 1, 28, 28), solver=solver, steps=6, seed=3, samples=ids, guidance=2.0,
                         condition={"label": ids % 10})  # fmt: skip

    whole = some(torch.arange(64))
    order = torch.randperm(64, generator=torch.Generator().manual_seed(1))
    assert (some(order) - whole[order]).abs().max() < 1e-4
    assert (some(torch.arange(7)) - whole[:7]).abs().max() < 1e-4
    assert (some(torch.tensor([41])) - whole[41:42]).abs().max() < 1e-4


def test_the_small_network_serves_too() -> None:
    model = pf.models.load("digits28-small")
    x = pf.sample(model, (4, 1, 28, 28), solver="heun", steps=4, condition={"label": torch.arange(4)})
    assert x.isfinite().all()
    assert x.abs().max() < 3
