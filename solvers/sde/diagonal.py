r"""SDEs whose noise depends on the state, element by element: :math:`dX = f(X, t)\, dt + g(X, t) \odot dW` (Ito).

No combination of a plan can hold such a step: it multiplies noise by a tensor that is not known before the run, and
coefficients are numbers. (The exception is a scale that the network says beside its prediction: DDPM's learned
variance.) So these integrators work on tensors. The SDEs of flow and diffusion models are not of this kind: their noise
scale is a function of time alone, Milstein's method is then Euler-Maruyama, and the solvers of strong order 1.5 are
plans.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

from torch import Tensor

from ...errors import ArgumentError, GridError, ShapeError, UnknownNameError
from ...kernels import PURPOSE_DIFFUSION, Draw, normal

Field: TypeAlias = Callable[[Tensor, float], Tensor]
Step: TypeAlias = Callable[[Field, Field, Tensor, float, float, Tensor], Tensor]


def euler_step(f: Field, g: Field, x: Tensor, t: float, h: float, w: Tensor) -> Tensor:
    """``x + h f + g w``: strong order 1/2, weak order 1 (Maruyama 1955)."""
    return x + h * f(x, t) + g(x, t) * w


def milstein_step(f: Field, g: Field, x: Tensor, t: float, h: float, w: Tensor) -> Tensor:
    r"""Strong order 1, without a derivative: :math:`g g_x` is a difference of g over its own root-mean-square noise.

    .. math:: x' = x + h f + g W + \frac{g(\hat x) - g(x)}{2 \sqrt h} (W^2 - h), \quad \hat x = x + h f + g \sqrt h

    Source: Milstein 1975, Theory Probab. Appl. 19(3); Kloeden & Platen 1992, equation 11.1.3.
    """
    drift, scale = h * f(x, t), g(x, t)
    support = g(x + drift + scale * math.sqrt(h), t)
    return x + drift + scale * w + (support - scale) * (w * w - h) / (2 * math.sqrt(h))


def platen_step(f: Field, g: Field, x: Tensor, t: float, h: float, w: Tensor) -> Tensor:
    r"""Platen's explicit method of weak order 2, for noise that does not depend explicitly on time.

    .. math:: x' = x + \tfrac h2 [f(y) + f] + \tfrac14 [g(x^+) + g(x^-) + 2 g] W
        + \tfrac{1}{4 \sqrt h} [g(x^+) - g(x^-)] (W^2 - h), \quad y = x + h f + g W, \; x^\pm = x + h f \pm g \sqrt h

    Drift and noise are taken at the ends of the step where they depend on time: f at t and t + h, g at its middle.
    Where every element of g sees its own element alone, the terms of the method that mix noises vanish.

    Source: Kloeden & Platen 1992, equation 15.1.3.
    """
    middle, root = t + 0.5 * h, math.sqrt(h)
    drift, scale = h * f(x, t), g(x, middle)
    above, below = g(x + drift + scale * root, middle), g(x + drift - scale * root, middle)
    end = f(x + drift + scale * w, t + h)
    spread = 0.25 * (above + below + 2 * scale) * w + 0.25 * (above - below) * (w * w - h) / root
    return x + 0.5 * (drift + h * end) + spread


METHODS: dict[str, Step] = {"euler_maruyama": euler_step, "milstein": milstein_step, "platen": platen_step}


def integrate_diagonal(
    drift: Field,
    diffusion: Field,
    x0: Tensor,
    times: Sequence[float],
    *,
    method: str = "milstein",
    seed: int = 0,
    samples: Tensor | None = None,
    increments: Callable[[int], Tensor] | None = None,
) -> Tensor:
    r"""Integrate the Ito SDE :math:`dX = f(X, t)\, dt + g(X, t) \odot dW` with element-wise noise.

    Args:
        drift: f(x, t), of the shape of x.
        diffusion: g(x, t), of the shape of x; each element may depend on its own element of x alone. Anything else
            needs Levy areas, which no method here draws.
        x0: State at ``times[0]``, shape [B, *D], floating point.
        times: Strictly increasing.
        method: "euler_maruyama" (strong order 1/2, weak 1), "milstein" (strong 1, weak 1) or "platen" (weak 2).
        seed, samples: Key of the noise, as in :func:`pushforward.sample`: sample i is the same in any batch.
        increments: Brownian increments of step i, of the shape of x0, instead of fresh ones: to follow a given path.

    Returns:
        The state at ``times[-1]``.

    Raises:
        UnknownNameError: No method has that name.
        GridError: Fewer than two times, or times that do not increase.
        ArgumentError, ShapeError: x0 is not floating point; f, g or an increment is of another shape.

    Example:
        >>> x = torch.ones(2, 1, dtype=torch.float64)
        >>> integrate_diagonal(lambda x, t: 0.1 * x, lambda x, t: 0 * x, x, [0.0, 0.5, 1.0])
        tensor([[1.1025],
                [1.1025]], dtype=torch.float64)

    """
    if method not in METHODS:
        raise UnknownNameError("method", got=repr(method), expected=f"one of {', '.join(METHODS)}")
    if not x0.is_floating_point() or x0.ndim < 1:
        raise ArgumentError("x0", got=f"{x0.dtype} {list(x0.shape)}", expected="a floating-point tensor [B, *D]")
    if len(times) < 2 or any(not b > a for a, b in itertools.pairwise(times)):
        raise GridError("times", got=list(times), expected="at least two strictly increasing times")
    x, step = x0, METHODS[method]
    for index, (t, t_next) in enumerate(itertools.pairwise(times)):
        h = t_next - t
        if increments is None:
            draw = Draw(PURPOSE_DIFFUSION, index)
            z = normal(tuple(x.shape), seed=seed, draw=draw, samples=samples, dtype=x.dtype, device=x.device)
            w = math.sqrt(h) * z
        else:
            w = increments(index)
        x = step(drift, diffusion, x, t, h, w)
        if x.shape != x0.shape:
            hint = "The drift, the diffusion and the increments have the state's shape"
            raise ShapeError(f"state after step {index}", got=list(x.shape), expected=list(x0.shape), hint=hint)
    return x
