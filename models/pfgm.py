r"""PFGM++: networks whose noise is that of D augmented dimensions, a Student law that tends to the Gaussian.

A point charge in n + D dimensions has, on the cylinder of radius r around the data, the field lines' law
:math:`p_r(x | y) \propto (|x - y|^2 + r^2)^{-(n + D)/2}`. That is the multivariate Student law with D degrees of
freedom and scale r / sqrt(D), so with the alignment :math:`r = \nu \sqrt D`

.. math:: x = y + \nu \, z \sqrt{D / \chi^2_D}, \quad z \sim N(0, I_n)

with one chi-square for the whole sample. D = 1 is PFGM, D = infinity is EDM; the ODE is EDM's, with another denoiser.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from scipy.special import gammaincinv
from torch import Tensor

from ..errors import ArgumentError
from ..kernels import PURPOSE_INITIAL, Draw, normal, uniform
from .adapter import Model
from .predictions import Affine, Prediction, Target

CHI_SQUARE = Draw(PURPOSE_INITIAL, 0, stage=1)


def check_dimensions(dimensions: float) -> float:
    """``dimensions`` as a float, if it is a number of augmented dimensions."""
    if isinstance(dimensions, bool) or not isinstance(dimensions, int | float) or not dimensions >= 1:
        expected = "a number, at least 1 (1 is PFGM, math.inf is EDM)"
        raise ArgumentError("dimensions", got=repr(dimensions), expected=expected)
    return float(dimensions)


def student_factors(dimensions: float, rows: int, *, seed: int, samples: Tensor | None = None) -> Tensor:
    r"""``sqrt(D / chi^2_D)`` for each row, float64 [rows]; ones at D = infinity.

    A quantile of the Gamma law at one uniform a sample: the same alone or in any batch, and for every D from the same
    uniform, so that samples are continuous in D.
    """
    if math.isinf(dimensions):
        return torch.ones(rows, dtype=torch.float64)
    levels = uniform((rows, 1), seed=seed, draw=CHI_SQUARE, samples=samples, dtype=torch.float64)
    half_chi_square = torch.from_numpy(gammaincinv(dimensions / 2, levels[:, 0].cpu().numpy()))
    return (dimensions / 2 / half_chi_square).sqrt()


def spread_rows(noise: Tensor, dimensions: float, *, seed: int, samples: Tensor | None = None) -> Tensor:
    """Normals [B, *D] into Student variates, in place: one factor a row."""
    factors = student_factors(dimensions, noise.shape[0], seed=seed, samples=samples)
    return noise.mul_(factors.to(noise.device, noise.dtype).reshape(-1, *[1] * (noise.ndim - 1)))


@dataclass(frozen=True)
class PFGMNoise:
    """The noise of PFGM++ with D augmented dimensions, as a perturbation of data and as the start of a run.

    Args:
        dimensions: D, at least 1; ``math.inf`` gives Gaussian noise.

    Raises:
        ArgumentError: D is below 1 or not a number.

    Source:
        Xu et al. 2023, PFGM++, equations 4 and 7. The Beta variate of their algorithm is clipped in the released code,
        which changes the tails for small D; ours is not.

    Example:
        >>> noise = PFGMNoise(128)
        >>> noise.perturb(torch.zeros(2, 3), 0.5, seed=1).shape
        torch.Size([2, 3])
        >>> round(noise.radius(0.5), 4)
        5.6569

    """

    dimensions: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "dimensions", check_dimensions(self.dimensions))

    def radius(self, nu: float) -> float:
        """``r = nu sqrt(D)``: hyperparameters in EDM's noise level carry over to every D."""
        return nu * math.sqrt(self.dimensions)

    def noise(
        self,
        shape: tuple[int, ...],
        *,
        seed: int,
        samples: Tensor | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """Variates of scale one, shape [B, *D]; sample i of a seed is always the same.

        The covariance is D / (D - 2) times the identity for D above 2, and infinite below.
        """
        draw = Draw(PURPOSE_INITIAL, 0)
        z = normal(shape, seed=seed, draw=draw, samples=samples, dtype=dtype, device=device)
        return spread_rows(z, self.dimensions, seed=seed, samples=samples)

    def perturb(self, data: Tensor, nu: float | Tensor, *, seed: int, samples: Tensor | None = None) -> Tensor:
        """``y + nu * noise``: training inputs at noise level nu, a number or [B]; shape and dtype of ``data``."""
        z = self.noise(tuple(data.shape), seed=seed, samples=samples, dtype=data.dtype, device=data.device)
        if isinstance(nu, Tensor):
            nu = nu.to(data.device, data.dtype).reshape(-1, *[1] * (data.ndim - 1))
        return data + nu * z


@dataclass(frozen=True)
class PFGMPrediction(Prediction):
    """A network trained with the noise of PFGM++, read as ``inner`` says; made by :func:`pfgm`.

    D, n and v follow as for any network. The score does not: the gradient of the Student law's logarithm is not -n /
    sigma. So solvers that use it, or that add Gaussian noise, are refused.

    Args:
        interpolant, network_time: Those of ``inner``.
        inner: How to read the network, on the path it was trained on.
        dimensions: D, at least 1.

    Source:
        Xu et al. 2023, PFGM++.

    """

    inner: Prediction = None  # type: ignore[assignment]  # never defaulted: follows fields that are
    dimensions: float = math.inf  # type: ignore[misc]  # a constant of other predictions

    kind: ClassVar[str] = "pfgm"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "dimensions", check_dimensions(self.dimensions))

    def target(self, t: float) -> Target:
        """That of ``inner``."""
        return self.inner.target(t)

    def input_scale(self, t: float) -> float:
        """That of ``inner``."""
        return self.inner.input_scale(t)

    def denoised(self, t: float) -> Affine:
        """That of ``inner``."""
        return self.inner.denoised(t)

    def noise(self, t: float) -> Affine:
        """That of ``inner``: ``(x - alpha D) / sigma``, the direction of the field line."""
        return self.inner.noise(t)

    def velocity(self, t: float) -> Affine:
        """That of ``inner``."""
        return self.inner.velocity(t)


def pfgm(model: Model, dimensions: float) -> Model:
    """The model as one that was trained with the noise of D augmented dimensions; its runs start from that noise.

    Args:
        model: Any model, usually of EDM's preconditioning on the path "edm".
        dimensions: D of its training, at least 1; CIFAR-10 networks of the paper have 128 and 2048.

    Raises:
        ArgumentError: D is below 1, or the model has been given one already.

    Source:
        Xu et al. 2023, PFGM++: Unlocking the potential of physics-inspired generative models.

    Example:
        >>> from pushforward.models import adapt
        >>> pfgm(adapt(lambda x, t: -x, "edm", "edm"), 2048).prediction.dimensions
        2048.0

    """
    if math.isfinite(model.prediction.dimensions):
        raise ArgumentError("model", got=f"one with dimensions={model.prediction.dimensions:g}", expected="one without")
    inner = model.prediction
    read = PFGMPrediction(inner.interpolant, inner.network_time, inner=inner, dimensions=dimensions)
    return model.reading(read)
