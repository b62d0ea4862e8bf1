"""`resample`: ancestors, normalised weights and effective sample size of weighted particles, reproducible exactly.

The weights become integers, w_i = round(exp(l_i - max l) 2^k) with k = min(52, 62 - ceil(log2(max(N, M)))). Sums of
integers have no order, so every backend, thread count and block size finds the same cumulative weights and the same
ancestors, and E[children of i] = M w_i / sum(w) holds exactly but for the resolution of the uniform numbers (2^-64).

The price is rounding: with T = sum_i exp(l_i - max l), which is at least 1, a normalised weight moves by at most
2^-k (1 + N w_i) / (2 T), and all of them together by at most N 2^-k / T: 2^-42 / T for a thousand particles, and
2^-22 / T for a million, where T is itself of the order of N unless nearly all particles are dead. In other words a
particle whose weight is below 2^-(k+1) of the largest is never drawn.

Thresholds are integers too. Ancestor j is the first i with w_0 + ... + w_i > threshold_j, where

- systematic: threshold_j = floor((j sum(w) + v) / M), one v uniform on {0, ..., sum(w) - 1};
- stratified: the same with v_j for each j;
- multinomial: floor(s_j sum(w) / s_M), s_j = e_0 + ... + e_j, with M + 1 exponential spacings e_j in fixed point;
- residual: floor(M w_i / sum(w)) copies of each, and multinomial draws on what these divisions leave;
- killing (M = N): a copy of each with probability w_i / max(w), and multinomial draws for those that are lost.

No threshold reaches sum(w), so no ancestor is N and no dead particle is drawn.

SSP walks along the particles with one of them that is still waiting for its fraction of a child. A step adds the next
particle's fraction to that of the waiting one; if this makes a whole child, one of the two gets it, and one of them
waits on with what is left. In integers the fraction that waits after step i is r_i in

    M (w_0 + ... + w_i) = q_i sum(w) + r_i,  0 <= r_i < sum(w)

whoever waits. So a child is made where r_i < r_{i-1}, and for both fractions to keep their expectations the next
particle must be the one that waits on with probability |r_i - r_{i-1}| / (r_i, or sum(w) - r_i where a child is made):
an integer below an integer again, and independent of the other steps. Particles 0, ..., i together have q_i children,
and one more if the waiting one is going to get its child: that is, if the first step after i in which the waiting
one changes makes a child. So all steps are taken at once, for all that the algorithm is a sequential one.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import ArgumentError, DtypeError, NotFiniteError, ShapeError, UnknownNameError
from . import catalogue, operators, philox
from .dispatch import device_type, implementation, implements, native_module
from .exponential import exponential, to_fixed
from .noise import Draw, Noise

RESAMPLING_SCHEMES = ("systematic", "stratified", "residual", "multinomial", "ssp", "killing")
MAX_PARTICLES = 2**31


class Resampled(NamedTuple):
    """What `resample` returns.

    Args:
        ancestors: int64 [S, M], ascending along M.
        weights: Normalised weights of the particles given, [S, N], in their dtype.
        ess: Effective sample size 1 / sum(weights^2) in [1, N], float64 [S].
        log_mean_weight: Logarithm of the mean of exp(log_weights), float64 [S].
    """

    ancestors: Tensor
    weights: Tensor
    ess: Tensor
    log_mean_weight: Tensor


def resample(
    log_weights: Tensor,
    scheme: str = "systematic",
    *,
    seed: int,
    draw: Draw,
    samples: Tensor | None = None,
    count: int | None = None,
) -> Resampled:
    r"""Ancestors of S independent populations, such that particle i has M w_i children on average.

    .. math:: a_j = \min \{ i : w_0 + \dots + w_i > u_j \}, \quad w = \mathrm{softmax}\,\ell

    The schemes differ in the u_j. With "systematic" (of lowest variance in practice, the default) every particle gets
    floor(M w_i) or ceil(M w_i) children; "stratified" stays within 2 of M w_i; "residual" gives at least floor(M w_i);
    "multinomial" draws independently, which conditional SMC needs. Two schemes have no u_j. "ssp" (Srinivasan sampling
    process) gives floor(M w_i) or ceil(M w_i) children too, and unlike "systematic" is proven to be consistent for any
    order of the particles: prefer it where they are sorted by something. "killing", for M = N, keeps a particle with
    probability w_i / max w and replaces those that are lost by independent draws: where weights are nearly equal, few
    particles move.

    The ancestors are the same on every backend and for any number of threads, and those of a population do not depend
    on the others.

    Args:
        log_weights: Unnormalised, [S, N], float32 or float64; -inf marks a dead particle. At most 2**31 particles.
        scheme: One of `RESAMPLING_SCHEMES`.
        seed: Integer in [0, 2**64).
        draw: Which draw of each population; its purpose normally is ``PURPOSE_RESAMPLING``.
        samples: Ids of the populations, int64 [S]; default 0, ..., S - 1.
        count: Number M of ancestors; default N, and nothing else with "killing".

    Returns:
        `Resampled`. ``weights``, ``ess`` and ``log_mean_weight`` are differentiable in ``log_weights``.

    Raises:
        NotFiniteError: A weight is NaN or +inf, or every particle of a row is dead; names row and particle. On a GPU
            this costs one host read.
        UnknownNameError, ShapeError, DtypeError, ArgumentError: Arguments that do not fit.

    Source:
        Kitagawa 1996 (systematic, stratified); Liu and Chen 1998 (residual); Devroye 1986, chapter V.3 (spacings);
        Gerber, Chopin and Whiteley 2019, Negative association, ordering and convergence of resampling methods (ssp);
        Del Moral 2004, Feynman-Kac formulae (killing).

    Example:
        >>> from pushforward.kernels import PURPOSE_RESAMPLING
        >>> log_weights = torch.tensor([[0.0, -torch.inf, 0.0, 0.0]])
        >>> result = resample(log_weights, seed=0, draw=Draw(PURPOSE_RESAMPLING, step=3))
        >>> result.ancestors
        tensor([[0, 2, 3, 3]])
        >>> result.ess
        tensor([3.], dtype=torch.float64)
    """
    count = _check(log_weights, scheme, count)
    noise = Noise(seed, draw, samples)
    if samples is not None and samples.shape[0] != log_weights.shape[0]:
        raise ShapeError("samples", got=list(samples.shape), expected=f"[{log_weights.shape[0]}], one id for each row")
    if operators.needs_operator(log_weights):
        key = [noise.seed - (noise.seed >> 63 << 64), *noise.draw]
        *rest, ancestors = _operator(log_weights, scheme, count, key, samples)
        return Resampled(ancestors, *rest)
    return _run(log_weights, scheme, count, noise)


def _check(log_weights: Tensor, scheme: str, count: int | None) -> int:
    if scheme not in RESAMPLING_SCHEMES:
        raise UnknownNameError("scheme", got=repr(scheme), expected=" | ".join(RESAMPLING_SCHEMES))
    if log_weights.dtype not in (torch.float32, torch.float64):
        raise DtypeError("log_weights", got=log_weights.dtype, expected="float32 or float64")
    if log_weights.ndim != 2 or log_weights.shape[1] == 0:
        hint = "One population is log_weights[None]" if log_weights.ndim == 1 else None
        raise ShapeError("log_weights", got=list(log_weights.shape), expected="[S, N] with N >= 1", hint=hint)
    particles = log_weights.shape[1]
    count = particles if count is None else count
    if count < 1:
        raise ArgumentError("count", got=count, expected="at least one ancestor")
    if scheme == "killing" and count != particles:
        expected = f"{particles}, the number of particles: each keeps its place or is replaced"
        raise ArgumentError("count", got=count, expected=expected, hint="The other schemes take any number")
    if max(count, particles) > MAX_PARTICLES:
        raise ArgumentError("count", got=count, expected="at most 2**31 particles and ancestors")
    return count


def weight_bits(particles: int, count: int) -> int:
    """Bits after the point of the integer weights."""
    return min(52, 62 - (max(particles, count) - 1).bit_length())


def _run(log_weights: Tensor, scheme: str, count: int, noise: Noise) -> Resampled:
    """Ask a backend for the integers, and finish with what is one number a population."""
    run = implementation("resample", device_type(log_weights))
    ancestors, weights, maximum, total, squares = run(log_weights, scheme, count, noise)
    finite = torch.isfinite(maximum)
    if not bool(finite.all()):
        row = int((~finite).nonzero()[0])
        got = f"{_trouble(log_weights[row])} in row {row} of {len(maximum)}"
        raise NotFiniteError("log_weights", got=got, expected="finite weights or -inf")
    particles = log_weights.shape[1]
    unit = 2.0 ** -weight_bits(particles, count)
    mass = total.double() * unit
    ess = (mass * mass / (squares.double() * unit)).clamp(1, particles)
    return Resampled(ancestors, weights, ess, maximum + (mass / particles).log())


def _trouble(row: Tensor) -> str:
    bad = (~(row < math.inf)).nonzero()
    if len(bad) == 0:
        return "only dead particles (-inf)"
    return f"{'NaN' if row[bad[0, 0]].isnan() else '+inf'} at particle {int(bad[0, 0])}"


@implements("resample", "reference")
def reference(
    log_weights: Tensor, scheme: str, count: int, noise: Noise
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Run the definition.

    Every backend returns the ancestors, the weights, and of each population: the largest log-weight as float64 (not
    finite if the row is invalid; the rest of it is unspecified then), and the sums of w_i and of
    round(exp(l_i - max)^2 2^k) as int64.
    """
    rows, particles = log_weights.shape
    bits = weight_bits(particles, count)
    scale = 2.0**bits
    wide = log_weights.double()
    maximum = wide.amax(1)
    wide = torch.where(torch.isfinite(maximum)[:, None], wide - maximum[:, None], 0.0)
    mass = exponential(wide)
    w = to_fixed(mass, scale)
    total, squares = w.sum(1), to_fixed(mass * mass, scale).sum(1)
    weights = (mass * (scale / total.double())[:, None]).to(log_weights.dtype)

    samples = torch.arange(rows) if noise.samples is None else noise.samples
    samples = samples.to(log_weights.device)
    if scheme in ("systematic", "stratified"):
        draws = 1 if scheme == "systematic" else count
        words = philox.words(2 * draws, seed=noise.seed, draw=noise.draw, samples=samples).reshape(rows, draws, 2)
        thresholds = _strata(total[:, None], count, uniform_below(words[..., 0], words[..., 1], total[:, None]))
        ancestors = torch.searchsorted(w.cumsum(1), thresholds, right=True)
        return ancestors, weights, maximum, total, squares

    if scheme == "ssp":
        words = philox.words(2 * particles, seed=noise.seed, draw=noise.draw, samples=samples)
        children = _serial_children(w.cumsum(1), total[:, None], count, words.reshape(rows, particles, 2))
        return _expand(children, count), weights, maximum, total, squares

    words = philox.words(count + 1, seed=noise.seed, draw=noise.draw, samples=samples)
    sums = to_fixed(-philox.log_uniform(words).double(), 2.0 ** min(46, 57 - count.bit_length())).cumsum(1)
    if scheme == "multinomial":
        thresholds = _order_thresholds(sums, sums[:, -1:], total[:, None])[:, :-1]
        ancestors = torch.searchsorted(w.cumsum(1), thresholds.contiguous(), right=True)
        return ancestors, weights, maximum, total, squares

    if scheme == "killing":  # max(w) is 2^bits, the integer that exp(0) becomes
        first = survival_word(particles)
        words = philox.words(first + 2 * particles, seed=noise.seed, draw=noise.draw, samples=samples)
        high, low = words[:, first:].reshape(rows, particles, 2).unbind(-1)
        copies, left = (uniform_below(high, low, 2**bits) < w).long(), w
        draws = count - copies.sum(1, keepdim=True)
    else:
        copies, left = _divide(w, count, total[:, None])
        draws = count - copies.sum(1, keepdim=True)
        left = left >> (_bit_length(draws) + _bit_length(total[:, None]) - 62).clamp(min=0)
    thresholds = _order_thresholds(sums, sums.gather(1, draws), left.sum(1, keepdim=True))[:, :-1]
    drawn = torch.searchsorted(left.cumsum(1), thresholds.contiguous(), right=True)
    wanted = torch.arange(count, device=drawn.device) < draws
    children = copies.scatter_add(1, torch.where(wanted, drawn, 0), wanted.long())
    return _expand(children.cumsum(1), count), weights, maximum, total, squares


@implements("resample", "native")
def native(log_weights: Tensor, scheme: str, count: int, noise: Noise) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Call the compiled function; log-weights that are not contiguous are copied."""
    log_weights = log_weights.contiguous()
    rows, particles = log_weights.shape
    samples = None if noise.samples is None else noise.samples.cpu().contiguous()
    key = (noise.seed, *noise.draw, 0 if samples is None else samples.data_ptr())
    ancestors, weights = torch.empty((rows, count), dtype=torch.int64), torch.empty_like(log_weights)
    maximum = torch.empty(rows, dtype=torch.float64)
    total, squares = torch.ones((2, rows), dtype=torch.int64)
    native_module.resample(
        log_weights.data_ptr(),
        weights.data_ptr(),
        log_weights.dtype == torch.float64,
        RESAMPLING_SCHEMES.index(scheme),
        rows,
        particles,
        count,
        key,
        ancestors.data_ptr(),
        maximum.data_ptr(),
        total.data_ptr(),
        squares.data_ptr(),
    )
    return ancestors, weights, maximum, total, squares


def uniform_below(high: Tensor, low: Tensor, total: Tensor | int) -> Tensor:
    """Integer part of total times the number 0.(high)(low) in base 2^32, by long multiplication; total <= 2^62.

    Example:
        >>> high, low = torch.tensor([2**31]), torch.tensor([0])  # one half
        >>> uniform_below(high, low, torch.tensor([2**61 + 3]))
        tensor([1152921504606846977])
    """
    mask = philox.MASK
    total_high, total_low = total >> 32, total & mask
    middle = high * total_low + (low * total_low >> 32 & mask)  # may wrap, which keeps the 64 bits that we need
    carry = low * total_high + (middle & mask)
    return high * total_high + (middle >> 32 & mask) + (carry >> 32)


def _strata(total: Tensor, count: int, offsets: Tensor) -> Tensor:
    """floor((j total + offset) / M) for j = 0, ..., M - 1, without a product that overflows."""
    quotient, remainder = total // count, total % count
    j = torch.arange(count, device=total.device)
    return j * quotient + (j * remainder + offsets) // count


def survival_word(particles: int) -> int:
    """First of the words that tell who survives in "killing": a block of four begins after the N + 1 spacings."""
    return 4 * (particles // 4 + 1)


def _divide(w: Tensor, count: int, total: Tensor) -> tuple[Tensor, Tensor]:
    """floor(M w / total) and M w mod total for w <= total, although M w may need 93 bits.

    The estimate of the quotient is off by one at most (M <= 2^31, and its relative error is below 2^-50), so the
    remainder lies between -total and 2 total, and 64 bits that wrap are enough to know it.
    """
    quotient = (w.double() * (count / total.double())).long()
    rest = w * count - quotient * total
    off = (rest >= total).long() - (rest < 0).long()
    return quotient + off, rest - off * total


def _serial_children(cumulative: Tensor, total: Tensor, count: int, words: Tensor) -> Tensor:
    """Cumulative numbers of children in SSP resampling; words [S, N, 2], the pair of each step."""
    whole, waiting = _divide(cumulative, count, total)
    before = torch.nn.functional.pad(waiting[:, :-1], (1, 0))
    child = waiting < before
    among = torch.where(child, total - waiting, waiting)
    changes = uniform_below(words[..., 0], words[..., 1], among) < (waiting - before).abs()
    steps = torch.arange(cumulative.shape[1], device=cumulative.device)
    change = torch.where(changes, steps, len(steps)).flip(1).cummin(1).values.flip(1)  # the first one from here on
    gains = torch.nn.functional.pad(child.long(), (0, 1)).gather(1, change)
    return whole + torch.nn.functional.pad(gains[:, 1:], (0, 1))


def _expand(children: Tensor, count: int) -> Tensor:
    """Ancestors of cumulative numbers of children."""
    places = torch.arange(count, device=children.device).expand(len(children), -1)
    return torch.searchsorted(children, places.contiguous(), right=True)


def _order_thresholds(sums: Tensor, end: Tensor, total: Tensor) -> Tensor:
    ratio = total.double() / end.double()
    return torch.minimum((sums.double() * ratio).long(), total - 1)


def _bit_length(x: Tensor) -> Tensor:
    return (x[..., None] >> torch.arange(63, device=x.device) > 0).sum(-1)


def _from_operator(log_weights, scheme, count, key, samples):
    ancestors, *rest = _run(log_weights, scheme, count, Noise(key[0] % 2**64, Draw(*key[1:]), samples))
    return *rest, ancestors


def _fake(log_weights, scheme, count, key, samples):
    rows = log_weights.shape[0]
    sums = [log_weights.new_empty(rows, dtype=torch.float64) for _ in range(2)]
    return log_weights.new_empty(log_weights.shape), *sums, log_weights.new_empty((rows, count), dtype=torch.int64)


def _setup(ctx, inputs, output):
    ctx.save_for_backward(inputs[0])
    ctx.mark_non_differentiable(output[-1])


def _backward(ctx, weights_grad, ess_grad, mean_grad, _):
    """Through the softmax; the ancestors are piecewise constant."""
    (log_weights,) = ctx.saved_tensors
    w = log_weights.double().softmax(1)
    grad = w.new_zeros(w.shape)
    if weights_grad is not None:
        grad = grad + w * (weights_grad - (weights_grad * w).sum(1, keepdim=True))
    if ess_grad is not None:
        squares = (w * w).sum(1, keepdim=True)
        grad = grad - 2 * (ess_grad[:, None] / (squares * squares)) * w * (w - squares)
    if mean_grad is not None:
        grad = grad + mean_grad[:, None] * w
    return grad.to(log_weights.dtype), None, None, None, None


_operator = operators.operator(
    "resample(Tensor log_weights, str scheme, SymInt count, int[] key, Tensor? samples)"
    " -> (Tensor, Tensor, Tensor, Tensor)",
    _from_operator,
    _fake,
    setup=_setup,
    backward=_backward,
)
catalogue.describe(
    "resample",
    formula="a_j = min{i : w_0 + ... + w_i > u_j}, w = softmax(l), 1 / sum w^2, log mean exp(l); N to M particles",
    moved="N (2 s) + 8 M, read again for every pass over the weights",
    differentiable="log_weights (not through the ancestors)",
    benchmark="resample.py",
    rows=[f"resample {scheme} 1x1000000" for scheme in RESAMPLING_SCHEMES[:4]],
)
