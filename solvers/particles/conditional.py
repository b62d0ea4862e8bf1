"""Conditional sequential Monte Carlo: a Markov kernel on whole trajectories, for particle Gibbs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from ... import kernels
from ...errors import ArgumentError, DtypeError, NotFiniteError, ShapeError

Propose: TypeAlias = Callable[[int, Tensor, Tensor], Tensor]
"""``propose(k, x, ids)``: one draw of :math:`M_k(\\cdot | x)` for rows [R, *D], with the noise of sample ids [R]."""
LogPotential: TypeAlias = Callable[[int, Tensor, Tensor | None], Tensor]
"""``log_potential(k, x, last)``: :math:`\\log G_k(x_{k-1}, x_k)` of rows, [R]; ``last`` is None for k = 0."""
LogDensity: TypeAlias = Callable[[int, Tensor, Tensor], Tensor]
"""``log_density(k, x, new)``: :math:`\\log M_k(x_{k+1} | x_k)` of rows, [R], up to a constant."""


@dataclass(frozen=True)
class FeynmanKac:
    r"""A Markov chain with potentials: trajectories have the law :math:`\propto M(x_{0:K}) \prod_k G_k(x_{k-1}, x_k)`.

    Attributes:
        steps: K.
        start: ``start(ids)``: draws of x_0, [R, *D], with the noise of sample ids [R].
        propose: ``propose(k, x, ids)``: draws of x_{k+1} given x_k.
        log_potential: ``log_potential(k, x, last)``, k = 0 ... K. Functions of a particle's path, never of the others:
            adaptive tempering has no such potentials.
        log_density: ``log_density(k, x, new)``, for ancestor sampling only; of a step of a sampler:
            :meth:`..particles.Transition.log_density`.

    """

    steps: int
    start: Callable[[Tensor], Tensor]
    propose: Propose
    log_potential: LogPotential
    log_density: LogDensity | None = None

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ArgumentError("steps", got=self.steps, expected="at least 1")


def conditional_smc(
    chain: FeynmanKac,
    reference: Tensor,
    particles: int,
    *,
    seed: int,
    sweep: int = 0,
    scheme: str = "multinomial",
    ancestor_sampling: bool = False,
) -> Tensor:
    r"""A sweep of particle Gibbs: new trajectories, given old ones, by a kernel that leaves the target invariant.

    Slot 0 of every population holds the reference, whose states are weighed again. The others draw their ancestors from
    the weights at every step, independently; at the end one slot is drawn from the weights, and its path is returned.
    Exact for any number of particles from 2 on; more of them make it forget the reference faster.

    With ancestor sampling the reference draws an ancestor too, from
    :math:`w_i M_k(x^*_{k+1} | x^{(i)}_k)\, G_{k+1}(x^{(i)}_k, x^*_{k+1})`, so that early states change with few
    particles.

    Args:
        chain: What to sample from.
        reference: S independent trajectories, [S, K + 1, *D].
        particles: N, at least 2, the reference included.
        seed: Of all noise.
        sweep: Number of the sweep, in [0, 2**16): each has noise of its own.
        scheme: "multinomial". In the form above no other scheme leaves the target invariant.
        ancestor_sampling: Whether the reference draws its ancestors.

    Returns:
        [S, K + 1, *D], the paths drawn.

    Raises:
        ArgumentError: Fewer than 2 particles, another scheme, ancestor sampling without a density, a sweep outside its
            range.
        ShapeError, DtypeError: A reference, states or weights of another kind.
        NotFiniteError: Log-weights with NaN or +inf, or nothing but -inf; names the step.

    Source:
        Andrieu, Doucet and Holenstein 2010, Particle Markov chain Monte Carlo methods, section 4.3; Lindsten, Jordan
        and Schon 2014, Particle Gibbs with ancestor sampling.

    Example:
        >>> from pushforward.kernels import Draw, normal
        >>> def noise(ids, k):
        ...     return normal((len(ids), 1), seed=1, draw=Draw(kernels.PURPOSE_DIFFUSION, k), samples=ids)
        >>> walk = FeynmanKac(2, lambda ids: noise(ids, 0), lambda k, x, ids: x + noise(ids, k + 1),
        ...                   lambda k, x, last: -(x[:, 0] - k) ** 2)
        >>> conditional_smc(walk, torch.zeros(5, 3, 1), particles=4, seed=0).shape
        torch.Size([5, 3, 1])
    """
    check(chain, reference, particles, sweep, scheme, ancestor_sampling)
    requests, n = len(reference), particles
    ids = (torch.arange(requests)[:, None] << 32) + sweep * 2**16 + torch.arange(n)  # slot 0's noise is never used
    every = torch.arange(requests)[:, None]

    def pinned(rows: Tensor, k: int) -> Tensor:
        """Populations [S, N, *D] with the reference in slot 0."""
        if rows.shape != (requests * n, *reference.shape[2:]):
            raise ShapeError(f"states at step {k}", got=list(rows.shape), expected=[requests * n, *reference.shape[2:]])
        table = rows.reshape(requests, n, *rows.shape[1:]).clone()
        table[:, 0] = reference[:, k]
        return table

    def weighed(k: int, x: Tensor, last: Tensor | None) -> Tensor:
        """Log-weights [S, N]."""
        given = chain.log_potential(k, x.flatten(0, 1), None if last is None else last.flatten(0, 1))
        if given.shape != (requests * n,):
            raise ShapeError(f"log-potentials at step {k}", got=list(given.shape), expected=[requests * n])
        return given.detach().to("cpu", torch.float64).reshape(requests, n)

    def drawn(weights: Tensor, k: int, count: int, purpose: int) -> Tensor:
        """Independent draws of slots from the weights, [S, count]."""
        draw = kernels.Draw(purpose, k, attempt=sweep)
        try:
            found = kernels.resample(weights, "multinomial", seed=seed, draw=draw, count=count)
        except NotFiniteError as error:
            raise NotFiniteError(f"log-weights at step {k}", got=error.got, expected=error.expected) from error
        return found.ancestors

    x = pinned(chain.start(ids.reshape(-1)), 0)
    states, ancestors = [x], []
    weights = weighed(0, x, None)
    for k in range(chain.steps):
        others = drawn(weights, k, n - 1, kernels.PURPOSE_RESAMPLING)
        own = torch.zeros(requests, 1, dtype=torch.int64)
        if ancestor_sampling:
            assert chain.log_density is not None, "checked"
            new = reference[:, k + 1].repeat_interleave(n, 0)
            density = chain.log_density(k, x.flatten(0, 1), new).to("cpu", torch.float64).reshape(requests, n)
            joined = density + weighed(k + 1, new.reshape(x.shape), x)
            own = drawn(weights + joined, k, 1, kernels.PURPOSE_CATEGORICAL)
        ancestors.append(torch.cat([own, others], 1))
        last = x[every, ancestors[-1]]
        x = pinned(chain.propose(k, last.flatten(0, 1), ids.reshape(-1)), k + 1)
        states.append(x)
        weights = weighed(k + 1, x, last)
    slot = drawn(weights, chain.steps, 1, kernels.PURPOSE_CATEGORICAL)
    path = [states[-1][every, slot][:, 0]]
    for population, parents in zip(reversed(states[:-1]), reversed(ancestors), strict=True):
        slot = parents.gather(1, slot)
        path.append(population[every, slot][:, 0])
    return torch.stack(path[::-1], 1)


def check(
    chain: FeynmanKac, reference: Tensor, particles: int, sweep: int, scheme: str, ancestor_sampling: bool
) -> None:
    """Raise for arguments that :func:`conditional_smc` does not take."""
    if isinstance(particles, bool) or not isinstance(particles, int) or particles < 2:
        expected = "an integer, at least 2: the reference and another"
        raise ArgumentError("particles", got=repr(particles), expected=expected)
    if particles > 2**16:
        raise ArgumentError("particles", got=particles, expected="at most 2**16, of which each has noise of its own")
    if not 0 <= sweep < 2**16:
        raise ArgumentError("sweep", got=sweep, expected="a number in [0, 2**16)")
    if scheme != "multinomial":
        hint = "Other schemes would have to be drawn given that the reference survives"
        raise ArgumentError("scheme", got=repr(scheme), expected="'multinomial'", hint=hint)
    if ancestor_sampling and chain.log_density is None:
        raise ArgumentError("ancestor_sampling", got=True, expected="a chain with log_density")
    if not reference.is_floating_point():
        raise DtypeError("reference", got=reference.dtype, expected="a floating-point dtype")
    if reference.ndim < 2 or reference.shape[1] != chain.steps + 1:
        raise ShapeError("reference", got=list(reference.shape), expected=f"[S, {chain.steps + 1}, *D]")
