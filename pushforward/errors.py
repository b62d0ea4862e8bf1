"""The exceptions of the library: each names the argument, what came, what was expected, and often what to do."""

from __future__ import annotations


class PushforwardError(Exception):
    """Base of every exception raised by the library.

    The message reads ``argument: got X, expected Y. hint``; the parts stay available as attributes.
    """

    def __init__(self, argument: str, *, got: object = None, expected: object = None, hint: str | None = None) -> None:
        self.argument, self.got, self.expected, self.hint = argument, got, expected, hint
        said = {"got": got, "expected": expected}
        parts = [f"{word} {value}" for word, value in said.items() if value is not None]
        message = argument + (": " + ", ".join(parts) if parts else "")
        super().__init__(f"{message}. {hint}" if hint else message)


class ArgumentError(PushforwardError, ValueError):
    """A value outside its range, or arguments that contradict each other."""


class UnknownNameError(ArgumentError):
    """A solver, grid, backend, model or quantity of that name is not registered; the message lists those that are."""


class ShapeError(ArgumentError):
    """A tensor of the wrong shape."""


class DtypeError(PushforwardError, TypeError):
    """A tensor of the wrong dtype, or tensors whose dtypes differ; nothing is cast silently."""


class DeviceError(ArgumentError):
    """Tensors on different devices, or an operation that no backend offers on this device."""


class GridError(ArgumentError):
    """A time grid that is not finite, not strictly monotone, or outside the interpolant's range."""


class PlanError(ArgumentError):
    """A plan that is not well formed, or an operation that its stage does not allow."""


class TableauError(ArgumentError):
    """Runge-Kutta coefficients that miss an order condition."""


class BackendError(PushforwardError, RuntimeError):
    """A backend that was asked for by name is not available here, or cannot do what was asked."""


class MissingDependencyError(PushforwardError, ImportError):
    """An optional library that is not installed; the message says how to install it."""


class CorruptFileError(PushforwardError, RuntimeError):
    """A file that is not what was written: its checksum differs, or it is cut off."""


class CheckpointError(ArgumentError):
    """A checkpoint of another run than the one that should go on from it; the message says what differs."""


class SingularTimeError(ArgumentError):
    """A quantity that the prediction does not determine at this time: a division by alpha = 0 or sigma = 0."""

    def __init__(self, argument: str, *, got: object, because: str, hint: str | None = None) -> None:
        super().__init__(argument, got=got, expected=f"another time, since {because}", hint=hint)


class BudgetError(ArgumentError):
    """A budget that cannot pay for what a search needs at least, or that would be exceeded; says how much is needed."""


class DistributedError(PushforwardError, RuntimeError):
    """Another process of a distributed run failed, does not answer, or disagrees about what is computed.

    Carries the ``ranks`` at fault, where they are known.
    """

    ranks: tuple[int, ...] = ()


class IntegrationError(PushforwardError, RuntimeError):
    """An adaptive run that did not arrive: the step became too small, or too many were needed.

    Carries ``step``, ``t`` and ``x`` of the first sample that failed, and the whole ``solution``.
    """

    step: int | None = None
    t: float | None = None
    x: object = None
    solution: object = None


class NotFiniteError(PushforwardError, FloatingPointError):
    """NaN or infinity where a number was expected.

    Raised by a run, it carries ``step``, ``t``, the first ``row`` of the batch that is concerned, the network's input
    ``x`` and the last good ``state``; by an adaptive one, the ``solution`` too.
    """

    step: int | None = None
    t: float | None = None
    row: int | None = None
    x: object = None
    state: object = None
    solution: object = None
