"""The symbols that ``FixedGridSolver.step`` writes its formula with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ...errors import PlanError, SingularTimeError
from ...kernels import PURPOSE_DIFFUSION, Draw
from ...models import Interpolant, Prediction
from ...models import prediction as make_prediction
from ...models.bound import VARIANCE
from .expression import Expression, combine_of
from .instructions import SCALED_NORMAL, Boundary, Evaluate, Instruction, Register, Transform


@dataclass
class Evaluation:
    """One network call: where it happens, and the registers of the quantities that were asked of it."""

    input: Register
    time: float
    position: int
    base: Register | None = None
    outs: dict[str, Register] = field(default_factory=dict)
    transformed: Register | None = None


class StepBuilder:
    """What a solver's ``step`` sees: symbols for the state, the times, and the network's predictions.

    Attributes:
        x: The state at ``t``, an :class:`Expression`.
        index, steps: Which step this is, from 0, and how many there are; after a restart, of what follows it.
        grid: Their times; ``t`` and ``t_next`` are those at the ends of this step, ``h = t_next - t``. Integrating
            from data to noise, ``h`` is negative and nothing else changes.
        alpha, sigma, lam, alpha_next, sigma_next, lam_next, lam_last: The interpolant at ``t``, at ``t_next``, and
            ``lam`` one step earlier; ``lam`` is the half log-SNR, infinite at a singular end.

    """

    def __init__(
        self,
        interpolant: Interpolant,
        grid: Sequence[float],
        prediction: Prediction,
        transform: str | None = None,
        *,
        evaluate_clean: bool = False,
    ) -> None:
        self.interpolant, self.grid, self.prediction, self.transform = interpolant, tuple(grid), prediction, transform
        self.evaluate_clean = evaluate_clean or prediction.kind == "velocity" or bool(prediction.heads)
        self.steps = len(self.grid) - 1
        self._origin = 0
        self.instructions: list[Instruction] = []
        self.blocks: list[tuple[str, int]] = []
        self._registers = 1
        self._remembered: list[tuple[Expression, ...]] = []
        self._begin(0, Expression.register(0))

    def _begin(self, index: int, x: Expression) -> None:
        self.index, self.x = index, x
        self._evaluations: dict[tuple[Expression, float, Expression | None], Evaluation] = {}
        self._stage = 0
        self.advanced = False

    @property
    def step(self) -> int:
        """Which step of the whole run this is, whatever was forgotten."""
        return self._origin + self.index

    def restart(self) -> None:
        """Forget earlier steps: from here on this is the first step of a run over the rest of the grid."""
        self._origin, self.grid = self.step, self.grid[self.index :]
        self.steps = len(self.grid) - 1
        self._remembered.clear()
        self._begin(0, self.x)

    # --- times -------------------------------------------------------------------------------------------------

    @property
    def t(self) -> float:
        """Time at the start of the step."""
        return self.grid[self.index]

    @property
    def t_next(self) -> float:
        """Time at the end of the step."""
        return self.grid[self.index + 1]

    @property
    def h(self) -> float:
        """Step size ``t_next - t``; negative from data to noise."""
        return self.t_next - self.t

    def time(self, fraction: float) -> float:
        """``t + fraction * h``; a fraction of 1 gives exactly ``t_next``, since an ulp past an end is outside it."""
        return self.t_next if fraction == 1 else self.t + fraction * self.h

    @property
    def alpha(self) -> float:
        """Data scale at ``t``."""
        return self.interpolant.alpha(self.t)

    @property
    def sigma(self) -> float:
        """Noise scale at ``t``."""
        return self.interpolant.sigma(self.t)

    @property
    def lam(self) -> float:
        """Half log-SNR at ``t``."""
        return self.interpolant.half_log_snr(self.t)

    @property
    def alpha_next(self) -> float:
        """Data scale at ``t_next``."""
        return self.interpolant.alpha(self.t_next)

    @property
    def sigma_next(self) -> float:
        """Noise scale at ``t_next``."""
        return self.interpolant.sigma(self.t_next)

    @property
    def lam_next(self) -> float:
        """Half log-SNR at ``t_next``."""
        return self.interpolant.half_log_snr(self.t_next)

    @property
    def lam_last(self) -> float:
        """Half log-SNR one step before ``t``."""
        return self.interpolant.half_log_snr(self.grid[self.index - 1])

    # --- predictions -------------------------------------------------------------------------------------------

    def velocity(self, x: Expression, t: float, base: Expression | None = None) -> Expression:
        """``v(x, t) = E[dx_t/dt | x_t = x]``. Asking for several quantities at one point runs the network once.

        With ``base``, an earlier velocity, a refiner is asked how it has changed, and not the network.
        """
        return self._quantity("velocity", x, t, base)

    def denoised(self, x: Expression, t: float) -> Expression:
        """``D(x, t) = E[x_1 | x_t = x]``."""
        return self._quantity("denoised", x, t)

    def noise_prediction(self, x: Expression, t: float) -> Expression:
        """``n(x, t) = E[x_0 | x_t = x]``."""
        return self._quantity("noise", x, t)

    def score(self, x: Expression, t: float) -> Expression:
        """``s(x, t) = -n(x, t) / sigma(t)``."""
        return self._quantity("score", x, t)

    def variance(self, x: Expression, t: float) -> Expression:
        """What the network says of the variance beside its prediction at (x, t): the half that other solvers drop.

        Networks without one, and models around models, refuse when they are called.
        """
        return Expression.register(self._output(VARIANCE, self._evaluation(x, t)))

    def evaluable(self, quantity: str, t: float) -> bool:
        """Whether the network determines the quantity at ``t``; false at a singular end."""
        try:
            self._check_evaluable(quantity, t)
        except SingularTimeError:
            return False
        return True

    def _check_evaluable(self, quantity: str, t: float) -> None:
        if not self.evaluate_clean and self.interpolant.sigma(t) == 0:
            because = f"a network that predicts {self.prediction.kind} has seen no clean data (sigma = 0)"
            raise SingularTimeError("t", got=t, because=because)
        if self.transform is None:
            self.prediction.quantity(quantity, t)
        else:  # the transform acts on the clean estimate, and the quantity follows from what it returns
            self.prediction.quantity("denoised", t)
            self._from_denoised(quantity, t)

    def _from_denoised(self, quantity: str, t: float) -> tuple[float, float]:
        return make_prediction("denoised", self.interpolant).quantity(quantity, t)

    def _quantity(self, quantity: str, x: Expression, t: float, base: Expression | None = None) -> Expression:
        self._check_evaluable(quantity, t)
        evaluation = self._evaluation(x, t, base)
        if self.transform is None:
            return Expression.register(self._output(quantity, evaluation))
        weight_x, weight_denoised = self._from_denoised(quantity, t)
        return weight_x * Expression.register(evaluation.input) + weight_denoised * Expression.register(
            self._transformed(evaluation)
        )

    def _evaluation(self, x: Expression, t: float, base: Expression | None = None) -> Evaluation:
        if (x, t, base) not in self._evaluations:
            source, earlier = self._materialise(x), None if base is None else self._materialise(base)
            self.instructions.append(Evaluate((), (), source, t, self.step, earlier))
            self._evaluations[x, t, base] = Evaluation(source, t, len(self.instructions) - 1, earlier)
        return self._evaluations[x, t, base]

    def _output(self, quantity: str, evaluation: Evaluation) -> Register:
        if quantity not in evaluation.outs:
            evaluation.outs[quantity] = self._new()
            self.instructions[evaluation.position] = Evaluate(
                tuple(evaluation.outs.values()),
                tuple(evaluation.outs),
                evaluation.input,
                evaluation.time,
                self.step,
                evaluation.base,
            )
        return evaluation.outs[quantity]

    def _transformed(self, evaluation: Evaluation) -> Register:
        if evaluation.transformed is None:
            source, out = self._output("denoised", evaluation), self._new()
            assert self.transform is not None
            self.instructions.append(Transform(out, source, self.transform, evaluation.time, self.step))
            evaluation.transformed = out
        return evaluation.transformed

    # --- names, noise, memory, the end of the step -------------------------------------------------------------

    def block(self, name: str) -> None:
        """Call this step one of a block; consecutive steps of one name are one block, and a plan prints its blocks."""
        if not self.blocks or self.blocks[-1][0] != name:
            self.blocks.append((name, self.step))

    def normal(self) -> Expression:
        """Fresh standard normal noise; the same expression used twice is the same noise."""
        return Expression({self._draw(): 1.0})

    def scaled_normal(self, log_scale: Expression) -> Expression:
        """Fresh normal noise times ``exp(log_scale)``, element by element."""
        source, out = self._materialise(log_scale), self._new()
        self.instructions.append(Transform(out, source, SCALED_NORMAL, self.t, self.step, self._draw()))
        return Expression.register(out)

    def _draw(self) -> Draw:
        self._stage += 1
        return Draw(PURPOSE_DIFFUSION, self.step, self._stage - 1)

    def history(self, k: int, item: int = 0) -> Expression:
        """What the step ``k`` steps ago passed to ``advance(remember=...)``; ``k = 1`` is the last one.

        ``item`` picks one of several quantities that the step remembered.
        """
        if not 1 <= k <= len(self._remembered):
            raise PlanError("history", got=k, expected=f"1 to {len(self._remembered)}, the steps remembered so far")
        kept = self._remembered[-k]
        if not 0 <= item < len(kept):
            raise PlanError("item", got=item, expected=f"0 to {len(kept) - 1}, what that step remembered")
        return kept[item]

    @property
    def remembered(self) -> int:
        """How many steps can be asked of :meth:`history`."""
        return len(self._remembered)

    def advance(self, x: Expression, remember: Expression | tuple[Expression, ...] | None = None) -> None:
        """End the step: ``x`` is the state at ``t_next``; ``remember``, one or several, is kept for :meth:`history`."""
        if self.advanced:
            raise PlanError("advance", got="a second call in one step", expected="one")
        state = self._materialise(x, force=True)
        if remember is not None:
            kept = remember if isinstance(remember, tuple) else (remember,)
            self._remembered.append(tuple([Expression.register(self._materialise(value)) for value in kept]))
        self.instructions.append(Boundary(self.step, self.t_next, state))
        self.advanced = True
        self.state = state

    def store(self, x: Expression) -> Expression:
        """``x`` as one tensor: what follows in a long step then reads it, and not all that it was made of."""
        return Expression.register(self._materialise(x))

    def _materialise(self, x: Expression, *, force: bool = False) -> Register:
        if x.single is not None and not force:
            return x.single
        out = self._new()
        self.instructions.append(combine_of([out], [x]))
        return out

    def _new(self) -> Register:
        self._registers += 1
        return self._registers - 1

    def snapshot(self) -> tuple[int, int, int, int]:
        """What :meth:`rollback` needs to undo the current step."""
        return len(self.instructions), self._registers, len(self._remembered), len(self.blocks)

    def rollback(self, snapshot: tuple[int, int, int, int]) -> None:
        """Forget everything written since the snapshot, which must be of this step's beginning."""
        instructions, self._registers, remembered, blocks = snapshot
        del self.instructions[instructions:], self._remembered[remembered:], self.blocks[blocks:]
        self._begin(self.index, self.x)

    def next_step(self) -> None:
        """Go on to the following step."""
        self._begin(self.index + 1, Expression.register(self.state))


def denoising_step(s: StepBuilder) -> None:
    r"""The step that both singular ends allow, since it divides by nothing: ``x' = alpha' D + sigma' n``.

    At sigma' = 0 it returns the clean estimate, at alpha' = 0 the noise estimate; on the linear interpolant it is
    Euler's step. Order 1 (Song et al. 2021, DDIM with eta = 0). Two-sided paths have no such estimates: there it is
    Euler's step in the velocity.
    """
    if not s.interpolant.one_sided:
        s.advance(s.x + s.h * s.velocity(s.x, s.t))
        return
    x = 0.0 * s.x
    if s.alpha_next != 0:
        x = x + s.alpha_next * s.denoised(s.x, s.t)
    if s.sigma_next != 0:
        x = x + s.sigma_next * s.noise_prediction(s.x, s.t)
    s.advance(x)
