"""Philox and its normals: known answers, the same bits everywhere, and the distribution."""

import math

import pytest
import torch
from scipy.special import ndtr

from pushforward.kernels import Draw, Noise, backend, backends, combine, normal, philox

KNOWN = [  # Random123's kat_vectors for philox4x32-10: counter, key, words
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]
NATIVE = backends()["native"] == "available"
needs_native = pytest.mark.skipif(not NATIVE, reason="the native module is not built")
SETS = __import__("pushforward.kernels._native", fromlist=["x"]).instruction_sets() if NATIVE else []


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_known_answers(counter, key, words):
    assert tuple(int(word) for word in philox.philox4x32(counter, key)) == words
    batched = philox.philox4x32([torch.full((3,), c) for c in counter], key)
    assert all((word == expected).all() for word, expected in zip(batched, words, strict=True))


@needs_native
@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_known_answers_of_the_compiled_functor(counter, key, words):
    from pushforward.kernels import _native

    assert tuple(_native.philox(counter, key)) == words


def test_the_two_level_key():
    """Stream from (sample, purpose, stage) under the seed; words from (block, step, attempt) under the stream."""
    seed, draw, sample = 2**63 + 17, Draw(purpose=1, step=2, stage=3, attempt=4), 2**40 + 5
    stream = philox.philox4x32((sample & 0xFFFFFFFF, sample >> 32, 1, 3), (seed & 0xFFFFFFFF, seed >> 32))[:2]
    expected = torch.stack(philox.philox4x32((6, 2, 4, 0), stream))
    words = philox.words(28, seed=seed, draw=draw, samples=torch.tensor([sample]))
    assert torch.equal(words[0, 24:28], expected)


@pytest.fixture
def instruction_set(request):
    from pushforward.kernels import _native

    before = _native.instruction_set()
    _native.use_instruction_set(request.param)
    yield request.param
    _native.use_instruction_set(before)


@pytest.mark.parametrize("instruction_set", SETS, indirect=True)
@pytest.mark.parametrize(
    "shape", [(1, 1), (3, 2), (5, 3, 7), (40, 2), (1000, 1), (2, 64), (3, 4, 1000), (1, 20_003), (0, 4)]
)
def test_every_instruction_set_gives_the_bits_of_the_reference(instruction_set, shape):
    samples = torch.arange(shape[0]) * 3 + 2**33
    for draw in (Draw(0, 0), Draw(7, 2**32 - 1, 5, 2**31)):
        with backend("reference"):
            expected = normal(shape, seed=2**64 - 3, draw=draw, samples=samples)
        assert torch.equal(normal(shape, seed=2**64 - 3, draw=draw, samples=samples), expected)


@pytest.mark.parametrize("instruction_set", SETS, indirect=True)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("count", [1, 3, 8, 11])
def test_every_instruction_set_combines_to_the_bits_of_the_reference(instruction_set, dtype, count):
    generator = torch.Generator().manual_seed(count)
    inputs = [torch.randn(3, 331, generator=generator).to(dtype) for _ in range(count)]
    for outputs in (1, 2, 3):
        weights = torch.randn(outputs, count, generator=generator).tolist()
        arguments = inputs, weights
        keys = {"noise": Noise(1, Draw(1, 2)), "scale": [0.5] * outputs}
        with backend("reference"):
            expected = combine(*arguments, **keys)
        for a, b in zip(combine(*arguments, **keys), expected, strict=True):
            assert torch.equal(a, b)


def test_normals_are_box_muller():
    """Within 5 ulp of the exact value of the words (measured 4.0), the extremes of the radius included."""
    generator = torch.Generator().manual_seed(0)
    radius = torch.cat(
        [torch.arange(2**15), torch.arange(2**32 - 2**15, 2**32), torch.randint(2**32, (2**18,), generator=generator)]
    )
    angle = torch.randint(2**32, radius.shape, generator=generator)
    complement = ((2**32 - 1 - radius).double() + 0.5) * 2.0**-32
    r = (-2 * torch.where(radius < 2**31, ((radius.double() + 0.5) * 2.0**-32).log(), torch.log1p(-complement))).sqrt()
    turn = 2 * math.pi * ((angle >> 8).double() + 0.5) * 2.0**-24
    for value, exact in zip(philox.box_muller(radius, angle), (r * turn.cos(), r * turn.sin()), strict=True):
        ulp = torch.nextafter(exact.abs().float(), torch.tensor(math.inf)).double() - exact.abs().float().double()
        assert ((value.double() - exact).abs() <= 5 * ulp).all()
    assert philox.box_muller(torch.tensor([0]), torch.tensor([0]))[0].item() == pytest.approx(
        math.sqrt(66 * math.log(2))
    )


COUNT = 10**7


@pytest.fixture(scope="module")
def many():
    """Ten million draws: a hundred samples of a hundred thousand elements."""
    return normal((100, COUNT // 100), seed=2024, draw=Draw(1, 5))


def test_moments(many):
    """Each within five standard errors: the variance of z^k is E z^2k - (E z^k)^2."""
    z = many.double()
    for power, mean, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs(z.pow(power).mean().item() - mean) < 5 * math.sqrt(variance / COUNT), power


def test_kolmogorov_smirnov(many):
    """P(sqrt(n) D > x) = 2 exp(-2 x^2): five sigma (5.7e-7) is x = 2.74."""
    cdf = torch.from_numpy(ndtr(many.flatten().sort().values.double().numpy()))
    steps = torch.arange(COUNT + 1, dtype=torch.float64) / COUNT
    distance = max((steps[1:] - cdf).max().item(), (cdf - steps[:-1]).max().item())
    assert math.sqrt(COUNT) * distance < 2.74


def test_elements_of_a_sample_are_uncorrelated(many):
    for lag in (1, 2, 3, 4, 5, 8, 64):
        check_independent(many[:, lag:], many[:, :-lag])


@pytest.mark.parametrize(
    "other",
    [
        {"draw": Draw(1, 6)},
        {"draw": Draw(1, 5, stage=1)},
        {"draw": Draw(1, 5, attempt=1)},
        {"draw": Draw(0, 5)},
        {"seed": 2025},
        {"seed": 2024 + 2**32},
        {"samples": torch.arange(100) + 1},
        {"samples": torch.arange(100) + 2**32},
        {"draw": Draw(5, 1)},
    ],
    ids=["step", "stage", "attempt", "purpose", "seed", "seed_high", "sample", "sample_high", "purpose_step_swapped"],
)
def test_neighbouring_keys_are_uncorrelated(many, other):
    key = {"seed": 2024, "draw": Draw(1, 5), **other}
    check_independent(many, normal(many.shape, **key))


def check_independent(a, b):
    """E ab = 0 within 5 / sqrt(n), and the same for the squares, whose product (a^2 - 1)(b^2 - 1) has variance 4."""
    n, a, b = a.numel(), a.double(), b.double()
    assert abs((a * b).mean().item()) < 5 / math.sqrt(n)
    assert abs(((a * a - 1) * (b * b - 1)).mean().item()) < 5 * 2 / math.sqrt(n)
