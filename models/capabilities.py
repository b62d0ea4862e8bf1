"""What some models cannot do, refused in words before anything runs."""

from __future__ import annotations

from ..errors import ArgumentError


def check_no_memory(model: object, wanted: str) -> None:
    """Refuse a model whose answers depend on earlier ones, where an ordinary differential equation is needed.

    Args:
        model: Anything; what has no ``has_memory`` has none.
        wanted: What was asked for: "inversion", "a likelihood".

    Raises:
        ArgumentError: The model has a memory.
    """
    if getattr(model, "has_memory", False):
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
