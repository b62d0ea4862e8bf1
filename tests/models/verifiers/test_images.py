"""Rewards of pictures: formulas by hand, ranges, gradients, jumps; and the bundled classifiers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pushforward.errors import ArgumentError, DtypeError, NotFiniteError, PushforwardError, ShapeError, UnknownNameError
from pushforward.models import bundled
from pushforward.models.verifiers import (
    ClassProbability,
    Holes,
    Ink,
    InkBlocks,
    Similarity,
    Slant,
    Symmetry,
    evaluate,
    evaluate_with_graph,
)


def pictures(count: int, height: int = 28, width: int = 28, seed: int = 0, reach: float = 0.9) -> Tensor:
    """Noise in (-reach, reach), float64: with 0.9 no pixel sits where the ink saturates."""
    shape = (count, 1, height, width)
    return (2 * torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) - 1) * reach


def drawing(*rows: str) -> Tensor:
    """A picture [1, 1, H, W] from '#' and anything else."""
    return torch.tensor([[1.0 if mark == "#" else -1.0 for mark in row] for row in rows])[None, None]


REFERENCE = pictures(1, seed=9)[0]
SMOOTH = {
    "ink": Ink(),
    "ink, target": Ink(0.3),
    "left-right": Symmetry(),
    "up-down": Symmetry("up-down"),
    "slant": Slant(),
    "slant, target": Slant(0.2),
    "cosine": Similarity(REFERENCE),
    "squared": Similarity(REFERENCE, "squared"),
    "log-probability": ClassProbability(label=3),
    "probability": ClassProbability("digits28-classifier-b", 7, log=False),
}
FLAT = {"blocks": InkBlocks(("#.?", "..#", "?##"), 0.5), "holes": Holes(1, threshold=0.6)}
RANGES = {
    "ink": (0, 1),
    "ink, target": (-1, 0),
    "left-right": (0, 1),
    "up-down": (0, 1),
    "slant": (-math.pi / 2, math.pi / 2),
    "slant, target": (-(math.pi**2), 0),
    "cosine": (0, 1),
    "squared": (-1, 0),
    "log-probability": (-math.inf, 0),
    "probability": (0, 1),
    "blocks": (-7, 0),
    "holes": (-200, 0),
}


@pytest.mark.parametrize("name", RANGES)
def test_a_row_is_scored_by_itself_within_the_range(name: str) -> None:
    reward = (SMOOTH | FLAT)[name]
    x = torch.cat([pictures(6, reach=1.5), torch.full((1, 1, 28, 28), -1.0), torch.full((1, 1, 28, 28), 1.0)])
    values = evaluate(reward, x)
    low, high = RANGES[name]
    assert (values >= low).all()
    assert (values <= high + 1e-12).all()
    order = torch.tensor([5, 2, 7, 0, 6, 1, 4, 3])
    torch.testing.assert_close(evaluate(reward, x[order]), values[order], rtol=1e-12, atol=1e-12)
    alone = torch.cat([evaluate(reward, row[None]) for row in x])
    torch.testing.assert_close(alone, values, rtol=1e-12, atol=1e-12)
    # Half precision is widened: what is left is the rounding of x, 2^-9 a pixel, and its effect on steps of counts.
    if name in SMOOTH and not name.endswith("probability"):
        torch.testing.assert_close(evaluate(reward, x.bfloat16()), values, rtol=0, atol=0.05)
    torch.testing.assert_close(evaluate(reward, x.float()), values, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", SMOOTH)
def test_gradients_are_those_of_the_formula(name: str) -> None:
    reward = SMOOTH[name]
    small = "probability" not in name and not isinstance(reward, Similarity)
    x = pictures(2, *((5, 6) if small else (28, 28)), seed=4).requires_grad_()
    assert reward.differentiable
    assert torch.autograd.gradcheck(lambda x: evaluate_with_graph(reward, x), (x,), fast_mode=not small)


@pytest.mark.parametrize("name", SMOOTH)
def test_an_empty_picture_has_a_gradient_of_numbers(name: str) -> None:
    x = torch.full((1, 1, 28, 28), -1.0, requires_grad=True)
    (slope,) = torch.autograd.grad(evaluate_with_graph(SMOOTH[name], x).sum(), x)
    assert slope.isfinite().all()


@pytest.mark.parametrize("name", FLAT)
def test_flat_rewards_say_so_and_jump(name: str) -> None:
    reward = FLAT[name]
    x = pictures(4, seed=5)
    with pytest.raises(ArgumentError, match="not differentiable"):
        evaluate_with_graph(reward, x.clone().requires_grad_())
    values = evaluate(reward, x)
    assert torch.equal(values, values.round())
    assert torch.equal(evaluate(reward, x + 1e-9), values), "flat"
    assert not torch.equal(evaluate(reward, -x), values)


@pytest.mark.parametrize("name", RANGES)
def test_a_picture_with_nan_never_wins(name: str) -> None:
    x = pictures(3)
    x[1, 0, 3, 4] = math.nan
    with pytest.raises(NotFiniteError, match="NaN in row 1 of 3"):
        evaluate((SMOOTH | FLAT)[name], x)


@pytest.mark.parametrize("name", RANGES)
def test_what_is_no_picture_is_refused(name: str) -> None:
    with pytest.raises(ShapeError, match=r"x: got .*28, 28\]"):
        evaluate((SMOOTH | FLAT)[name], torch.zeros(2, 28, 28))
    with pytest.raises(DtypeError, match=r"x: got torch\.uint8"):
        evaluate((SMOOTH | FLAT)[name], torch.zeros(2, 1, 28, 28, dtype=torch.uint8))


# --- the formulas -------------------------------------------------------------------------------------------------


def test_ink_is_the_mean_of_what_a_viewer_sees() -> None:
    x = torch.tensor([-3.0, -1.0, 0.0, 0.5, 1.0, 7.0]).reshape(1, 1, 2, 3)
    assert evaluate(Ink(), x).item() == pytest.approx((0 + 0 + 0.5 + 0.75 + 1 + 1) / 6, abs=1e-7)
    assert evaluate(Ink(0.25), x).item() == pytest.approx(-((3.25 / 6 - 0.25) ** 2), abs=1e-7)


def test_symmetry_is_the_cosine_with_the_mirror_image() -> None:
    x = pictures(3)
    a = ((x + 1) / 2).numpy().reshape(3, 28, 28)
    by_hand = [(p * p[:, ::-1]).sum() / (p * p).sum() for p in a]
    np.testing.assert_allclose(evaluate(Symmetry(), x).numpy(), by_hand, rtol=1e-13)
    torch.testing.assert_close(evaluate(Symmetry("up-down"), x), evaluate(Symmetry(), x.mT), rtol=1e-13, atol=0)
    assert evaluate(Symmetry(), (x + x.flip(-1)) / 2).numpy() == pytest.approx(1, abs=1e-13)
    assert evaluate(Symmetry(), drawing("#..", "#..")).item() == 0


@pytest.mark.parametrize("shear", [-0.7, 0.0, 0.5])
def test_slant_is_the_angle_of_a_sheared_stroke(shear: float) -> None:
    """A Gaussian stroke ``exp(-(u - s v)^2 / 2a^2 - v^2 / 2b^2)`` leans by atan(s).

    Its sums are its integrals but for aliasing, exp(-2 pi^2 a^2) of them, and tails outside the picture: with b = 2.5
    and a = 1.5 the edge is at 13.5 / max(b, sqrt(a^2 + s^2 b^2)) = 5.4 deviations, where 2e-6 of the second moment is
    left out.
    """
    u = torch.arange(28).double() - 13.5
    v = (13.5 - torch.arange(28).double())[:, None]
    ink = torch.exp(-((u - shear * v) ** 2) / 4.5 - v**2 / 12.5)
    x = (2 * ink - 1)[None, None]
    assert evaluate(Slant(), x).item() == pytest.approx(math.atan(shear), abs=5e-6)
    assert evaluate(Slant(0.1), x).item() == pytest.approx(-((math.atan(shear) - 0.1) ** 2), abs=1e-5)
    moved = x.roll((2, -2), (2, 3))
    assert evaluate(Slant(), moved).item() == pytest.approx(math.atan(shear), abs=1e-3), "about its own middle"


def test_slant_of_nothing_to_lean_is_zero() -> None:
    assert evaluate(Slant(), torch.cat([drawing("...", "..."), drawing("###", "...")])).tolist() == [0.0, 0.0]


def test_similarity_is_highest_for_the_reference() -> None:
    x = torch.cat([REFERENCE[None], pictures(3)])
    a, b = ((x + 1) / 2).flatten(1), ((REFERENCE + 1) / 2).flatten()
    cosine, squared = evaluate(Similarity(REFERENCE), x), evaluate(Similarity(REFERENCE, "squared"), x)
    torch.testing.assert_close(cosine, (a @ b) / (a.norm(dim=1) * b.norm()), rtol=1e-13, atol=0)
    torch.testing.assert_close(squared, -((a - b) ** 2).mean(1), rtol=1e-13, atol=0)
    assert cosine[0].item() == pytest.approx(1, abs=1e-14)
    assert squared[0] == 0
    assert torch.equal(evaluate(Similarity(), x, {"reference": REFERENCE[None]}), cosine)
    each = evaluate(Similarity(measure="squared"), x, {"reference": x.roll(1, 0)})
    torch.testing.assert_close(each, -((x - x.roll(1, 0)) ** 2).flatten(1).mean(1) / 4, rtol=1e-13, atol=0)


def test_blocks_count_violated_cells() -> None:
    x = pictures(20, seed=3)
    wishes = np.array([[1, -1, 0, 1], [0, -1, -1, 1]])
    reward = InkBlocks(("#.?#", "?..#"), threshold=0.5)
    expected = []
    for picture in ((x + 1) / 2).numpy()[:, 0]:
        inked = picture.reshape(2, 14, 4, 7).mean((1, 3)) > 0.5
        expected.append(-float(((wishes == 1) & ~inked).sum() + ((wishes == -1) & inked).sum()))
    assert len(set(expected)) > 3
    assert evaluate(reward, x).tolist() == expected
    rows = torch.tensor(wishes).expand(20, 2, 4)
    assert evaluate(InkBlocks(threshold=0.5), x, {"blocks": rows}).tolist() == expected
    assert evaluate(InkBlocks(threshold=0.5), x, {"blocks": rows[:1]}).tolist() == expected


def test_blocks_like_a_picture_are_met_by_it() -> None:
    picture = pictures(1, seed=6)[0]
    reward = InkBlocks.like(picture, 7, 0.5)
    assert evaluate(reward, picture[None]).item() == 0
    assert evaluate(reward, -picture[None]).item() == -49, "inverted ink violates every cell"
    assert reward.pattern is not None
    assert (len(reward.pattern), {len(row) for row in reward.pattern}) == (7, {7})


def test_holes_are_counted_by_their_borders() -> None:
    ring = drawing(".......", ".#####.", ".#...#.", ".#...#.", ".#...#.", ".#####.", ".......")
    open_ring = ring.clone()
    open_ring[..., 3, 5] = -1
    diagonal = drawing(".......", "...#...", "..#.#..", ".#...#.", "..#.#..", "...#...", ".......")
    eight = drawing("#####..", "#...#..", "#...#..", "#####..", "#...#..", "#...#..", "#####..")
    x = torch.cat([ring, open_ring, diagonal, eight, -torch.ones_like(ring), torch.ones_like(ring)])
    holes = [1, 0, 1, 2, 0, 0]
    for count in range(3):
        assert evaluate(Holes(count), x).tolist() == [-float(abs(h - count)) for h in holes]
    assert evaluate(Holes(0, least=10), x).tolist() == [0.0] * 6, "nine pixels, five and six are too few"


# --- classifiers --------------------------------------------------------------------------------------------------


def test_class_probability_is_the_softmax_of_the_logits() -> None:
    x = pictures(4, reach=1.4).float()
    labels = torch.tensor([3, 0, 9, 3])
    for name in ("digits28-classifier-a", "digits28-classifier-b"):
        with torch.no_grad():
            logits = bundled.load(name)(x.clamp(-1, 1)).double().numpy()
        logp = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        expected = logp[np.arange(4), labels.numpy()]
        told = evaluate(ClassProbability(name), x, {"label": labels})
        np.testing.assert_allclose(told.numpy(), expected, rtol=1e-5, atol=1e-6)
        plain = evaluate(ClassProbability(name, log=False), x, {"label": labels})
        np.testing.assert_allclose(plain.numpy(), np.exp(expected), rtol=1e-5, atol=1e-6)
        fixed = evaluate(ClassProbability(name, label=3), x)
        torch.testing.assert_close(fixed[[0, 3]], told[[0, 3]], rtol=1e-12, atol=0)
        torch.testing.assert_close(evaluate(ClassProbability(name), x, {"label": [3]}), fixed, rtol=0, atol=0)
    one, other = (evaluate(ClassProbability(f"digits28-classifier-{k}", 3), x) for k in "ab")
    assert not torch.allclose(one, other), "the held-out classifier is another one"


def test_precision_follows_the_samples() -> None:
    x = pictures(2)
    exact = ClassProbability(label=1)(x)
    assert exact.dtype == torch.float64
    assert ClassProbability(label=1)(x.bfloat16()).dtype == torch.float32
    torch.testing.assert_close(ClassProbability(label=1)(x.float()).double(), exact, rtol=1e-4, atol=1e-5)


def test_any_module_that_gives_logits_will_do() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 5)).double()
    x = pictures(3, 3, 4)
    reward = ClassProbability(network, 2)
    torch.testing.assert_close(evaluate(reward, x.float()), network(x.float().double()).log_softmax(1)[:, 2].detach())
    assert repr(reward) == "ClassProbability(classifier=Sequential, label=2)"
    with pytest.raises(ArgumentError, match=r"label: got 5 in row 0, expected a class in \[0, 5\)"):
        ClassProbability(network, 5)(x)
    with pytest.raises(ShapeError, match=r"logits: got \[3, 1, 12\], expected \[3, K\]"):
        ClassProbability(nn.Flatten(2), 1)(x)


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda x: ClassProbability("digits28-base"), ArgumentError, "classifier: got 'digits28-base', expected a bun"),
        (lambda x: ClassProbability("digits"), UnknownNameError, "digits28-classifier-a"),
        (lambda x: ClassProbability(3), ArgumentError, "classifier: got int"),
        (lambda x: ClassProbability(label=-1), ArgumentError, "label: got -1"),
        (lambda x: evaluate(ClassProbability(), x), ArgumentError, r"context\['label'\]: got .*None"),
        (lambda x: evaluate(ClassProbability(), x, {"y": x[:, 0]}), ArgumentError, r"keys \['y'\], expected an entry"),
        (lambda x: ClassProbability()(x, {"label": torch.tensor([1, 2, 3])}), ShapeError, r"expected \[2 or 1\]"),
        (lambda x: ClassProbability()(x, {"label": torch.ones(2)}), DtypeError, "expected integers"),
        (lambda x: ClassProbability()(x, {"label": torch.tensor([9, 10])}), ArgumentError, "got 10 in row 1.*uncondit"),
        (lambda x: Ink(1.5), ArgumentError, "target: got 1.5"),
        (lambda x: Symmetry("diagonal"), ArgumentError, "axis: got 'diagonal', expected 'left-right' or 'up-down'"),
        (lambda x: Slant(2.0), ArgumentError, "target: got 2.0"),
        (lambda x: Similarity(measure="l1"), ArgumentError, "measure: got 'l1'"),
        (lambda x: Similarity(x), ShapeError, r"reference: got \[2, 1, 28, 28\], expected \[C, H, W\]"),
        (lambda x: Similarity(x[0, :, 1:])(x), ShapeError, r"reference: got \[1, 1, 27, 28\], expected \[2, 1, 28, 28"),
        (lambda x: evaluate(Similarity(), x, {}), ArgumentError, r"context\['reference'\]"),
        (lambda x: InkBlocks(("#", "..")), ArgumentError, "strings of equal length"),
        (lambda x: InkBlocks(("#x",)), ArgumentError, "'#', '.' and '\\?'"),
        (lambda x: InkBlocks(("??",)), ArgumentError, "at least one '#' or '.'"),
        (lambda x: InkBlocks(("#",), 1.0), ArgumentError, "threshold: got 1.0"),
        (lambda x: InkBlocks(("#." * 15,))(x), ShapeError, "at least 1 x 30 pixels"),
        (lambda x: InkBlocks.like(x), ShapeError, "picture: got"),
        (
            lambda x: evaluate(InkBlocks(), x, {"blocks": torch.ones(2, 3)}),
            ShapeError,
            r"expected \[2 or 1, any, any\]",
        ),
        (lambda x: Holes(-1), ArgumentError, "count: got -1"),
        (lambda x: Holes(1, 0.0), ArgumentError, "threshold: got 0.0"),
        (lambda x: Holes(1, least=0), ArgumentError, "least: got 0"),
    ],
)
def test_what_does_not_fit_is_refused(call: object, error: type[PushforwardError], said: str) -> None:
    with pytest.raises(error, match=said):
        call(torch.zeros(2, 1, 28, 28))  # type: ignore[operator]


def test_the_configuration_is_printed() -> None:
    assert repr(Ink(target=0.2)) == "Ink(target=0.2)"
    assert (
        repr(Similarity(REFERENCE.float(), "squared")) == "Similarity(reference=float32 [1, 28, 28], measure='squared')"
    )
    assert repr(InkBlocks(("#.", "?#"))) == "InkBlocks(pattern=('#.', '?#'))"
    assert repr(ClassProbability(label=3)) == "ClassProbability(label=3)"
    assert Ink(0.2) == Ink(0.2)
