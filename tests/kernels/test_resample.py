"""Resampling: the same ancestors everywhere, unbiased, and what each scheme promises of the numbers of children."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_variants import using, variants

from pushforward import errors
from pushforward.kernels import PURPOSE_RESAMPLING, RESAMPLING_SCHEMES, Draw, Noise, backend, resample
from pushforward.kernels.dispatch import implementation, implementing, native_module
from pushforward.kernels.exponential import exponential
from pushforward.kernels.resample import weight_bits

VARIANTS = variants("resample")
OTHERS = [name for name in VARIANTS if name != "reference"]
KEY = {"seed": 2**64 - 5, "draw": Draw(PURPOSE_RESAMPLING, 3, 1, 2)}


def log_weights(rows, particles, seed, *, spread=1.0, dead=0.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    values = spread * torch.randn(rows, particles, generator=generator, dtype=torch.float64)
    values[torch.rand(rows, particles, generator=generator) < dead] = -math.inf
    values[:, 0] = torch.where(values.amax(1) == -math.inf, 0.0, values[:, 0])
    return values.to(dtype)


def children(ancestors, particles):
    return torch.zeros(len(ancestors), particles).scatter_add_(1, ancestors, torch.ones(ancestors.shape)).double()


def test_the_exponential_is_within_one_ulp():
    """At most 0.95 ulp at 3e4 points in 120-bit arithmetic; float64's own exp is within 1, so 2 here."""
    x = -torch.cat([torch.linspace(0, 708, 20_011), torch.linspace(0, 2, 20_011)]).double()
    exact = x.exp()
    ulp = torch.nextafter(exact, torch.tensor(2.0).double()) - exact
    assert ((exponential(x) - exact).abs() <= 2 * ulp).all()
    edges = torch.tensor([0.0, -708.0, -708.5, -1e300, -math.inf]).double()
    assert exponential(edges).tolist() == [1.0, pytest.approx(math.exp(-708), rel=1e-15), 0.0, 0.0, 0.0]


@pytest.mark.parametrize("variant", OTHERS)
@given(
    rows=st.integers(0, 4),
    particles=st.sampled_from([1, 2, 7, 64, 1023, 1024, 1025, 2047, 2048, 2049, 5000]),
    count=st.sampled_from([None, None, 1, 9, 1023, 1024, 3000]),
    spread=st.sampled_from([0.0, 1.0, 30.0, 1e4]),
    dead=st.sampled_from([0.0, 0.5, 1.0]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    scheme=st.sampled_from(RESAMPLING_SCHEMES),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=60)
def test_every_variant_gives_the_bits_of_the_reference(
    variant, rows, particles, count, spread, dead, dtype, scheme, seed
):
    values = log_weights(rows, particles, seed, spread=spread, dead=dead, dtype=dtype)
    key = KEY | {"seed": seed, "count": count, "samples": torch.arange(rows) * 3 + 2**33}
    with backend("reference"):
        expected = resample(values, scheme, **key)
    with using(variant):
        result = resample(values, scheme, **key)
        strided = resample(values.repeat_interleave(2, 1)[:, ::2], scheme, **key)
    for name, a, b, c in zip(result._fields, result, expected, strided, strict=True):
        assert torch.equal(a, b), name
        assert torch.equal(a, c), name
    assert ((result.ancestors >= 0) & (result.ancestors < particles)).all()
    assert (result.ancestors.diff(dim=1) >= 0).all()
    assert (values.gather(1, result.ancestors) > -math.inf).all()
    assert ((result.ess >= 1) & (result.ess <= particles)).all()


# Native blocks are of 2048 particles or spacings, of which there is one more than ancestors; CUDA's tiles are of 1024.
AROUND_BLOCKS = [(1, 1023), (1023, 1), (1024, 1024), (1025, 1023), (2047, 2048), (2048, 2047), (2049, 3000), (4096, 2)]


@pytest.mark.parametrize("variant", OTHERS)
@pytest.mark.parametrize("scheme", RESAMPLING_SCHEMES)
@pytest.mark.parametrize(("particles", "count"), AROUND_BLOCKS)
def test_around_the_edges_of_blocks(variant, scheme, particles, count):
    """Also with dead particles at both ends, and with all the weight on one, the last of them."""
    rows = log_weights(4, particles, 7, spread=3.0)
    rows[1, : particles // 3] = rows[1, 1 + particles // 2 :] = -math.inf
    rows[2, :-1] = -math.inf
    rows[3, 0] = 1e4
    with backend("reference"):
        expected = resample(rows, scheme, **KEY, count=count)
    with using(variant):
        result = resample(rows, scheme, **KEY, count=count)
    for name, a, b in zip(result._fields, result, expected, strict=True):
        assert torch.equal(a, b), name
    assert (result.ancestors[2] == particles - 1).all()


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weights_and_their_sums(variant, dtype):
    """Against float64: the mass is off by N 2^-(k+1) at most, which is at least 2^-k of it."""
    values = log_weights(3, 3001, 0, spread=3.0, dead=0.2, dtype=dtype)
    with using(variant):
        result = resample(values, **KEY)
    exact = values.double().softmax(1)
    bound = 3001 * 2.0 ** -weight_bits(3001, 3001)
    torch.testing.assert_close(result.weights.double(), exact, rtol=bound + torch.finfo(dtype).eps, atol=0)
    torch.testing.assert_close(result.ess, 1 / (exact * exact).sum(1), rtol=4 * bound + 1e-12, atol=0)
    mean = values.double().logsumexp(1) - math.log(3001)
    torch.testing.assert_close(result.log_mean_weight, mean, rtol=0, atol=bound + 1e-12)


@pytest.mark.parametrize("variant", OTHERS)
@pytest.mark.parametrize("scheme", RESAMPLING_SCHEMES)
def test_large(variant, scheme):
    """Work for several threads, and on a GPU more tiles than a block has threads."""
    values = log_weights(1, 300_001, 1, spread=2.0, dtype=torch.float32)
    values[0, -1] = values.max() + 2
    with backend("reference"):
        expected = resample(values, scheme, **KEY)
    threads = torch.get_num_threads()
    try:
        for number in (1, 2, 3) if variant.startswith("native") else (threads,):
            torch.set_num_threads(number)
            with using(variant):
                result = resample(values, scheme, **KEY)
            for a, b in zip(result, expected, strict=True):
                assert torch.equal(a, b)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("scheme", RESAMPLING_SCHEMES)
def test_populations_do_not_see_each_other(variant, scheme):
    values, ids = log_weights(5, 300, 2), torch.tensor([7, 2**40, 0, 3, 11])
    with using(variant):
        together = resample(values, scheme, **KEY, samples=ids)
        for row in range(5):
            alone = resample(values[row : row + 1], scheme, **KEY, samples=ids[row : row + 1])
            for a, b in zip(alone, together, strict=True):
                assert torch.equal(a[0], b[row])


@pytest.mark.parametrize("scheme", RESAMPLING_SCHEMES)
def test_a_constant_changes_only_the_mean(scheme):
    """Multiples of 2^-20 below 2^10: adding -10^6 is exact in float64."""
    values = (log_weights(2, 500, 3, spread=4.0) * 2**20).round() * 2.0**-20
    one, other = resample(values, scheme, **KEY), resample(values - 1e6, scheme, **KEY)
    assert torch.equal(one.ancestors, other.ancestors)
    assert torch.equal(one.weights, other.weights)
    assert torch.equal(one.ess, other.ess)
    torch.testing.assert_close(other.log_mean_weight, one.log_mean_weight - 1e6, rtol=0, atol=1e-9)  # an ulp of 1e6


WEIGHTS = torch.tensor([0.31, 0.22, 0.15, 0.11, 0.09, 0.06, 0.04, 0.02], dtype=torch.float64)
TRIALS = 20_000


@pytest.fixture(scope="module", params=RESAMPLING_SCHEMES)
def trials(request):
    """Children of eight particles in many populations."""
    result = resample(WEIGHTS.log().expand(TRIALS, 8), request.param, **KEY)
    return request.param, children(result.ancestors, 8)


def test_unbiased(trials):
    """Five standard errors of the mean, from the sample's own variance."""
    _, counts = trials
    error = counts.std(0) / math.sqrt(TRIALS)
    assert ((counts.mean(0) - 8 * WEIGHTS).abs() < 5 * error).all()


def test_variances(trials):
    """Of the counts: binomial, or Bernoulli of the fraction. The variance of a variance is below (m4 - m2^2) / n."""
    scheme, counts = trials
    expected = {"multinomial": 8 * WEIGHTS * (1 - WEIGHTS), "systematic": (8 * WEIGHTS % 1) * (1 - 8 * WEIGHTS % 1)}
    if scheme in expected:
        centred = counts - counts.mean(0)
        error = ((centred**4).mean(0) - (centred**2).mean(0) ** 2).sqrt() / math.sqrt(TRIALS)
        assert ((counts.var(0) - expected[scheme]).abs() < 5 * error + 1e-3).all()
    x = torch.tensor([1, -2, 0.5, 3, -1, 2, 0, 4]).double()
    variance = (counts @ x / 8).var().item()
    known = {"multinomial": 0.344, "residual": 0.234, "stratified": 0.165, "systematic": 0.069}
    assert variance == pytest.approx(known[scheme], rel=0.1)


def test_how_far_counts_are_from_expectation(trials):
    scheme, counts = trials
    away = counts - 8 * WEIGHTS
    if scheme == "systematic":
        assert (away.abs() < 1).all()
    if scheme == "stratified":
        assert (away.abs() < 2).all()
    if scheme == "residual":
        assert (counts >= (8 * WEIGHTS).floor()).all()


@pytest.mark.parametrize("particles", [1, 2, 7, 1000, 4097])
@pytest.mark.parametrize("scheme", ["systematic", "stratified", "residual"])
def test_equal_weights_keep_everyone(scheme, particles):
    result = resample(torch.full((3, particles), -2.5), scheme, **KEY)
    assert torch.equal(result.ancestors, torch.arange(particles).expand(3, -1))
    assert torch.equal(result.ess, torch.full((3,), float(particles)).double())
    assert torch.equal(result.log_mean_weight, torch.full((3,), -2.5).double())


@pytest.mark.parametrize("scheme", RESAMPLING_SCHEMES)
def test_more_ancestors_than_particles(scheme):
    values = log_weights(200, 5, 4)
    counts = children(resample(values, scheme, **KEY, count=1000).ancestors, 5)
    expected = 1000 * values.softmax(1)
    assert (counts.sum(1) == 1000).all()
    # Binomial, six sigma (1000 comparisons), is the widest of the schemes.
    assert ((counts - expected).abs() <= 6 * expected.sqrt() + 2).all()


@pytest.mark.parametrize("scheme", RESAMPLING_SCHEMES)
def test_neighbouring_keys_differ(scheme):
    values = log_weights(1, 100, 5, spread=2.0)
    first = resample(values, scheme, **KEY).ancestors
    others = [{"seed": 1}, {"draw": Draw(PURPOSE_RESAMPLING, 4, 1, 2)}, {"samples": torch.tensor([1])}]
    assert all(not torch.equal(resample(values, scheme, **(KEY | other)).ancestors, first) for other in others)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(
    ("bad", "said"), [([0.0, math.nan], "NaN"), ([math.inf, 0.0], "inf"), ([-math.inf, -math.inf], "dead")]
)
def test_invalid_rows_are_named(variant, bad, said):
    values = torch.tensor([[0.0, 1.0], [2.0, 3.0], bad])
    with using(variant):
        for scheme in RESAMPLING_SCHEMES:
            with pytest.raises(errors.NotFiniteError, match=f"{said}.* in row 2 of 3"):
                resample(values, scheme, **KEY)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("scheme", RESAMPLING_SCHEMES)
def test_invalid_rows_do_not_disturb_others(variant, scheme):
    values = log_weights(6, 2100, 8, dtype=torch.float32)
    values[1, 2099] = math.nan
    values[3] = -math.inf
    values[5, 7] = math.inf
    noise = Noise(KEY["seed"], KEY["draw"], torch.arange(6))
    with using(variant):
        ancestors, weights, maximum, total, squares = implementation("resample", "cpu")(values, scheme, 1500, noise)
    assert torch.isfinite(maximum).tolist() == [True, False] * 3
    valid = Noise(noise.seed, noise.draw, noise.samples[::2])
    with backend("reference"):
        expected = implementation("resample", "cpu")(values[::2], scheme, 1500, valid)
    for a, b in zip((ancestors, weights, maximum, total, squares), expected, strict=True):
        assert torch.equal(a[::2], b)


def test_wrong_arguments():
    values = torch.zeros(2, 3)
    with pytest.raises(errors.UnknownNameError, match="scheme"):
        resample(values, "stratifed", **KEY)
    with pytest.raises(errors.DtypeError, match="log_weights"):
        resample(values.half(), **KEY)
    with pytest.raises(errors.ShapeError, match=r"log_weights\[None\]"):
        resample(values[0], **KEY)
    with pytest.raises(errors.ShapeError, match="N >= 1"):
        resample(values[:, :0], **KEY)
    with pytest.raises(errors.ArgumentError, match="count"):
        resample(values, **KEY, count=0)
    with pytest.raises(errors.ShapeError, match="samples"):
        resample(values, **KEY, samples=torch.arange(3))
    with pytest.raises(errors.ArgumentError, match="seed"):
        resample(values, seed=-1, draw=KEY["draw"])


@pytest.mark.parametrize("variant", VARIANTS)
def test_operator(variant):
    operator = torch.ops.pushforward.resample.default
    with using(variant):
        for scheme in ("systematic", "residual")[: 1 + (variant == "reference")]:
            values = torch.randn(2, 7, requires_grad=True)
            torch.library.opcheck(operator, (values, scheme, 5, [-3, 2, 0, 0, 0], torch.tensor([4, 9])))
        values = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda x: resample(x, **KEY)[1:], values)
        assert torch.autograd.gradgradcheck(lambda x: resample(x, **KEY)[1:], values)


def test_compiles_without_a_graph_break():
    def function(x):
        result = resample(x, "residual", **KEY)
        return result.ancestors + 1, result.weights * 2, result.ess

    values = torch.randn(2, 9)
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    for a, b in zip(compiled(values), function(values), strict=True):
        assert torch.equal(a, b)
    with torch._subclasses.FakeTensorMode():
        assert resample(torch.empty(4, 3), **KEY, count=6).ancestors.shape == (4, 6)


@pytest.mark.skipif("cuda" not in VARIANTS, reason="CUDA's kernels are not emulated")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scheme", RESAMPLING_SCHEMES)
def test_bytes_that_cuda_moves(scheme, dtype):
    """But for numbers of a tile or a row, and the searches.

    The log-weights are read for the maximum, the sums and the cumulative sums, in the residual scheme also for the
    copies and for what these leave. Written are weights, cumulative sums and ancestors, and there the numbers of
    children, which are read twice and make cumulative sums again.
    """
    rows, particles, count = 2, 1500, 700
    values = log_weights(rows, particles, 9, dtype=dtype)
    native_module.emulated_traffic()
    with using("cuda"):
        resample(values, scheme, **KEY, count=count)
    read, written = native_module.emulated_traffic()
    residual, size = scheme == "residual", dtype.itemsize
    assert read == rows * particles * (5 * size + 16 if residual else 3 * size)
    assert written == rows * (particles * (size + (24 if residual else 8)) + 8 * count)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("scheme", RESAMPLING_SCHEMES)
@pytest.mark.parametrize("particles", [1, 1000, 1_000_003])
def test_gpu_backends_give_the_bits_of_the_reference(scheme, particles):
    values = log_weights(2, particles, 6, dtype=torch.float32)
    values[1, particles // 2 + 1 :] = -math.inf
    with backend("reference"):
        expected = resample(values, scheme, **KEY)
    for name in implementing("resample"):
        if name == "native":
            continue
        with backend(name):
            result = resample(values.cuda(), scheme, **KEY)
        for a, b in zip(result[:3], expected[:3], strict=True):
            assert torch.equal(a.cpu(), b), name
        # A logarithm of the device, within 2 ulp, of a number whose own is below 14, and a sum.
        torch.testing.assert_close(result.log_mean_weight.cpu(), expected.log_mean_weight, rtol=0, atol=1e-14)


@pytest.mark.gpu
@pytest.mark.skipif("cuda" not in implementing("resample") or "cuda" in VARIANTS, reason="needs a CUDA device")
@pytest.mark.filterwarnings("ignore:Synchronization debug mode")  # it may miss some
@pytest.mark.parametrize("scheme", RESAMPLING_SCHEMES)
def test_cuda_reads_nothing_back(scheme):
    values = log_weights(3, 5000, 10, dtype=torch.float32).cuda()
    noise = Noise(KEY["seed"], KEY["draw"], torch.arange(3, device="cuda"))
    before = torch.cuda.get_sync_debug_mode()
    with backend("cuda"):
        run = implementation("resample", "cuda")
    try:
        torch.cuda.set_sync_debug_mode("error")
        run(values, scheme, 5000, noise)
    finally:
        torch.cuda.set_sync_debug_mode(before)
