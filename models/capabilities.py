"""What some models cannot do, refused in words before anything runs."""

from __future__ import annotations

from enum import IntEnum

from ..errors import ArgumentError


class Remembers(IntEnum):
    """What a model's answers depend on besides state, time and condition; of several parts, the most counts.

    Attributes:
        NOTHING: Any call may be made alone, with any rows.
        ROWS: Earlier calls of the run, in the place of something that is a function of state and time (features that
            are reused, an update that is carried on). All calls of a run bring the same rows in the same order.
        FEEDBACK: Earlier answers, which the network is told: besides, there is no differential equation, and so no
            inverse and no likelihood.
    """

    NOTHING = 0
    ROWS = 1
    FEEDBACK = 2


def check_rows_may_move(model: object) -> None:
    """Refuse a model that remembers its rows, where particles change places and calls are split.

    Args:
        model: Anything; what has no ``remembers`` remembers nothing.

    Raises:
        ArgumentError: Its answers depend on earlier calls.
    """
    if getattr(model, "remembers", Remembers.NOTHING) > Remembers.NOTHING:
        got = f"{type(model).__name__}, whose answers depend on earlier calls"
        expected = "one that answers each call for itself: particles change places, and calls are split"
        raise ArgumentError("model", got=got, expected=expected)


def check_no_memory(model: object, wanted: str) -> None:
    """Refuse a model that is told its earlier answers, where an ordinary differential equation is needed.

    Args:
        model: Anything; what has no ``remembers`` remembers nothing.
        wanted: What was asked for: "inversion", "a likelihood".

    Raises:
        ArgumentError: The model feeds back what it answers.
    """
    if getattr(model, "remembers", Remembers.NOTHING) is Remembers.FEEDBACK:
        because = "this network feeds back its own estimate: what it returns is no function of x and t"
        raise ArgumentError(wanted, got=because, expected="a model without memory: it is not defined for this one")


def check_transform(transform: object, model: object) -> None:
    """Ask a transform whether it is one for this model, if it has an opinion: a method ``check_model(model)``.

    Raises:
        ArgumentError: It is not; says why.
    """
    opinion = getattr(transform, "check_model", None)
    if opinion is not None:
        opinion(model)


def check_source_is_noise(prediction: object, wanted: str) -> None:
    """Refuse a flow that starts from data, where Gaussian noise is needed.

    Args:
        prediction: Of the model; what has no ``source_is_noise`` starts from noise.
        wanted: What was asked for: "score", "a stochastic solver".

    Raises:
        ArgumentError: The source is not noise.
    """
    if not getattr(prediction, "source_is_noise", True):
        because = "this flow starts from encoded data, not noise: its velocity defines no score"
        raise ArgumentError(wanted, got=because, expected="a flow from Gaussian noise", hint="Use an ODE solver")
