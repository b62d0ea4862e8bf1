"""How large an error is: tolerances, and norms of a sample's error over them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
from torch import Tensor

from ...errors import ArgumentError, ShapeError, UnknownNameError
from ...kernels.runge_kutta import prepared_rk_step

Norm = Callable[[Tensor], Tensor]


def rms(ratio: Tensor) -> Tensor:
    """Root of the mean square of each row."""
    flat = ratio.flatten(1).to(torch.float64)
    return flat.square().mean(1).sqrt() if flat.shape[1] else flat.new_zeros(flat.shape[0])


def largest(ratio: Tensor) -> Tensor:
    """Largest magnitude of each row."""
    flat = ratio.flatten(1).to(torch.float64)
    return flat.abs().amax(1) if flat.shape[1] else flat.new_zeros(flat.shape[0])


NORMS: dict[str, Norm] = {"rms": rms, "max": largest}


@dataclass(frozen=True, eq=False)
class Tolerance:
    r"""Error ratio :math:`r_b = \| e_b / (\mathrm{atol} + \mathrm{rtol} \max(|x_b|, |x'_b|)) \|`; at most 1 passes.

    Attributes:
        rtol, atol: Numbers, or tensors that broadcast against the state [B, *D].
        norm: "rms" (the default), "max", or a function of the quotient [b, *D] returning [b].

    """

    rtol: float | Tensor
    atol: float | Tensor
    norm: str | Norm = "rms"

    @property
    def plain(self) -> bool:
        """Whether `rk_step` computes this ratio: two numbers and the root mean square."""
        return self.norm == "rms" and not isinstance(self.rtol, Tensor) and not isinstance(self.atol, Tensor)

    def ratio(self, error: Tensor, x: Tensor, new: Tensor) -> np.ndarray:
        """Error ratios as float64 [b] on the host; NaN where the new state is not finite. One host read."""
        wide = torch.float64 if x.dtype == torch.float64 else torch.float32
        norm = NORMS[self.norm] if isinstance(self.norm, str) else self.norm
        quotient = error.to(wide) / self.scale(torch.maximum(x.abs(), new.abs()).to(wide)) + (new - new).to(wide)
        result = norm(quotient)
        if result.shape != x.shape[:1]:
            raise ShapeError("norm", got=list(result.shape), expected=f"{list(x.shape[:1])}, a number for each sample")
        return result.detach().to(torch.float64).cpu().numpy()

    def sizes(self, x: Tensor, values: Sequence[Tensor], rows: tuple[tuple[float, ...], ...]) -> np.ndarray:
        """Norms of sums of tensors over the tolerance at x, float64 [len(rows), b] on the host.

        Args:
            x: State [b, *D].
            values: Tensors like it.
            rows: Of each sum, a weight for each tensor.

        """
        if self.plain:  # in one pass, and one host read
            rtol, atol = float(self.rtol), float(self.atol)
            one, none, unused = torch.ones(1, dtype=torch.float64), (0.0,) * len(values), torch.empty_like(x)
            return prepared_rk_step(x, values, one, none, rows, rtol, atol, unused).cpu().numpy().T
        sums = [sum(w * value for w, value in zip(row, values, strict=True) if w) for row in rows]
        return np.stack([self.ratio(cast(Tensor, total), x, x) for total in sums])

    def scale(self, size: Tensor) -> Tensor:
        """``atol + rtol size``, at least the smallest normal number."""
        return (self.atol + self.rtol * size).clamp(min=torch.finfo(size.dtype).tiny)

    def rows(self, index: Tensor, samples: int, dims: int) -> Tolerance:
        """The tolerances of some of ``samples`` samples of states with ``dims`` dimensions."""
        if not isinstance(self.rtol, Tensor) and not isinstance(self.atol, Tensor):
            return self

        def gather(value: float | Tensor) -> float | Tensor:
            if isinstance(value, Tensor) and value.ndim == dims and value.shape[0] == samples:
                return value.index_select(0, index.to(value.device))
            return value

        return replace(self, rtol=gather(self.rtol), atol=gather(self.atol))


def tolerance(rtol: float | Tensor, atol: float | Tensor, norm: str | Norm, x: Tensor) -> Tolerance:
    """Checked tolerances for a state like x.

    Raises:
        ArgumentError: Negative, not finite, both zero, or finer than the state's dtype can resolve.
        ShapeError: A tensor that does not broadcast against x.
        UnknownNameError: No norm has that name.

    """
    if isinstance(norm, str) and norm not in NORMS:
        expected = f"one of {', '.join(NORMS)}, or a function"
        raise UnknownNameError("norm", got=repr(norm), expected=expected)
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    checked, least = [], []
    for name, value in (("rtol", rtol), ("atol", atol)):
        if isinstance(value, Tensor) and value.ndim > 0:
            try:
                fits = torch.broadcast_shapes(value.shape, x.shape) == x.shape
            except RuntimeError:
                fits = False
            if not fits:
                raise ShapeError(name, got=list(value.shape), expected=f"a shape that broadcasts to {list(x.shape)}")
            value = value.detach().to(device=x.device, dtype=wide)
            low, high = (float(value.amin()), float(value.amax())) if value.numel() else (1.0, 1.0)
        else:
            value = low = high = float(value)
        if not (low >= 0 and high < math.inf):
            raise ArgumentError(
                name, got=low if low < 0 or low != low else high, expected="finite numbers of at least 0"
            )
        checked.append(value)
        least.append(low)
    if least[0] == 0 and least[1] == 0:
        raise ArgumentError("atol", got="0, and rtol too", expected="a tolerance above 0")
    finest = 100 * torch.finfo(x.dtype).eps
    if least[1] == 0 and least[0] < finest:
        hint = "Use a float64 state" if x.dtype != torch.float64 else None
        expected = f"at least {finest:.1e} without atol: {x.dtype} resolves no more"
        raise ArgumentError("rtol", got=least[0], expected=expected, hint=hint)
    return Tolerance(checked[0], checked[1], norm)
