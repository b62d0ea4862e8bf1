"""Resampling: the same ancestors everywhere, unbiased, and what each scheme promises of the numbers of children."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_variants import using, variants

from pushforward import errors
from pushforward.kernels import PURPOSE_RESAMPLING, RESAMPLING_SCHEMES, Draw, Noise, backend, philox, resample
from pushforward.kernels.dispatch import implementation, implementing, native_module
from pushforward.kernels.exponential import exponential, to_fixed
from pushforward.kernels.resample import _divide, weight_bits

VARIANTS = variants("resample")
OTHERS = [name for name in VARIANTS if name != "reference"]
KEY = {"seed": 2**64 - 5, "draw": Draw(PURPOSE_RESAMPLING, 3, 1, 2)}
OF_ANY_COUNT = [scheme for scheme in RESAMPLING_SCHEMES if scheme != "killing"]


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
    count = None if scheme == "killing" else count
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
    count = particles if scheme == "killing" else count
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
        for number in (1, 2, 3, 4) if variant.startswith("native") else (threads,):
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
    torch.testing.assert_close(
        other.log_mean_weight, one.log_mean_weight - 1e6, rtol=0, atol=2.0**-32
    )  # two of its ulps


WEIGHTS = torch.tensor([0.31, 0.22, 0.15, 0.11, 0.09, 0.06, 0.04, 0.02], dtype=torch.float64)
TRIALS = 20_000
KNOWN = {
    "multinomial": 0.344,
    "killing": 0.272,
    "residual": 0.234,
    "stratified": 0.165,
    "ssp": 0.074,
    "systematic": 0.069,
}


@pytest.fixture(scope="module")
def trials():
    """Children of eight particles in many populations, of every scheme."""
    values = WEIGHTS.log().expand(TRIALS, 8)
    return {scheme: children(resample(values, scheme, **KEY).ancestors, 8) for scheme in RESAMPLING_SCHEMES}


def estimates(counts):
    """The mean of a function over the ancestors of each population."""
    return counts @ torch.tensor([1, -2, 0.5, 3, -1, 2, 0, 4]).double() / 8


@pytest.mark.parametrize("scheme", RESAMPLING_SCHEMES)
def test_unbiased(trials, scheme):
    """Four standard errors of the mean, from the sample's own variance; 48 comparisons."""
    counts = trials[scheme]
    error = counts.std(0) / math.sqrt(TRIALS)
    assert ((counts.mean(0) - 8 * WEIGHTS).abs() < 4 * error).all()


@pytest.mark.parametrize("scheme", ["multinomial", "systematic", "ssp"])
def test_variances_of_counts(trials, scheme):
    """Binomial, or Bernoulli of the fraction: mu4 is that of the law, and the variance of a variance (mu4 - mu2^2) / n.

    The term of second order is mu2^2 2 / n^2: 1e-8 of the others.
    """
    trials_of, p = (8, WEIGHTS) if scheme == "multinomial" else (1, 8 * WEIGHTS % 1)
    mu2 = trials_of * p * (1 - p)
    mu4 = mu2 * (1 + 3 * (trials_of - 2) * p * (1 - p))
    error = ((mu4 - mu2**2) / TRIALS).sqrt()
    assert ((trials[scheme].var(0) - mu2).abs() < 4 * error).all()


@pytest.mark.parametrize("scheme", KNOWN)
def test_variances_of_estimates(trials, scheme):
    """Within a tenth; a sample variance of 20,000 has a standard error of 1 %."""
    assert estimates(trials[scheme]).var().item() == pytest.approx(KNOWN[scheme], rel=0.1)


def test_order_of_variances(trials):
    """From the worst to the best; the last two are too close for an order."""
    variances = [estimates(trials[scheme]).var().item() for scheme in KNOWN]
    assert variances[:4] == sorted(variances[:4], reverse=True)
    assert variances[3] > max(variances[4:])


def test_how_far_counts_are_from_expectation(trials):
    away = {scheme: counts - 8 * WEIGHTS for scheme, counts in trials.items()}
    assert (away["systematic"].abs() < 1).all()
    assert (away["ssp"].abs() < 1).all()
    assert (away["stratified"].abs() < 2).all()
    assert (trials["residual"] >= (8 * WEIGHTS).floor()).all()


@given(total=st.integers(1, 2**62), part=st.floats(0, 1), count=st.integers(1, 2**31), nudge=st.integers(-2, 2))
def test_division_of_products_that_need_93_bits(total, part, count, nudge):
    """Where the quotient is a whole number too, or next to it."""
    q = int(part * count)
    for w in (int(part * total), -(-q * total // count) + nudge, total):
        w = min(max(w, 0), total)
        quotient, rest = _divide(torch.tensor([w]), count, torch.tensor([total]))
        assert (int(quotient), int(rest)) == divmod(w * count, total)


def serial_sampling(weights, count, uniforms):
    """The algorithm of Gerber, Chopin and Whiteley in fractions: children, for a uniform number of each later particle.

    Where a step makes a whole child, the complement of the uniform number decides, which makes no difference in law.
    """
    shares = [Fraction(count * w, sum(weights)) for w in weights]
    counts = [share.numerator // share.denominator for share in shares]
    xi = [share - number for share, number in zip(shares, counts, strict=True)]
    i = 0
    for j in range(1, len(weights)):
        gain_i, gain_j = min(xi[j], 1 - xi[i]), min(xi[i], 1 - xi[j])
        if gain_i + gain_j > 0:
            p = gain_i / (gain_i + gain_j)  # of what i does not gain
            j_gains = 1 - uniforms[j] <= p if xi[i] + xi[j] >= 1 else uniforms[j] < p
            i, j, gain = (j, i, gain_j) if j_gains else (i, j, gain_i)
            xi[i], xi[j] = xi[i] + gain, xi[j] - gain
            if xi[i] == 1:
                xi[i], counts[i], i = Fraction(0), counts[i] + 1, j
    assert sum(counts) == count
    return counts


@pytest.mark.parametrize("count", [1, 5, 8, 13, 1000])
def test_ssp_is_the_algorithm_of_its_authors_step_by_step(count):
    """Equal, not close: the integer weights are given, and floor(u n) < m exactly where u n < m."""
    values = torch.cat([log_weights(60, 9, 11, spread=1.5, dead=0.2), torch.zeros(3, 9)])
    values[-2:] -= torch.tensor([1.0, 0, 0, 1, 0, 0, 2, 2, 0])
    ids = torch.arange(len(values)) + 5
    counts = children(resample(values, "ssp", **KEY, count=count, samples=ids).ancestors, 9).long().tolist()
    scale = 2.0 ** weight_bits(9, count)
    integers = to_fixed(exponential(values - values.amax(1, keepdim=True)), scale).tolist()
    words = philox.words(18, seed=KEY["seed"], draw=KEY["draw"], samples=ids).view(-1, 9, 2).tolist()
    for numbers, w, pairs in zip(counts, integers, words, strict=True):
        assert numbers == serial_sampling(w, count, [Fraction(high * 2**32 + low, 2**64) for high, low in pairs])


def test_ssp_keeps_cumulative_counts_within_one(trials):
    """As any particle's own, so do the first i particles' numbers of children together round their expectation."""
    away = trials["ssp"].cumsum(1) - 8 * WEIGHTS.cumsum(0)
    assert (away.abs() < 1).all()


def test_killing_keeps_the_best_and_replaces_the_dead():
    values = torch.full((400, 6), -2.0, dtype=torch.float64)
    values[:, 4], values[:, 1] = 0.0, -math.inf
    counts = children(resample(values, "killing", **KEY).ancestors, 6)
    assert (counts[:, 4] >= 1).all()
    assert (counts[:, 1] == 0).all()
    # One of the others has none if it is lost, and missed by the draws for it, for the dead one and for lost ones.
    w = math.exp(-2)
    missed = 1 - w / (1 + 4 * w)
    lost = (1 - w) * missed**2 * (w + (1 - w) * missed) ** 3
    share = (counts[:, [0, 2, 3, 5]] == 0).double().mean(1)
    assert abs(share.mean() - lost) < 4 * share.std() / 20


@pytest.mark.parametrize("particles", [1, 2, 7, 1000, 1024, 4097])  # with 1024 the sum of the weights is 2^62 itself
@pytest.mark.parametrize("scheme", ["systematic", "stratified", "residual", "ssp", "killing"])
def test_equal_weights_keep_everyone(scheme, particles):
    result = resample(torch.full((3, particles), -2.5), scheme, **KEY)
    assert torch.equal(result.ancestors, torch.arange(particles).expand(3, -1))
    assert torch.equal(result.ess, torch.full((3,), float(particles)).double())
    assert torch.equal(result.log_mean_weight, torch.full((3,), -2.5).double())


@pytest.mark.parametrize("scheme", OF_ANY_COUNT)
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
    ("bad", "said"),
    [
        ([0.0, math.nan], "NaN at particle 1"),
        ([math.inf, 0.0], r"\+inf at particle 0"),
        ([math.nan, math.inf], "NaN at particle 0"),
        ([-math.inf, -math.inf], "dead"),
    ],
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
    values, count = log_weights(6, 2100, 8, dtype=torch.float32), 2100 if scheme == "killing" else 1500
    values[1, 2099] = math.nan
    values[3] = -math.inf
    values[5, 7] = math.inf
    noise = Noise(KEY["seed"], KEY["draw"], torch.arange(6))
    with using(variant):
        ancestors, weights, maximum, total, squares = implementation("resample", "cpu")(values, scheme, count, noise)
    assert torch.isfinite(maximum).tolist() == [True, False] * 3
    valid = Noise(noise.seed, noise.draw, noise.samples[::2])
    with backend("reference"):
        expected = implementation("resample", "cpu")(values[::2], scheme, count, valid)
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
    with pytest.raises(errors.ArgumentError, match="count: got 4, expected 3, the number of particles"):
        resample(values, "killing", **KEY, count=4)
    with pytest.raises(errors.ShapeError, match="samples"):
        resample(values, **KEY, samples=torch.arange(3))
    with pytest.raises(errors.ArgumentError, match="seed"):
        resample(values, seed=-1, draw=KEY["draw"])


@pytest.mark.parametrize("variant", VARIANTS)
def test_operator(variant):
    operator = torch.ops.pushforward.resample.default
    with using(variant):
        for scheme in ("systematic", "residual", "ssp", "killing")[: 4 if variant == "reference" else 1]:
            values = torch.randn(2, 7, requires_grad=True)
            torch.library.opcheck(operator, (values, scheme, 7, [-3, 2, 0, 0, 0], torch.tensor([4, 9])))
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
    copies and for what these leave, as in killing. Written are weights, cumulative sums and ancestors, and there the
    numbers of children, which are read twice and make cumulative sums again. SSP reads cumulative sums twice, and
    writes the cumulative numbers of children.
    """
    rows, particles, count = 2, 1500, 1500 if scheme == "killing" else 700
    values = log_weights(rows, particles, 9, dtype=dtype)
    native_module.emulated_traffic()
    with using("cuda"):
        resample(values, scheme, **KEY, count=count)
    read, written = native_module.emulated_traffic()
    copied, ssp, size = scheme in ("residual", "killing"), scheme == "ssp", dtype.itemsize
    assert read == rows * particles * ((5 if copied else 3) * size + (16 if copied or ssp else 0))
    assert written == rows * (particles * (size + (24 if copied else 16 if ssp else 8)) + 8 * count)


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
