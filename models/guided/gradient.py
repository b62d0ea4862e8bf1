"""Gradient guidance: classifiers, energies and reconstruction losses, for networks of any kind."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ...errors import ArgumentError
from ..adapter import check_mapping
from ..bound import Bound, Times
from ..branch_weights import CONDITIONAL, finite
from ..interpolants import Interpolant, equal_noise
from ..trees import root, tree_map
from ..window import Window
from .gradient_model import DENOISER, ESTIMATE, STATE, GradientModel, per_denoised

KINDS = (STATE, DENOISER, ESTIMATE)


@dataclass(frozen=True, eq=False)
class GradientGuidance(GradientModel):
    r"""Samples of :math:`p(x_1)\, p(y | x_1)^\gamma`-like targets, by the gradient g of a log-likelihood.

    With :math:`s \leftarrow s + \gamma g`, every quantity gains

    .. math:: n: -\gamma \sigma g, \quad D: \gamma \frac{\sigma^2}{\alpha} g, \quad
        v: \gamma \frac{W \sigma}{\alpha} g, \quad o: -\gamma \frac{\sigma \Delta}{\alpha} g

    for a network that regresses on :math:`p\, x_1 + q\, x_0`, :math:`\Delta = \alpha q - \sigma p`; so the run is the
    same whatever the network returns. The kinds of g:

    - "state": a classifier or an energy that knows noise, :math:`\nabla_x \log p_t(y | x)`, on ``path``: of states on
      another it sees the multiple with the same noise ratio. The network is not differentiated. Works beside
      ``guidance=`` of the run.
    - "denoiser": :math:`\nabla_x \log p(y | D(x, t))`, through the network.
    - "estimate": the clean estimate itself is moved, :math:`D \leftarrow D + \gamma \nabla_D \log p(y | D)`, and the
      network is not differentiated.

    Make one with ``GradientGuidance.around(model, log_likelihood=..., scale=...)``. Around :func:`guided` or in a run
    with ``guidance=`` the two add up: first the weights, then g.

    An evaluation costs one backward pass, and none where the scale is 0; there the model's own output is returned, bit
    for bit. So it is where alpha is 0, since the factor diverges while exact gradients vanish, and where sigma is 0.
    Nothing is accumulated in parameters. Where autograd records the run, the
    correction is differentiated too. Exact likelihoods of the guided flow are no likelihoods of the target.

    With ``normalised`` a sample's g, by its state or for "estimate" by its D, is divided by its Euclidean norm:
    the scale is then the length of the move, whatever the classifier's confidence. It is no score of anything.

    Attributes:
        log_likelihood: Function of (point, t, **given) returning [B]: point is the state, or the clean estimate; t is a
            float, or a float64 array [B] on the host where rows have times of their own.
        scale: :math:`\gamma`, a number or a function of t.
        kind: "state", "denoiser" or "estimate".
        observed: Further arguments of the function, tensors of batch B or 1, such as labels; searches reorder them with
            the samples.
        conditioned: Whether the run's condition is among its arguments, with a row for each sample.
        window: Where it acts; None: everywhere. Exact gradients vanish like alpha where alpha does; learned ones do
            not, and are multiplied by sigma / alpha.
        path: Of the states that a log-likelihood of kind "state" knows; by default the model's, and kept where the
            model is put on another.
        normalised: Whether g has norm 1 in each sample, over all its elements.

    Raises:
        ArgumentError: An unknown kind, a scale that is not finite, a path for another kind; when called, a
            log-likelihood that does not depend on the point.
        ShapeError: When called, a log-likelihood that is not [B].
        NotFiniteError: When called, a gradient that is not finite (looked for on the CPU alone; elsewhere runs find it
            in the output).

    Source:
        Dhariwal & Nichol 2021, Song et al. 2021 (classifiers); Chung et al. 2023 (through the denoiser); He et al.
        2024, Manifold preserving guided diffusion (on the estimate).

    Example:
        >>> import torch
        >>> from pushforward.models import GaussianOracle
        >>> towards_one = lambda x, t: -0.5 * (x - 1).square().sum(1)
        >>> model = GradientGuidance.around(GaussianOracle().model(), log_likelihood=towards_one, kind="state")
        >>> model.evaluate(torch.ones(2, 3), 0.5)[0].shape
        torch.Size([2, 3])
    """

    log_likelihood: Callable[..., Tensor] = dataclasses.field(default=None, kw_only=True)  # type: ignore[assignment]
    scale: float | Callable[[float], float] = dataclasses.field(default=1.0, kw_only=True)
    kind: str = dataclasses.field(default=DENOISER, kw_only=True)
    observed: Mapping[str, Any] | None = dataclasses.field(default=None, kw_only=True)
    conditioned: bool = dataclasses.field(default=False, kw_only=True)
    window: Window | None = dataclasses.field(default=None, kw_only=True)
    path: Interpolant | None = dataclasses.field(default=None, kw_only=True)
    normalised: bool = dataclasses.field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        if not callable(self.log_likelihood):
            got = type(self.log_likelihood).__name__
            raise ArgumentError("log_likelihood", got=got, expected="a function of (point, t) returning [B]")
        if self.kind not in KINDS:
            raise ArgumentError("kind", got=repr(self.kind), expected="one of " + ", ".join(KINDS))
        if not callable(self.scale):
            finite(self.scale, "scale")
        if self.observed is not None:
            check_mapping("observed", self.observed)
        if self.path is None and self.kind == STATE:
            object.__setattr__(self, "path", self.interpolant)
        elif self.path is not None and self.kind != STATE:
            expected = "none: what looks at clean estimates knows no path"
            raise ArgumentError("path", got=self.path, expected=expected, hint=f"kind={STATE!r} looks at states")

    @property
    def differentiates(self) -> str:
        """The kind."""
        return self.kind

    @property
    def of_unit_norm(self) -> bool:
        """As ``normalised`` says."""
        return self.normalised

    @property
    def given(self) -> Mapping[str, Any]:
        """What the log-likelihood is given besides."""
        return self.observed or {}

    def scale_at(self, t: float) -> float:
        """The scale at ``t``.

        Raises:
            ArgumentError: The function returned NaN or infinity.
        """
        return finite(self.scale(t), f"scale at t = {t:.4g}") if callable(self.scale) else float(self.scale)

    def factor(self, t: float) -> float:
        """See :meth:`GradientModel.factor`."""
        a, s, _, _ = self.prediction.interpolant(t)
        if a == 0 or s == 0 or (self.window is not None and not self.window.contains(t, self.interpolant)):
            return 0.0
        if (scale := self.scale_at(t)) == 0:
            return 0.0
        own = per_denoised(self, t)
        return scale * own if self.kind == ESTIMATE else scale * own * s * s / a

    def seen(self, t: float) -> tuple[float, float]:
        """See :meth:`GradientModel.seen`: where ``path`` has the same noise ratio.

        Raises:
            SingularTimeError: It never has.
        """
        if self.path in (None, self.interpolant) or self.factor(t) == 0:
            return t, 1.0
        return equal_noise(self.interpolant, t, self.path)

    def told(self, bound: Bound, rows: int, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """See :meth:`GradientModel.told`."""
        if not self.conditioned:
            return given

        def row_each(path: str, leaf: Any) -> Any:
            alone = not isinstance(leaf, Tensor) or leaf.ndim == 0 or root(path) in self.shared
            return leaf if alone else leaf.expand(rows, *leaf.shape[1:])

        return {**tree_map(row_each, dict(bound.conditions[CONDITIONAL] or {})), **given}

    def objective(self, point: Tensor, t: Times, given: Mapping[str, Any]) -> Tensor:
        """The log-likelihood."""
        return self.log_likelihood(point, t, **given)
