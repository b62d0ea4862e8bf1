"""Ensembles of small systems in Triton: a user's function inlined into the adaptive loop of every trajectory.

A right-hand side is a ``@triton.jit`` function ``f(t, y, p)``: t is a block of times, y a tuple of blocks, one a
component, p a tuple of parameters (blocks, or numbers that all trajectories share); it returns the slopes as a tuple.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..device import on_device_of
from ._static import StaticCase

BLOCK, OPTIONS = 128, {"num_warps": 4}
# `settings` are start, end, direction, rtol, the least step and its share of the power of two below the time, the
# largest step; three exponents of error norms, the order, safety, the smallest and the largest factor.
# Tuples grow by addition: Triton's language has no unpacking.
LIVE, STEP_TOO_SMALL, NOT_FINITE, TOO_MANY_STEPS = (tl.constexpr(code) for code in (-1, 2, 3, 4))
MOST_NOT_FINITE = tl.constexpr(40)


@triton.jit
def weighted(ks, WEIGHTS: tl.constexpr, FIRST: tl.constexpr, COUNT: tl.constexpr, i):
    """``sum_j WEIGHTS[FIRST + j] k_j[i]`` over the first COUNT stages."""
    total = ks[0][i] * tl.full((), WEIGHTS[FIRST], tl.float64)
    for j in tl.static_range(1, COUNT):
        if WEIGHTS[FIRST + j] != 0:
            total += ks[j][i] * tl.full((), WEIGHTS[FIRST + j], tl.float64)
    return total


@triton.jit
def finite(x):
    """Whether it is neither infinite nor NaN."""
    return tl.abs(x) < float("inf")


@triton.jit
def power(x, exponent):
    """``x ** exponent`` for positive x."""
    return tl.exp(tl.log(x) * exponent)


@triton.jit
def at(pointer, number):
    """One of the settings."""
    return tl.load(pointer + number)


@triton.jit
def parameters(params, id, live, PARAMETERS: tl.constexpr, COUNT: tl.constexpr, SHARED: tl.constexpr):
    """Those of the trajectories ``id``, as a tuple."""
    if SHARED:
        p = [tl.load(params + j) for j in PARAMETERS]
    else:
        p = [tl.load(params + id * COUNT + j, live, 0) for j in PARAMETERS]
    return p


@triton.jit(do_not_specialize=["batch"])
def start_kernel(
    y0, params, atol, settings, slopes, sizes, batch: tl.int64,
    RHS: tl.constexpr, COMPONENTS: tl.constexpr, PARAMETERS: tl.constexpr, SHARED: tl.constexpr,
    GUESS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """First slopes [B, d], and lengths of first steps (Hairer, Norsett and Wanner 1993, II.4) where GUESS.

    Args:
        y0: States [B, d].
        params: [p], or [B, p].
        atol: [d].
        settings: See the module.
        slopes: Where they go.
        sizes: Where the lengths go; NaN where state or slope are not finite.
        batch: B.
        RHS: The right-hand side.
        COMPONENTS: 0, ..., d - 1.
        PARAMETERS: 0, ..., p - 1.
        SHARED: Whether all trajectories share the parameters.
        GUESS: False if ``sizes`` are given.
        BLOCK: Trajectories of a program.
    """
    D: tl.constexpr = len(COMPONENTS)
    id = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    live = id < batch
    start, end, direction, rtol, order = (
        at(settings, 0), at(settings, 1), at(settings, 2), at(settings, 3), at(settings, 10),
    )  # fmt: skip
    t = tl.zeros((BLOCK,), tl.float64) + start
    p = parameters(params, id, live, PARAMETERS, len(PARAMETERS), SHARED)
    y = [tl.load(y0 + id * D + i, live, 0) for i in COMPONENTS]
    k = RHS(t, y, p)
    scale = [tl.maximum(tl.load(atol + i) + rtol * tl.abs(y[i]), 2.3e-308) for i in COMPONENTS]
    good = live
    d0, d1 = tl.zeros((BLOCK,), tl.float64), tl.zeros((BLOCK,), tl.float64)
    for i in tl.static_range(D):
        good &= finite(y[i]) & finite(k[i])
        d0 += (y[i] / scale[i]) * (y[i] / scale[i])
        d1 += (k[i] / scale[i]) * (k[i] / scale[i])
        tl.store(slopes + id * D + i, k[i], live)
    if GUESS:
        longest = (end - start) * direction
        d0, d1 = tl.sqrt(d0 / D), tl.sqrt(d1 / D)
        tiny = (d0 < 1e-5) | (d1 < 1e-5)
        probe = tl.minimum(tl.where(tiny, 1e-6, 0.01 * d0 / tl.where(tiny, 1.0, d1)), longest)
        there = RHS(t + direction * probe, [y[i] + direction * probe * k[i] for i in COMPONENTS], p)
        d2 = tl.zeros((BLOCK,), tl.float64)
        for i in tl.static_range(D):
            d2 += ((there[i] - k[i]) / scale[i]) * ((there[i] - k[i]) / scale[i])
        curve = tl.sqrt(d2 / D) / probe
        most = tl.where(curve > d1, curve, d1)
        flat = most <= 1e-15
        chosen = power(0.01 / tl.where(flat, 1.0, tl.maximum(most, 1e-300)), 1.0 / order)
        h = tl.minimum(100 * probe, tl.where(flat, tl.maximum(1e-6, 1e-3 * probe), chosen))
        h = tl.minimum(tl.where(finite(most), h, probe), longest)
    else:
        h = tl.load(sizes + id, live, 0)
    tl.store(sizes + id, tl.where(good, h, float("nan")), live)


@triton.jit(do_not_specialize=["batch", "count", "max_steps"])
def ensemble_kernel(
    y0, params, atol, settings, slopes, sizes, times, queue, out, final, reached, status, accepted, rejected,
    batch: tl.int64, count, max_steps,
    RHS: tl.constexpr, A: tl.constexpr, C: tl.constexpr, E: tl.constexpr, DENSE: tl.constexpr,
    COMPONENTS: tl.constexpr, PARAMETERS: tl.constexpr, SHARED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Integrate trajectories from the queue, a lane each, until there are none.

    Args:
        y0: As in `start_kernel`, like ``params``, ``atol``, ``settings``, ``slopes``, ``sizes`` and ``batch``.
        params: See ``y0``.
        atol: See ``y0``.
        settings: See ``y0``.
        slopes: What `start_kernel` made.
        sizes: What `start_kernel` made.
        times: [T].
        queue: One number: the first trajectory that nobody has taken.
        out: States [T, B, d].
        final: Last states [B, d].
        reached: Their times [B].
        status: int64 [B].
        accepted: int64 [B].
        rejected: int64 [B].
        batch: B.
        count: T.
        max_steps: Attempts of a trajectory.
        RHS: The right-hand side.
        A: S rows of S weights, one after the other, the last for the new state.
        C: Nodes.
        E: Weights of the error.
        DENSE: S rows of four coefficients.
        COMPONENTS: See `start_kernel`.
        PARAMETERS: See `start_kernel`.
        SHARED: See `start_kernel`.
        BLOCK: Lanes of a program.
    """
    D: tl.constexpr = len(COMPONENTS)
    S: tl.constexpr = len(C)
    start, end, direction, rtol = at(settings, 0), at(settings, 1), at(settings, 2), at(settings, 3)
    least_step, least_share, max_step = at(settings, 4), at(settings, 5), at(settings, 6)
    b1, b2, b3, order = at(settings, 7), at(settings, 8), at(settings, 9), at(settings, 10)
    safety, smallest, largest = at(settings, 11), at(settings, 12), at(settings, 13)
    zero, whole = tl.zeros((BLOCK,), tl.float64), tl.zeros((BLOCK,), tl.int64)

    id = tl.atomic_add(queue + whole, whole + 1)
    live = id < batch
    y = [tl.load(y0 + id * D + i, live, 0) for i in COMPONENTS]
    k = [tl.load(slopes + id * D + i, live, 0) for i in COMPONENTS]
    p = parameters(params, id, live, PARAMETERS, len(PARAMETERS), SHARED)
    size = tl.load(sizes + id, live, 0)
    t, last, earlier, bound = zero + start, zero + 1, zero + 1, zero + largest
    yes, no, index, bad = whole, whole, whole + 1, whole
    while tl.max(live.to(tl.int32), 0) > 0:
        hopeless = live & ~finite(size)  # state or slope were not finite at the start
        left, wanted = (end - t) * direction, tl.minimum(tl.where(hopeless, 0.0, size), max_step)
        taken = tl.where(left <= wanted * 1.01, tl.where(left > max_step, 0.5 * left, left), wanted)
        h = taken * direction
        ks = [k]
        point = y
        for s in tl.static_range(1, S):
            point = [y[i] + h * weighted(ks, A, s * S, s, i) for i in COMPONENTS]
            ks = ks + [RHS(t + h * tl.full((), C[s], tl.float64), point, p)]  # noqa: RUF005
        square, sound = zero, live
        for i in tl.static_range(D):
            magnitude = tl.maximum(tl.abs(y[i]), tl.abs(point[i]))
            tolerance = tl.maximum(tl.load(atol + i) + rtol * magnitude, 2.3e-308)
            ratio = h * weighted(ks, E, 0, S, i) / tolerance
            square += ratio * ratio
            sound &= finite(point[i])
        square = square / D
        sound &= finite(square) & ~hopeless
        accept = sound & (square <= 1)
        norm = tl.sqrt(tl.minimum(tl.maximum(tl.where(sound, square, 1.0), 1e-20), 1e20))
        grown = tl.minimum(safety * power(norm, -b1) * power(last, -b2) * power(earlier, -b3), bound)
        grown = tl.minimum(tl.maximum(grown, smallest), largest)
        shrunk = tl.maximum(tl.minimum(safety * power(norm, -1 / order), safety), smallest)
        size = taken * tl.where(accept, grown, tl.where(sound, shrunk, 0.5))
        earlier, last = tl.where(accept, last, earlier), tl.where(accept, norm, last)
        bound = tl.where(accept, largest, 1.0)
        yes += accept.to(tl.int64)
        no += (live & ~accept & ~hopeless).to(tl.int64)
        bad = tl.where(sound, 0, bad + 1)

        arrived = left <= taken
        after = tl.where(accept, tl.where(arrived, end, t + h), t)
        if count > 2:
            due = accept & (index < count - 1)
            due &= arrived | ((after - tl.load(times + index, due, 0)) * direction >= 0)
            while tl.max(due.to(tl.int32), 0) > 0:
                theta = (tl.load(times + index, due, 0) - t) / tl.where(due, h, 1.0)
                for i in tl.static_range(D):
                    total = zero
                    for j in tl.static_range(S):
                        weight = tl.full((), DENSE[4 * j + 3], tl.float64) * theta
                        weight = (weight + tl.full((), DENSE[4 * j + 2], tl.float64)) * theta
                        weight = (weight + tl.full((), DENSE[4 * j + 1], tl.float64)) * theta
                        weight = (weight + tl.full((), DENSE[4 * j], tl.float64)) * theta
                        total += weight * ks[j][i]
                    tl.store(out + (index * batch + id) * D + i, y[i] + h * total, due)
                index += due.to(tl.int64)
                due &= index < count - 1
                due &= arrived | ((after - tl.load(times + index, due, 0)) * direction >= 0)
        y = [tl.where(accept, point[i], y[i]) for i in COMPONENTS]
        k = [tl.where(accept, ks[S - 1][i], k[i]) for i in COMPONENTS]
        bits = t.to(tl.int64, bitcast=True) & 0x7FF0000000000000  # the power of two below the time
        least = tl.maximum(bits.to(tl.float64, bitcast=True) * least_share, least_step)
        t = after

        stuck = ~accept & ((bad >= MOST_NOT_FINITE) | (size < least))
        code = tl.where(yes + no >= max_steps, TOO_MANY_STEPS, LIVE)
        code = tl.where(t == end, 0, code)
        code = tl.where(stuck, tl.where(bad > 0, NOT_FINITE, STEP_TOO_SMALL), code)
        code = tl.where(hopeless, NOT_FINITE, code)
        ended = live & (code >= 0)
        if tl.max(ended.to(tl.int32), 0) > 0:
            for i in tl.static_range(D):
                tl.store(final + id * D + i, y[i], ended)
                tl.store(out + ((count - 1) * batch + id) * D + i, y[i], ended & (code == 0))
            tl.store(reached + id, t, ended)
            tl.store(status + id, code.to(tl.int64), ended)
            tl.store(accepted + id, yes, ended)
            tl.store(rejected + id, no, ended)
            # the next trajectories into their lanes
            id = tl.where(ended, tl.atomic_add(queue + whole, whole + 1, ended), id)
            fresh = ended & (id < batch)
            live = (live & ~ended) | fresh
            y = [tl.where(fresh, tl.load(y0 + id * D + i, fresh, 0), y[i]) for i in COMPONENTS]
            k = [tl.where(fresh, tl.load(slopes + id * D + i, fresh, 0), k[i]) for i in COMPONENTS]
            if not SHARED:
                p = parameters(params, id, live, PARAMETERS, len(PARAMETERS), SHARED)
            size = tl.where(fresh, tl.load(sizes + id, fresh, 0), tl.where(live, size, 0.0))
            t, bound = tl.where(fresh, start, t), tl.where(fresh, largest, bound)
            last, earlier = tl.where(fresh, 1.0, last), tl.where(fresh, 1.0, earlier)
            yes, no, bad = tl.where(fresh, 0, yes), tl.where(fresh, 0, no), tl.where(fresh, 0, bad)
            index = tl.where(fresh, 1, index)


def solve(
    rhs: Any, y0: Tensor, params: Tensor, tableau: tuple[tuple[float, ...], ...], atol: Tensor, settings: Tensor,
    times: Tensor, first_step: float | None, max_steps: int, results: dict[str, Tensor],
) -> None:  # fmt: skip
    """Two launches: first slopes and steps, then everything else.

    Args:
        rhs: The right-hand side.
        y0: [B, d], contiguous, like all tensors.
        params: [p] or [B, p].
        tableau: A, C, E and DENSE, see `ensemble_kernel`.
        atol: [d].
        settings: See the module.
        times: [T].
        first_step: None: chosen for each trajectory.
        max_steps: Attempts of a trajectory.
        results: out (NaN where nothing is written), final, reached, status, accepted, rejected.
    """
    batch, dim = y0.shape
    slopes, sizes = torch.empty_like(y0), y0.new_full((batch,), first_step or 0.0)
    queue = torch.zeros(1, dtype=torch.int64, device=y0.device)
    common = {
        "RHS": rhs,
        "COMPONENTS": tuple(range(dim)),
        "PARAMETERS": tuple(range(params.shape[-1])),
        "SHARED": params.ndim == 1,
        "BLOCK": BLOCK,
    }
    given = (y0, params, atol, settings, slopes, sizes)
    names = ("A", "C", "E", "DENSE")
    with on_device_of(y0):
        programs = triton.cdiv(batch, BLOCK)
        start_kernel[(programs,)](*given, batch, GUESS=first_step is None, **common, **OPTIONS)
        if y0.is_cuda:  # as many lanes as run at a time; the rest wait in the queue
            programs = min(programs, 8 * torch.cuda.get_device_properties(y0.device).multi_processor_count)
        else:
            programs = min(programs, 2)
        ensemble_kernel[(programs,)](
            *given, times, queue, *results.values(), batch, len(times), max_steps,
            **dict(zip(names, tableau, strict=True)), **common, **OPTIONS,
        )  # fmt: skip


@triton.jit
def van_der_pol(t, y, p):
    """``y0' = y1, y1' = mu (1 - y0^2) y1 - y0``."""
    return y[1], p[0] * (1 - y[0] * y[0]) * y[1] - y[0]


@triton.jit
def lorenz(t, y, p):
    """``y' = sigma (y1 - y0), y0 (rho - y2) - y1, y0 y1 - beta y2``."""
    return p[0] * (y[1] - y[0]), y[0] * (p[1] - y[2]) - y[1], y[0] * y[1] - p[2] * y[2]


@triton.jit
def linear(t, y, p):
    """``y' = A y``, A by rows."""
    D: tl.constexpr = len(y)
    dy = [product(p, y, 0, D)]
    for i in tl.static_range(1, D):
        dy = dy + [product(p, y, i, D)]  # noqa: RUF005
    return dy


@triton.jit
def product(p, y, i: tl.constexpr, D: tl.constexpr):
    """Row i of A times y."""
    total = p[i * D] * y[0]
    for j in tl.static_range(1, D):
        total += p[i * D + j] * y[j]
    return total


@triton.jit
def mixture(t, y, p):
    """Velocity of the linear path to a Gaussian mixture; p: K, log weights, means, variances."""
    D: tl.constexpr = len(y)
    K: tl.constexpr = (len(p) - 1) // (1 + 2 * D)
    s = 1 - t
    most = log_density(t, s, y, p, 0, D, K)
    for j in tl.static_range(1, K):
        most = tl.maximum(most, log_density(t, s, y, p, j, D, K))
    total = tl.zeros_like(t)
    for j in tl.static_range(K):
        total += tl.exp(log_density(t, s, y, p, j, D, K) - most)
    dy = [component(t, s, y, p, most, total, 0, D, K)]
    for i in tl.static_range(1, D):
        dy = dy + [component(t, s, y, p, most, total, i, D, K)]  # noqa: RUF005
    return dy


@triton.jit
def log_density(t, s, y, p, j: tl.constexpr, D: tl.constexpr, K: tl.constexpr):
    """Of component j, weighted, up to a constant."""
    total = tl.zeros_like(t) + p[1 + j]
    for i in tl.static_range(D):
        v = t * t * p[1 + K + (K + j) * D + i] + s * s
        z = y[i] - t * p[1 + K + j * D + i]
        total -= 0.5 * (tl.log(v) + z * z / v)
    return total


@triton.jit
def component(t, s, y, p, most, total, i: tl.constexpr, D: tl.constexpr, K: tl.constexpr):
    """Of the velocity."""
    velocity = tl.zeros_like(t)
    for j in tl.static_range(K):
        m, c = p[1 + K + j * D + i], p[1 + K + (K + j) * D + i]
        share = tl.exp(log_density(t, s, y, p, j, D, K) - most) / total
        velocity += share * (m + (t * c - s) / (t * t * c + s * s) * (y[i] - t * m))
    return velocity


def static_cases() -> list[StaticCase]:
    """Both kernels for Van der Pol's oscillator; the loop for Lorenz's system, with parameters of each trajectory."""
    real, whole = "*fp64", "*i64"
    stages = 7
    numbers = {
        "A": tuple(0.1 + 0.01 * j for j in range(stages * stages)),
        "C": tuple(j / (stages - 1) for j in range(stages)),
        "E": tuple(0.1 - 0.01 * j for j in range(stages)),
        "DENSE": tuple(0.1 + 0.01 * j for j in range(4 * stages)),
    }
    given = dict.fromkeys(("y0", "params", "atol", "settings", "slopes", "sizes"), real)
    loop = dict.fromkeys(("out", "final", "reached"), real) | dict.fromkeys(("status", "accepted", "rejected"), whole)
    loop = given | {"times": real, "queue": whole} | loop | {"batch": "i64", "count": "i32", "max_steps": "i32"}
    cases = []
    for name, rhs, dim, count, shared in (("van der pol", van_der_pol, 2, 1, True), ("lorenz", lorenz, 3, 3, False)):
        common = {
            "RHS": rhs,
            "COMPONENTS": tuple(range(dim)),
            "PARAMETERS": tuple(range(count)),
            "SHARED": shared,
            "BLOCK": BLOCK,
        }
        for kernel, what, signature, constants in (
            (ensemble_kernel, "steps", loop, numbers | common),
            (start_kernel, "start", given | {"batch": "i64"}, common | {"GUESS": True}),
        ):
            cases.append(
                StaticCase(
                    name=f"ensemble {name}, {what}",
                    kernel=kernel,
                    signature=signature | dict.fromkeys(constants, "constexpr"),
                    constants=constants,
                    aligned=tuple(key for key, kind in signature.items() if kind.startswith("*")),
                    elements=BLOCK,
                    minimum=None,  # trajectories come from a queue
                    wide=False,  # a component of a state is one number of 64 bits
                    options=OPTIONS,
                    quick=name == "van der pol" and what == "start",
                )
            )
    return cases
